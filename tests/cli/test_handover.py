# SPDX-License-Identifier: GPL-3.0-or-later
"""Of which programs it is said that they may have handed themselves over, and of which not."""

from __future__ import annotations

import pytest

from avne.cli.handover import AT_ONCE, KINDS, notice
from avne.netstack.account import KINDS as PACKETS

SILENT = {"packets": dict.fromkeys(PACKETS, 0)}
DISPLAY = {"DISPLAY": ":0"}


def after(*sent):
    return {"packets": {**SILENT["packets"], **dict.fromkeys(sent, 1)}}


@pytest.mark.parametrize(
    ("program", "code", "cure"),
    [
        ("firefox", 0, "try avne run --profile NAME, or its --profile DIR"),
        ("/usr/bin/firefox-esr", 1, "its --profile DIR"),
        ("thunderbird", 0, "its --profile DIR"),
        ("chromium", 21, "try its --user-data-dir=DIR"),
        ("google-chrome-stable", 0, "its --user-data-dir=DIR"),
        ("brave-browser", 0, "its --user-data-dir=DIR"),
        ("code", 0, "its --wait --user-data-dir=DIR"),
        ("gnome-terminal", 1, "try dbus-run-session gnome-terminal --wait, or xterm"),
        ("emacsclient", 1, "try emacs"),
        ("xdg-open", 0, "try the program that it opens, by its name"),
    ],
)
def test_programs_that_are_known_for_it(program, code, cure):
    said = notice([program, "x"], {}, code, 0.3, SILENT)
    assert said.startswith(f"{program.rpartition('/')[2]} ended at once, and spoke with nobody. ")
    assert said.endswith(cure)


@pytest.mark.parametrize("program", ["true", "ls", "wget", "firewalld", "sh", "encode", "codespell"])
def test_ordinary_programs_are_silent_for_their_own_reasons(program):
    assert notice([program], {}, 0, 0.0, SILENT) is None


def test_an_unknown_program_with_a_display_is_a_graphical_one():
    assert notice(["gedit"], {}, 0, 1.0, SILENT) is None
    for display in (DISPLAY, {"WAYLAND_DISPLAY": "wayland-0"}):
        assert "gedit ended at once" in notice(["gedit"], display, 0, 1.0, SILENT)
        assert notice(["gedit"], display, 1, 1.0, SILENT) is None, "it has failed, and says why itself"


@pytest.mark.parametrize("kind", PACKETS)
def test_one_that_has_spoken_has_done_its_work(kind):
    said = notice(["firefox"], {}, 0, 0.3, after(kind))
    assert (said is not None) is (kind == "multicast"), "which the kernel sends by itself"


def test_one_that_took_its_time_has_done_its_work():
    assert notice(["firefox"], {}, 0, AT_ONCE, SILENT) is None


@pytest.mark.parametrize("code", [-15, -9, 2, 125])
def test_one_that_failed_otherwise_says_why_itself(code):
    for kind in KINDS:
        assert notice([kind.names[0].replace("*", "")], DISPLAY, code, 0.3, SILENT) is None


@pytest.mark.parametrize("option", ["--version", "--help", "-V", "-h"])
def test_one_that_had_nothing_else_to_do(option):
    assert notice(["firefox", option], DISPLAY, 0, 0.1, SILENT) is None


def test_avne_says_it_once_at_the_end(run, tmp_path):
    """Real runs: one that is silent, one that asks for a name, and ordinary ones."""
    program = tmp_path / "firefox"
    program.write_text('#!/bin/sh\n[ $# = 0 ] || getent hosts "$@"\nexit 0\n')
    program.chmod(0o755)
    silent = run(program, options=["--share", str(tmp_path)])
    asking = run(program, "localhost.example", options=["--share", str(tmp_path)])
    assert (silent.returncode, asking.returncode) == (0, 0)
    said = [line for line in silent.stderr.splitlines() if "open:" not in line]
    assert len(said) == 1
    assert said[0].startswith("avne: firefox ended at once, and spoke with nobody. ")
    assert "ended at once" not in asking.stderr
    for command in ("true", "ls"):
        assert run(command).stderr == ""
    assert "ended" not in run(program, options=["--quiet", "--share", str(tmp_path)]).stderr
