# SPDX-License-Identifier: GPL-3.0-or-later
"""What the program inherits, and that the supervisor really dies of the program's signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from avne.cli import signals


def python(code, **options):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=os.getcwd(), capture_output=True, text=True, check=False, **options
    )


SHOW = "from avne.cli.signals import inherited; print(*inherited())"


def test_nothing_is_ignored_or_blocked_by_default():
    assert python(SHOW).stdout == "0 0\n"


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTSTP, signal.SIGCHLD]
)
def test_what_the_parent_ignored_is_seen(number):
    done = python(SHOW, preexec_fn=lambda: signal.signal(number, signal.SIG_IGN))
    assert done.stdout == f"{1 << (number - 1)} 0\n"


def test_the_blocked_mask_is_seen():
    blocked = (signal.SIGUSR1, signal.SIGRTMAX)
    done = python(SHOW, preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, blocked))
    assert done.stdout == f"0 {1 << (signal.SIGUSR1 - 1) | 1 << (signal.SIGRTMAX - 1)}\n"


def test_pythons_own_ignored_signals_are_not_passed_on():
    done = python(SHOW, preexec_fn=lambda: signal.signal(signal.SIGPIPE, signal.SIG_IGN))
    assert done.stdout == "0 0\n"


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGSEGV, signal.SIGPIPE, signal.SIGRTMIN + 3],
)
def test_dying_of_a_signal(number):
    done = python(f"from avne.cli.signals import die_of; die_of({int(number)})")
    assert done.returncode == -number


def test_dying_of_a_signal_that_was_blocked_and_ignored():
    def spoil():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])

    done = python(f"from avne.cli.signals import die_of; die_of({int(signal.SIGTERM)})", preexec_fn=spoil)
    assert done.returncode == -signal.SIGTERM


def test_a_signal_that_ends_nothing_by_default_becomes_a_code():
    done = python(f"from avne.cli.signals import die_of; die_of({int(signal.SIGWINCH)})")
    assert done.returncode == 128 + signal.SIGWINCH


def test_signals_come_as_bytes_and_everything_is_put_back():
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    state = signals.Inherited(1 << (signal.SIGUSR2 - 1), 0)
    caught = signals.Signals(state)
    try:
        assert caught.read() == b""
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGINT)
        assert set(caught.read()) == {signal.SIGUSR1, signal.SIGINT}
        assert signal.getsignal(signal.SIGUSR2) == before[signal.SIGUSR2]  # ignored stays ignored
        for number in (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH):
            assert signal.getsignal(number) == before[number]
    finally:
        caught.close()
    assert {number: signal.getsignal(number) for number in signal.valid_signals()} == before
