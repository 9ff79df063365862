# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line as a user meets it: whose options are whose, what a mistake says, what help shows."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from avne.cli import main as cli
from avne.cli.openings import Options
from avne.cli.run import More
from avne.config import KEYS, option, variable

ROOT = Path(__file__).parents[2]


def avne(*arguments, **environ):
    base = {name: value for name, value in os.environ.items() if not name.startswith("AVNE")}
    return subprocess.run(
        [sys.executable, "-m", "avne", *arguments],
        env={**base, "XDG_CONFIG_HOME": "/nonexistent", **environ},
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip


@pytest.fixture
def ran(monkeypatch):
    """What `avne run` was asked to do: (program, flags, more)."""
    from avne.cli import early, run

    calls = []

    def fake(*arguments):
        calls.append(arguments[:3])
        return 7

    monkeypatch.setattr(run, "run", fake)
    monkeypatch.setattr(early, "Early", object)
    return calls


@pytest.mark.parametrize(
    ("arguments", "program"),
    [
        (["wget", "-qO-", "--help", "x"], ["wget", "-qO-", "--help", "x"]),
        (["--", "wget", "-v"], ["wget", "-v"]),
        (["-v", "--", "-odd", "--", "x"], ["-odd", "--", "x"]),
        (["-q", "wget", "--", "-h"], ["wget", "--", "-h"]),
        (["--workers", "3", "true"], ["true"]),
        (["--workers=3", "env", "--workers", "4"], ["env", "--workers", "4"]),
        (["sh", "-c", "exit 3"], ["sh", "-c", "exit 3"]),
        (["--"], []),
        ([], []),
        (["-v"], []),
        (["env", "A=1", "--version"], ["env", "A=1", "--version"]),
        (["", "x"], ["", "x"]),
    ],
)
def test_what_follows_the_program_belongs_to_it(ran, arguments, program):
    assert cli.main(["run", *arguments]) == 7
    assert ran[0][0] == program


def test_every_setting_is_an_option_of_run(ran):
    cli.main(["run", "--upstream", "u", "--workers", "2", "--dns", "d", "--resolver", "r", "--helper", "h",
              "--torrc", "/t", "--log-names", "-vvv", "-q", "--capture", "c", "--receipt", "r",
              "--name", "n", "--rule", "a=b", "--rule", "c=d", "--onion-only", "--https-only",
              "--on-failure", "kill", "--isolate", "run", "--netstack", "/s",
              "--workers-at", "w", "--workers-key", "k", "--workers-allowed", "a",
              "--optimistic", "o", "true"])  # fmt: skip
    program, flags, more = ran[0]
    assert flags == {"upstream": "u", "workers": "2", "dns": "d", "resolver": "r", "helper": "h",
                     "tor.torrc": "/t", "log_names": "true", "verbose": 2, "rules": ["a=b", "c=d"],
                     "onion_only": "true", "https_only": "true", "on_failure": "kill", "isolate": "run",
                     "netstack": "/s", "workers_at": "w", "workers_key": "k",
                     "workers_allowed": "a", "optimistic": "o"}  # fmt: skip
    assert more == More(quiet=True, capture="c", name="n", receipt="r")
    assert program == ["true"]


def test_an_option_that_is_not_given_is_no_setting(ran):
    cli.main(["run", "true"])
    assert set(ran[0][1]) == set(KEYS) - {"env"}, "--env adds to the setting"
    assert set(ran[0][1].values()) == {None}
    assert ran[0][2] == More()


def test_what_opens_and_closes_holes(ran):
    cli.main(["run", "--share", "a:ro", "--share", "b", "--private-home", "--profile", "p", "--gui",
              "--strict", "--proxy-env", "--env", "A", "--env", "B", "--setenv", "C=d", "true"])  # fmt: skip
    assert ran[0][2].openings == Options(("a:ro", "b"), True, "p", True, True, ("A", "B"), ("C=d",))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run", "--foo", "true"], 125, "--foo"),
        (["run", "--upstream"], 125, "expected one argument"),
        (["run", "--work", "2", "true"], 125, "--work"),
        (["run", "--workers", "many", "true"], 125, "--workers cannot be 'many'"),
        (["run", "--helper", "sudo", "true"], 125, "It takes auto, rootless or setuid."),
        (["run", "--upstream", "gopher://x:1", "true"], 125, "there is no kind of upstream 'gopher'"),
        (["run", "--rule", "*.i2p", "true"], 125, "--rule cannot be ['*.i2p']"),
        (["run", "--rule", "*.i2p=htp://h:1", "true"], 125, "Did you mean http?"),
        (["run", "--rule", "a..b=block", "true"], 125, "the 1. rule"),
        (["run", "--rule", "*.lan=direct", "true"], 125, "--allow-direct"),
        (["run", "--upstream", "direct", "true"], 125, "--allow-direct"),
        (["rules", "test", "host", "x"], 2, "'x' is no port"),
        (["rules", "show", "host", "1"], 2, "show"),
        (["--foo"], 125, "unknown option --foo"),
        (["attach"], 125, "See: avne attach --help"),
        (["attach", "--foo", "one"], 125, "--foo"),
        (["ps", "one"], 2, "one"),
        (["stop"], 2, "See: avne stop --help"),
        (["doctor", "--foo"], 2, "--foo"),
        (["setup", "now"], 2, "now"),
        (["config", "--foo"], 2, "See: avne config --help"),
        (["help", "nothing"], 2, "nothing"),
        (["true"], 125, "Did you mean: avne run true ..."),
        (["rnu"], 125, "Did you mean: avne run\n"),
        (["qqqqqqqqqqq"], 125, "qqqqqqqqqqq is not an avne command"),
        ([], 2, "Usage: avne run"),
    ],
)
def test_wrong_usage(arguments, code, said):
    done = avne(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    if arguments:
        problem, cure = done.stderr.splitlines()
        assert problem.startswith("avne: ")
        assert cure.startswith("  ")


def test_a_bad_configuration_is_an_error_of_run_and_config():
    for command in (["run", "true"], ["config"]):
        done = avne(*command, AVNE_WORKER="2")
        assert done.returncode == 125
        assert "Did you mean AVNE_WORKERS?" in done.stderr


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_short_and_full_help_of_each_command(name):
    short, full, by_help = avne(name, "-h"), avne(name, "--help"), avne("help", name)
    assert short.returncode == full.returncode == by_help.returncode == 0
    assert len(short.stdout) < len(full.stdout)
    assert full.stdout == by_help.stdout


def test_the_short_help_has_three_examples():
    assert avne("-h").stdout.count("\n  avne run") == 3


def test_the_full_help_names_every_command():
    assert avne("--help").stdout == avne("help").stdout
    for name in cli.COMMANDS:
        assert f"\n  {name} " in avne("--help").stdout


def test_the_version_names_what_a_bug_report_needs():
    done = avne("--version")
    assert re.search(
        r"avne \S+\nPython 3\.\d+\.\S+\nlibzmq \S+ \(pyzmq \S+\)\nLinux \S+ \S+\nhelper ", done.stdout
    )


def test_config_shows_values_and_origins_without_passwords():
    environ = {"AVNE_UPSTREAM": "socks5://me:secret@127.0.0.1:1", "AVNE_LOG_NAMES": "yes"}
    done, as_json = avne("config", **environ), avne("config", "--json", **environ)
    assert "secret" not in done.stdout + as_json.stdout
    assert re.search(
        r'^upstream +"socks5://me:\*\*\*@127.0.0.1:1" +AVNE_UPSTREAM$', done.stdout, re.MULTILINE
    )
    assert re.search(r"^log_names +true +AVNE_LOG_NAMES$", done.stdout, re.MULTILINE)
    assert list(json.loads(as_json.stdout)) == list(KEYS)
    assert json.loads(as_json.stdout)["workers"] == {"value": 1, "origin": "default"}


def test_a_fault_of_ours_is_told_as_one(ran, monkeypatch, capsys):
    monkeypatch.setattr(cli, "_dispatch", lambda *_: 1 // 0)
    assert cli.main([]) == 125
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_the_manual_has_every_option_and_variable():
    manual = (ROOT / "man/avne.1").read_text().replace("\\-", "-")
    options = {"--version"}
    for name in cli.COMMANDS:
        for action in cli.parser_of(name)._actions:
            options.update(action.option_strings)
    assert {option(name) for name in KEYS} <= options
    for word in (*options, *(variable(name) for name in KEYS), *(f"avne {name}" for name in cli.COMMANDS)):
        assert re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", manual), word


def test_every_hidden_argument_is_the_program():
    hidden = [a.dest for a in cli.parser_of("run")._actions if a.help == argparse.SUPPRESS]
    assert hidden == ["program"]


def test_the_command_line_is_cheap_to_import():
    code = "import sys; bare = set(sys.modules); import avne.cli.main; print(len(set(sys.modules) - bare))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 60
