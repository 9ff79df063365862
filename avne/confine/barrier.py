# SPDX-License-Identifier: GPL-3.0-or-later
"""Wait until every other thread of this process sleeps in epoll_wait(2).

A thread that is just being born makes calls (rseq, set_robust_list…) that the filter does not allow, and
dies of one that comes too early: without this, 82 to 160 of 200 starts did.  ZeroMQ's threads are not ours
to ask; ``/proc/self/task/TID/syscall`` (proc_pid_syscall(5)) tells in which call each of them waits.
"""

from __future__ import annotations

import os
import time
from typing import Final

from avne.confine.calls import number, this_machine

PATIENCE: Final = 5.0  # seconds; it takes a few milliseconds at most
_PAUSE: Final = 0.0002


class Barrier:
    """Made while ``/proc`` is in sight; `wait` may come after."""

    def __init__(self) -> None:
        self._tasks = os.open("/proc/self/task", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def wait(self, threads: int) -> None:
        """Until `threads` others exist, and sleep.  Once.  Raises TimeoutError."""
        try:
            until = time.monotonic() + PATIENCE
            while not self._parked(threads):
                if time.monotonic() > until:
                    raise TimeoutError(f"{threads} threads were to wait: {os.listdir(self._tasks)}")
                time.sleep(_PAUSE)  # nothing tells of it
        finally:
            os.close(self._tasks)

    def count(self) -> int:
        """How many threads there are."""
        return len(os.listdir(self._tasks))

    def _parked(self, threads: int) -> bool:
        others = [task for task in os.listdir(self._tasks) if task != str(os.getpid())]
        return len(others) == threads and all(self._call(task) in _PARKED for task in others)

    def _call(self, task: str) -> str:
        fd = os.open(f"{task}/syscall", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._tasks)
        try:
            return os.read(fd, 64).split()[0].decode()
        finally:
            os.close(fd)


def _parked() -> frozenset[str]:
    machine = this_machine()
    found = [number(name, machine) for name in ("epoll_wait", "epoll_pwait")] if machine else []
    return frozenset(str(one) for one in found if one is not None)


_PARKED: Final = _parked()
