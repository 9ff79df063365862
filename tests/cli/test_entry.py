# SPDX-License-Identifier: GPL-3.0-or-later
"""The entry point: what it starts before it knows what is wanted never outlasts it."""

from __future__ import annotations

import contextlib
import os
import sys

import pytest

from avne.cli import early, entry, main
from avne.cli.start import NETSTACK, WORKER


@pytest.fixture
def started(monkeypatch):
    """The pids of what was started, by module; and nothing of the test's own settings is changed."""
    pids = {}
    real = early.start

    def start(module):
        one = real(module)
        pids[module] = one[1]
        return one

    monkeypatch.setattr(early, "start", start)
    monkeypatch.setattr(early, "settle_descriptors", lambda: None)
    monkeypatch.setattr(early.gc, "disable", lambda: None)
    return pids


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["avne", *arguments])
    return entry.main()


def is_child(pid):
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def test_run_is_given_what_has_been_started(monkeypatch, started):
    def command(early):
        assert all(map(is_child, started.values()))
        control, pid, output = early.take(WORKER)
        assert pid == started[WORKER]
        control.close()
        os.close(output)
        return 7

    monkeypatch.setattr(main, "main", command)
    assert run(monkeypatch, "run", "true") == 7
    assert set(started) == {NETSTACK, WORKER}
    assert not is_child(started[NETSTACK])
    os.kill(started[WORKER], 9)  # who has taken it ends it
    os.waitpid(started[WORKER], 0)


def test_a_wrong_command_line_ends_them(monkeypatch, started, capfd):
    assert run(monkeypatch, "run", "--no-such-option", "true") == 125
    assert "--no-such-option" in capfd.readouterr().err
    assert len(started) == 2
    assert not any(map(is_child, started.values()))


@pytest.mark.parametrize("arguments", [["run", "-h"], ["run", "--help"], ["--version"], ["config"], []])
def test_nothing_is_started_for_other_commands_or_for_help(monkeypatch, started, capfd, arguments):
    with contextlib.suppress(SystemExit):  # argparse's, after its help
        run(monkeypatch, *arguments)
    assert capfd.readouterr()
    assert not started


def test_where_nothing_can_be_started_the_command_says_so(monkeypatch, capfd):
    def start(module):
        raise main.AvneError("cannot start it", "Look at the limits.")

    monkeypatch.setattr(early, "start", start)
    monkeypatch.setattr(early, "settle_descriptors", lambda: None)
    monkeypatch.setattr(early.gc, "disable", lambda: None)
    assert run(monkeypatch, "run", "true") == 125
    assert capfd.readouterr().err.count("cannot start it") == 1
