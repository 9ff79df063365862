# SPDX-License-Identifier: GPL-3.0-or-later
"""avne's own processes as the supervisor sees them: a control line, a standard error, a pid.

A part is started in a session of its own (a terminal's ^C and ^Z never reach it), with
/dev/null as standard input and a pipe as output and error: what it writes there, a
traceback for one, goes to the session's log.  The end of file on its control line means
that it is gone.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable
from typing import Any, TypeVar

from avne.cli.loop import Loop
from avne.cli.start import Started
from avne.errors import AvneError
from avne.ipc.control import Control
from avne.log import Log

P = TypeVar("P", bound="Part")

_LINE = 1000  # bytes of a line without an end that are waited for
LINGER = 1.0  # seconds a part may take to end after its line was closed


class Part:
    """One running process: the netstack, or one generation of a worker's slot.

    `ready` and `failed` are what it last said of itself; `last_words` is the last line of
    its standard error, for messages.
    """

    __slots__ = ("_partial", "control", "failed", "last_words", "name", "output", "pid", "ready", "short")

    def __init__(self, name: str, short: str, started: Started) -> None:
        self.name = name  # in a sentence
        self.short = short  # in the log
        self.ready = False
        self.failed: AvneError | None = None
        self.last_words = ""
        self._partial = b""
        control, self.pid, self.output = started
        self.control = Control(control)

    def lines(self) -> list[str]:
        """The complete lines that it has written since the last call."""
        data = self._partial
        with contextlib.suppress(BlockingIOError):
            data += os.read(self.output, 65536)
        *whole, self._partial = data.split(b"\n")
        if len(self._partial) > _LINE:
            whole, self._partial = [*whole, self._partial], b""
        lines = [line.decode("utf-8", "backslashreplace") for line in whole if line]
        if lines:
            self.last_words = lines[-1].strip()
        return lines

    def close(self) -> None:
        """Close its line, which asks it to end."""
        self.control.close()

    def kill(self) -> None:
        """At once: `reap` is to follow."""
        os.kill(self.pid, signal.SIGKILL)

    def reap(self, within: float) -> tuple[int, list[str]]:
        """Wait until it has ended, by force after `within` seconds: its exit code and last lines.

        The code is negative where a signal ended it (os.waitstatus_to_exitcode).
        """
        status = _wait(self.pid, within)
        lines = self.lines()
        while self._partial:  # a last line without its end
            self._partial += b"\n"
            lines += self.lines()
        os.close(self.output)
        return os.waitstatus_to_exitcode(status), lines


def _wait(pid: int, within: float) -> int:
    """The wait status of our child `pid`, which is killed when it lives for longer than `within`."""
    pidfd = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(within * 1000):
            os.kill(pid, signal.SIGKILL)
        return os.waitpid(pid, 0)[1]
    finally:
        os.close(pidfd)


class Parts:
    """The parts that run: what they say goes to the log or to their handlers, and the dead are reaped.

    Until `names_possible` is set nothing that a part writes can hold the name of a host.
    """

    def __init__(self, loop: Loop, log: Log) -> None:
        self._loop = loop
        self._log = log
        self.running: list[Part] = []
        self.names_possible = False

    def watch(self, part: P, on_message: Callable[[P, list[Any]], None], on_end: Callable[[P], None]) -> None:
        """Call `on_message` for each message but logs, and `on_end` when the part has been reaped."""
        self.running.append(part)
        self._loop.watch(part.control.fileno(), lambda: self._receive(part, on_message, on_end))
        self._loop.watch(part.output, lambda: self._write(part, part.lines()))

    def end(self) -> None:
        """Ask all to end, and wait for each."""
        for part in self.running:
            part.close()
        for part in self.running:
            self._write(part, part.reap(LINGER)[1])
        self.running.clear()

    def _receive(
        self, part: P, on_message: Callable[[P, list[Any]], None], on_end: Callable[[P], None]
    ) -> None:
        while (received := part.control.receive()) is not None:
            match received[0]:
                case []:
                    self._bury(part)
                    on_end(part)
                    return
                case ["log", str(level), str(event), dict(fields)]:
                    self._log.event(level, part.short, event, fields)
                case message:
                    on_message(part, message)

    def _bury(self, part: Part) -> None:
        self.running.remove(part)
        self._loop.forget(part.control.fileno())
        self._loop.forget(part.output)
        part.close()
        code, lines = part.reap(LINGER)
        self._write(part, lines)
        self._log.event("info" if code == 0 else "error", part.short, "ended", {"code": code})

    def _write(self, part: Part, lines: list[str]) -> None:
        for line in lines:
            self._log.output(part.short, line, safe=not self.names_possible)


def died_early(part: Part, log_path: str) -> AvneError:
    """What to tell the user of a part that ended before it was ready."""
    if part.failed:
        return part.failed
    said = f": {part.last_words}" if part.last_words else ""
    where = f"The log has more: {log_path}" if log_path else "Run it again with -vv to see its log."
    return AvneError(f"{part.name} ended before it was ready{said}", where)
