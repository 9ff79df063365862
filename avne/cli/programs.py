# SPDX-License-Identifier: GPL-3.0-or-later
"""Which program has a connection, for ``--isolate program``; from outside, by sock_diag(7) and proc(5).

A program is an executable file, whatever name or process it runs by: two windows of a browser share
circuits, a browser and a mail client do not; scripts are their interpreter.  It is told by device and inode
of ``/proc/PID/exe``, which a process cannot choose but by running another program: names, it can.  What
cannot be told, as the process has ended or may not be looked at, shares with none.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from avne.cli.connections import Sockets
from avne.errors import AvneError


class Programs:
    """`init` is the environment's first process, as pid of ours.  Raises `AvneError` where it cannot work."""

    def __init__(self, sockets: Sockets, init: int) -> None:
        sockets.waiting()  # loads what it needs, and shows that the kernel answers
        self._sockets = sockets
        self._init = init
        self._last = 0  # the process that was found last: most often it is the next, too
        self._known: dict[tuple[int, int], str] = {}
        self._count = 0

    def owner(self, key: bytes) -> str:
        """A short text, the same for all connections of the same program."""
        with contextlib.suppress(AvneError, OSError):
            inode = self._sockets.inode(key)
            pid = self._holder(inode) if inode else 0
            if pid:
                executable = os.stat(f"/proc/{pid}/exe")
                program = executable.st_dev, executable.st_ino
                if program not in self._known:
                    self._known[program] = self._new()
                return self._known[program]
        return self._new()

    def _new(self) -> str:
        self._count += 1
        return f"p{self._count}"

    def _holder(self, inode: int) -> int:
        """The process in the environment that has this socket open, 0 for none that can be seen."""
        if self._last and _holds(self._last, inode):
            return self._last
        self._last = next((pid for pid in _descendants(self._init) if _holds(pid, inode)), 0)
        return self._last


def _holds(pid: int, inode: int) -> bool:
    wanted = f"socket:[{inode}]"
    directory = f"/proc/{pid}/fd"
    with contextlib.suppress(OSError):
        for fd in os.listdir(directory):
            with contextlib.suppress(OSError):  # closed just now
                if os.readlink(f"{directory}/{fd}") == wanted:
                    return True
    return False


def _descendants(ancestor: int) -> Iterator[int]:
    """In an environment all processes are init's: it takes in the orphans."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                parent = int(file.read().rpartition(b")")[2].split()[1])
                children.setdefault(parent, []).append(int(name))
    left = list(children.get(ancestor, ()))
    while left:
        yield (pid := left.pop(0))
        left += children.get(pid, ())
