# SPDX-License-Identifier: GPL-3.0-or-later
"""The supervisor's signals: what the program inherits, what is forwarded, how to die of one.

A terminal sends ^C, ^\\ and ^Z to the whole foreground process group, which the program
shares with the supervisor: forwarding them would deliver them twice.  So the supervisor
lets SIGINT and SIGQUIT pass while the program lives, stops at SIGTSTP as anybody does, and
forwards only what is sent to it by name.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable
from types import FrameType
from typing import NamedTuple, NoReturn

TERMINAL = (signal.SIGINT, signal.SIGQUIT)
FORWARDED = (
    signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGCONT,
    signal.SIGIO, signal.SIGPWR, *range(signal.SIGRTMIN, signal.SIGRTMAX + 1),
)  # fmt: skip
# Those that end the supervisor itself while there is no program to send them to.
ENDING = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM)
_PYTHONS = (signal.SIGPIPE, signal.SIGXFSZ)  # ignored by Python itself at its start


class Inherited(NamedTuple):
    """The signal state that the program would have had; sets are masks with bit n-1 for signal n."""

    ignored: int
    blocked: int


def inherited() -> Inherited:
    """What our parent gave us.  To be called before any handler is set.

    Python has SIGPIPE and SIGXFSZ ignored for itself, which hides what they were: the
    program gets their defaults, as nearly every program expects.
    """
    ignored = (
        number
        for number in signal.valid_signals()
        if number not in _PYTHONS and signal.getsignal(number) is signal.SIG_IGN
    )
    return Inherited(_mask(ignored), _mask(signal.pthread_sigmask(signal.SIG_BLOCK, ())))


def _mask(numbers: Iterable[int]) -> int:
    bits = 0
    for number in numbers:
        bits |= 1 << (number - 1)
    return bits


class Interrupted(Exception):
    """A signal ended the run before there was a program to send it to."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Signals:
    """Signals as bytes on a pipe: `fileno()` for epoll, `read()` gives the numbers in their order.

    Those that were ignored stay ignored: nohup(1), and SIGINT of a script's background jobs.
    `more`: to be heard as well as those that are forwarded.
    """

    def __init__(self, already: Inherited, more: Iterable[int] = ()) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._before = {
            number: signal.signal(number, _nothing)
            for number in (*TERMINAL, *FORWARDED, *more)
            if not already.ignored & 1 << (number - 1)
        }
        # A blocked signal is the program's to inherit, but would leave the supervisor deaf.
        self._mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, self._before)
        # Where SIGCHLD is ignored nobody can be waited for.
        self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def fileno(self) -> int:
        return self._read

    def read(self) -> bytes:
        """The numbers of the signals that came, one byte each; empty when none did."""
        with contextlib.suppress(BlockingIOError):
            return os.read(self._read, 4096)
        return b""

    def close(self) -> None:
        """Everything as it was before."""
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        os.close(self._read)
        os.close(self._write)


def _nothing(number: int, frame: FrameType | None) -> None:
    """A handler, so that the number goes to the pipe."""


def take_terminal_back() -> None:
    """Make our process group the terminal's foreground group again, if the one that is has ended.

    A shell inside makes itself that, and at its end cannot name the group that it had the terminal
    from: that is outside its pid namespace.
    """
    with contextlib.suppress(OSError):
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            os.killpg(os.tcgetpgrp(terminal), 0)
        except ProcessLookupError:
            before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTTOU,))
            os.tcsetpgrp(terminal, os.getpgrp())
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        finally:
            os.close(terminal)


def die_of(number: int) -> NoReturn:
    """End this process by the signal that ended the program, so that a shell sees the same.

    Without a second core dump: by core(5) a limit of 0 does not stop a piped one, but 1 does.
    """
    import resource

    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (1, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with contextlib.suppress(OSError, ValueError):  # SIGKILL has no handler to restore
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (number,))
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # the default of that signal does not end a process
