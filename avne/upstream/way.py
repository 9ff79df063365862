# SPDX-License-Identifier: GPL-3.0-or-later
"""The way to a proxy's unix socket, for a worker that sees no files.

Before it locks itself in it opens the socket (O_PATH), and then connects to what is at that descriptor, by
its link in ``/fd``, which is all that its root has.  So it reaches that socket and no other.

A proxy that is started again makes another socket of the same name.  The worker finds the old one dead, and
asks the supervisor, who sees the file, for the new one.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from typing import Final

from avne.confine.runtime import DESCRIPTORS

PATIENCE: Final = 2.0  # seconds the supervisor has to answer

SYSCALLS: Final = ("connect", "dup3", "close")

_DEAD: Final = (ConnectionRefusedError, FileNotFoundError)


class Way:
    """To the socket at `path`; `ask` asks for a new descriptor of it, for which `renew` is to be called."""

    def __init__(self, path: str, ask: Callable[[], None]) -> None:
        self._ask = ask
        self._changed = threading.Condition()
        self._asked = False
        self._answers = 0
        self._fd = os.open(os.devnull, os.O_PATH | os.O_CLOEXEC)  # where there is no socket yet: no socket
        with contextlib.suppress(OSError):
            self.renew(os.open(path, os.O_PATH | os.O_CLOEXEC))
        self._answers = 0

    def fileno(self) -> int:
        return self._fd

    def renew(self, fd: int | None) -> None:
        """The answer: the socket as it is now, ours from here on; None where there is none."""
        with self._changed:
            if fd is not None:
                os.dup2(fd, self._fd, inheritable=False)
                os.close(fd)
            self._asked = False
            self._answers += 1
            self._changed.notify_all()

    def connect(self, sock: socket.socket) -> None:
        """As `sock.connect(path)`.  Raises OSError.

        Where a socket that may not block finds the old one dead it is BlockingIOError: one that may, on a
        thread, is to try.
        """
        answers = self._answers
        try:
            sock.connect(f"{DESCRIPTORS}/{self._fd}")
        except _DEAD:
            if sock.gettimeout() == 0.0:
                self._request()
                raise BlockingIOError from None
            if not self._renewed(answers):
                raise
            sock.connect(f"{DESCRIPTORS}/{self._fd}")

    def _request(self) -> None:
        with self._changed:
            if not self._asked:
                self._asked = True
                self._ask()

    def _renewed(self, answers: int) -> bool:
        """Whether there has been an answer since `answers`; waits for it."""
        with self._changed:
            if self._answers == answers and not self._asked:
                self._asked = True
                self._ask()
            return self._changed.wait_for(lambda: self._answers != answers, PATIENCE)


# Of this process: what its root is, is of the whole process, too.
_ways: Final[dict[str, Way]] = {}


def use(ways: dict[str, Way]) -> None:
    """From here on `connect` to a path goes its way."""
    _ways.update(ways)


def connect(sock: socket.socket, path: str) -> None:
    """Connect to the unix socket at `path`, by whatever way leads there.  Raises OSError."""
    way = _ways.get(path)
    if way is None:
        sock.connect(path)
    else:
        way.connect(sock)
