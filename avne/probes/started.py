# SPDX-License-Identifier: GPL-3.0-or-later
"""A program of a run, started with what the stage gives it: descriptors, variables, a terminal of its own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import shutil
import signal
import time
import tty
from collections.abc import Sequence
from typing import Any

from avne.errors import AvneError
from avne.probes.stage import Stage


class Run:
    """One program with a terminal of the stage's; `said` is what it wrote there."""

    def __init__(self, stage: Stage, words: Sequence[str], streams: dict[int, int]) -> None:
        self.said = b""
        self._stage = stage
        self._master, slave = pty.openpty()
        tty.setraw(slave)
        self._slave = slave
        self._terminal = os.ttyname(slave)
        fds = {**stage.descriptors, **streams}
        spare = {ours: os.dup(ours) for ours in set(fds.values())}
        # The first terminal that a session's leader opens is its controlling one.
        actions: list[tuple[Any, ...]] = [(os.POSIX_SPAWN_OPEN, 2, self._terminal, os.O_RDWR, 0)]
        actions += [(os.POSIX_SPAWN_DUP2, _above(spare, fds)[ours], target) for target, ours in fds.items()]
        try:
            self.pid = os.posix_spawn(
                words[0] if "/" in words[0] else _which(words[0]), list(words), stage.environment,
                file_actions=actions, setsid=True, setsigmask=[], setsigdef=[signal.SIGPIPE],
            )  # fmt: skip
        finally:
            for fd in spare.values():
                os.close(fd)

    def typed(self) -> bytes:
        """What can be read from the terminal: keys that nobody typed."""
        os.set_blocking(self._slave, False)
        with contextlib.suppress(OSError):
            return os.read(self._slave, 65536)
        return b""

    def listen(self) -> None:
        """Take what the program has written to its terminal."""
        while select.select([self._master], [], [], 0)[0]:
            try:
                self.said += os.read(self._master, 65536)
            except OSError:
                return

    def end(self, within: float) -> int:
        """Its exit code; it is killed when it takes longer."""
        pidfd = os.pidfd_open(self.pid)
        until = time.monotonic() + within
        while not select.select([pidfd], [], [], 0.05)[0]:
            self.listen()
            if time.monotonic() > until:
                os.kill(self.pid, signal.SIGKILL)
                break
        os.close(pidfd)
        _, status = os.waitpid(self.pid, 0)
        self.listen()
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        os.close(self._master)
        os.close(self._slave)


def _above(spare: dict[int, int], fds: dict[int, int]) -> dict[int, int]:
    """Sources that no target overwrites: those in the way are moved up."""
    highest = max(fds, default=2)
    for ours, fd in list(spare.items()):
        if fd <= highest:
            spare[ours] = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, highest + 1)
            os.close(fd)
    return spare


def _which(name: str) -> str:
    found = shutil.which(name)
    if not found:
        raise AvneError(f"{name} is not there", "Install it, or give its path.")
    return found
