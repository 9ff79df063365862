# SPDX-License-Identifier: GPL-3.0-or-later
"""The doctor does the real thing, and what it finds missing comes with its cure."""

from __future__ import annotations

import json
import subprocess

import pytest

from avne.cli import doctor
from avne.cli.doctor import Probe, report
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


def test_all_is_well_here(run_doctor):
    done = run_doctor(LC_ALL="C.UTF-8")
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert [line[0] for line in lines] == ["✓"] * len(doctor.CHECKS)
    assert any("environment" in line and "can be made" in line for line in lines)
    assert "\x1b" not in done.stdout  # no colours where it is no terminal


def test_a_locale_without_the_marks_gets_words(run_doctor):
    done = run_doctor(PYTHONIOENCODING="ascii")
    assert done.stdout.isascii()
    assert done.stdout.startswith("ok   Python")


def test_json_has_every_probe(run_doctor):
    probes = json.loads(run_doctor("--json").stdout)
    assert [probe["name"] for probe in probes] == list(doctor.CHECKS)
    assert all(probe["ok"] for probe in probes)


@pytest.mark.parametrize(
    ("env", "name", "said"),
    [
        ({"AVNE_UPSTREAM": "tor://127.0.0.1:1"}, "upstream", "cannot reach Tor at tor://127.0.0.1:1"),
        ({"AVNE_UPSTREAM": "gopher://x:1"}, "settings", "no kind of upstream 'gopher'"),
        ({"AVNE_WORKERS": "0"}, "settings", "AVNE_WORKERS cannot be '0'"),
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
    monkeypatch.setattr(doctor, "_marks", lambda: ("+", "-"))
    text = report([Probe("one", True, "well", ""), Probe("second", False, "bad", "do this")])
    assert text == "+ one     well\n- second  bad\n          do this\n"


def test_an_old_kernel_and_an_old_python_are_told(monkeypatch):
    monkeypatch.setattr(doctor, "KERNEL", (99, 0))
    monkeypatch.setattr(doctor, "PYTHON", (4, 0))
    for check in (doctor._kernel, doctor._python):
        with pytest.raises(AvneError, match="too old"):
            check()


def test_no_tor_anywhere_names_the_command(monkeypatch):
    for name in ("AVNE_UPSTREAM", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(doctor, "find_tor", lambda: None)
    monkeypatch.setattr(doctor.shutil, "which", lambda name, path: None)
    with pytest.raises(AvneError) as error:
        doctor._upstream()
    assert error.value.cure == "sudo apt install tor"
    assert "not installed" in doctor._tor()


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
