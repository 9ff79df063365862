# SPDX-License-Identifier: GPL-3.0-or-later
"""The doctor does the real thing, and what it finds missing comes with its cure."""

from __future__ import annotations

import json
import subprocess

import pytest

from avne.cli import doctor
from avne.cli.doctor import report
from avne.doctor import FAILS, LIMITED, OK, Line, machine
from avne.errors import AvneError
from tests.cli.conftest import COMMAND


@pytest.fixture
def run_doctor(environ):
    def run(*options, **env):
        return subprocess.run(
            [*COMMAND, "doctor", *options],
            env={**environ, **env},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_nothing_fails_here(run_doctor):
    done = run_doctor(LC_ALL="C.UTF-8")
    assert done.returncode == 0, done.stdout
    assert "✗" not in done.stdout
    lines = done.stdout.splitlines()
    assert any(": a program" in line for line in lines)
    assert "\x1b" not in done.stdout  # no colours where it is no terminal


def test_a_locale_without_the_marks_gets_words(run_doctor):
    done = run_doctor(PYTHONIOENCODING="ascii")
    assert done.stdout.isascii()
    assert done.stdout.startswith("ok      Python")


def test_json_has_every_check_and_every_stage(run_doctor):
    rows = json.loads(run_doctor("--json").stdout)
    assert {*doctor.CHECKS} <= {row["name"] for row in rows}
    assert "root: seccomp, Landlock" in {row["name"] for row in rows}
    assert all(row["ok"] and row["state"] in ("ok", "limited") for row in rows)
    assert all(bool(row["cure"]) == (row["state"] == "limited") for row in rows)


def test_a_name_is_asked_for_only_where_that_is_wanted(run_doctor):
    rows = json.loads(run_doctor("--json", "--resolve", "good.example").stdout)
    assert rows[-1]["name"] == "a name"
    assert rows[-1]["state"] == "limited", "the upstream here is no Tor"


@pytest.mark.parametrize(
    ("env", "name", "said"),
    [
        ({"AVNE_UPSTREAM": "tor://127.0.0.1:1"}, "upstream", "cannot reach Tor at tor://127.0.0.1:1"),
        ({"AVNE_UPSTREAM": "gopher://x:1"}, "settings", "no kind of upstream 'gopher'"),
        ({"AVNE_WORKERS": "65"}, "settings", "AVNE_WORKERS cannot be '65'"),
        ({"XDG_STATE_HOME": "/proc/nowhere"}, "state directory", "cannot use /proc/nowhere/avne"),
    ],
)
def test_what_is_wrong_is_told_with_its_cure(run_doctor, env, name, said):
    done = run_doctor("--json", **env)
    assert done.returncode == 1
    (probe,) = [probe for probe in json.loads(done.stdout) if probe["name"] == name]
    assert not probe["ok"]
    assert said in probe["detail"]
    assert probe["cure"]


def test_the_report_puts_the_cure_below_its_problem(monkeypatch):
    monkeypatch.setattr(doctor, "_marks", lambda: {OK: ("+", 32), LIMITED: ("~", 33), FAILS: ("-", 31)})
    lines = [Line("one", OK, "well"), Line("second", FAILS, "bad", "do this")]
    lines.append(Line("third", LIMITED, "less", "or this"))
    assert report(lines) == (
        "+ one     well\n- second  bad\n          do this\n~ third   less\n          or this\n"
    )


def test_an_old_kernel_and_an_old_python_are_told(monkeypatch):
    monkeypatch.setattr(machine, "KERNEL", (99, 0))
    monkeypatch.setattr(machine, "PYTHON", (4, 0))
    for check in (machine.kernel, machine.python):
        with pytest.raises(AvneError, match="too old"):
            check()


def test_a_new_kernel_lacks_nothing(monkeypatch):
    monkeypatch.setattr(machine, "landlock_abi", lambda: 9)
    assert machine.kernel().endswith("Landlock ABI 9")


def test_setup_shows_its_commands_without_running_them(environ):
    def dry_run(*options):
        done = subprocess.run(
            [*COMMAND, "setup", "--dry-run", *options],
            env=environ,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.splitlines()

    assert any("4750" in line and "avne-helper" in line for line in dry_run())
    assert all(line.split()[0] in ("rm", "groupdel", "rmdir") for line in dry_run("--remove"))
