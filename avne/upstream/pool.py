# SPDX-License-Identifier: GPL-3.0-or-later
"""Threads for what blocks: one negotiation with the upstream each.

Tor may take two minutes over one stream, so there are as many threads as negotiations under
way, up to a bound.  Results come back to the loop's thread: `wake` becomes readable, and
`collect` calls what was given to `submit`.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final

from avne.confine.runtime import Threads
from avne.upstream.base import OpenError

SYSCALLS: Final = ("read", "write", *Threads.SYSCALLS)

# Each costs some 50 KB once it has run; a program that scans a network waits for 125 s in each.
MAX_THREADS: Final = 256


class Pool:
    """All methods are for the loop's thread."""

    def __init__(self, limit: int = MAX_THREADS) -> None:
        self.wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._limit = limit
        self._threads = 0
        self._under_way = 0
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Callable[[Any], None]]] = SimpleQueue()
        self._results: deque[tuple[Callable[[Any], None], Any]] = deque()

    def submit(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """Run `work` on a thread, then `done` with its result or the `OpenError` it raised."""
        self._jobs.put((work, done))
        self._under_way += 1
        if self._under_way > self._threads and self._threads < self._limit:
            self._threads += 1
            threading.Thread(target=self._run, name="negotiation", daemon=True).start()

    def collect(self) -> None:
        """Hand out the results.  Any exception of `work` but `OpenError` is ours, and raised here."""
        os.eventfd_read(self.wake)
        while self._results:
            done, result = self._results.popleft()
            self._under_way -= 1
            if isinstance(result, BaseException) and not isinstance(result, OpenError):
                raise result
            done(result)

    def _run(self) -> None:
        while True:
            work, done = self._jobs.get()
            try:
                result = work()
            except BaseException as error:
                result = error
            self._results.append((done, result))
            os.eventfd_write(self.wake, 1)
