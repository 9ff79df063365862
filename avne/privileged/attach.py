# SPDX-License-Identifier: GPL-3.0-or-later
"""A second program in an environment: the side of ``avne attach``.

The contract is at the end of request.h: one request with the caller's own descriptors, over a
connection that ends at the environment's init.  No privilege is needed, and none is there to be had.
"""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
from contextlib import suppress
from typing import Final, NamedTuple

from avne.privileged import launch
from avne.privileged.launch import MESSAGE, Exited, Failed, Gone, Started

REQUEST: Final = struct.Struct(MESSAGE.format + "IIII")  # and: umask personality terminal raw


class Terminal(NamedTuple):
    """The other end of the terminal that the program has: `fd`, ours to relay and to close."""

    fd: int


class Ending(NamedTuple):
    """The environment is ending, and the attached program with it."""


Event = Terminal | Started | Exited | Failed | Ending | Gone


class Wish(NamedTuple):
    """What to start, and the state it is to have; signal sets are masks, bit n-1 for signal n."""

    argv: list[str]
    env: dict[str, str]
    cwd: str
    ignored: int
    blocked: int
    umask: int
    personality: int
    terminal: bool  # a new one, with the settings of standard input's, for those of 0 to 2 that are one
    raw: bool = False  # with CAP_NET_RAW over the environment's own network, to capture packets


class Attachment:
    """A connection to the environment whose supervisor listens at `path`.

    `fileno()` is to be polled for reading.  Raises OSError where nobody listens.
    """

    __slots__ = ("_first", "_layout", "_line", "supervisor")

    def __init__(self, path: str) -> None:
        self._layout = launch.layout()
        self._first: Event | None = None  # received and not yet given
        self._line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._line.connect(path)
            # Of the process that listens: the kernel's word, not a file's.
            peer = self._line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("=iII"))
        except OSError:
            self._line.close()
            raise
        self.supervisor: int = struct.unpack("=iII", peer)[0]

    def fileno(self) -> int:
        return self._line.fileno()

    def request(self, wish: Wish, standard: tuple[int, int, int] = (0, 1, 2), target: int = -1) -> None:
        """Ask for the program; with a pidfd as `target` only if that process is in the environment."""
        memory = launch.write_strings(
            [*wish.argv, *(f"{name}={value}" for name, value in wish.env.items()), wish.cwd]
        )
        try:
            data = REQUEST.pack(
                launch.MAGIC, launch.ATTACH, self._layout, 0, 0, wish.ignored, wish.blocked,
                len(wish.argv), len(wish.env), wish.umask, wish.personality, wish.terminal, wish.raw,
            )  # fmt: skip
            fds = [*standard, memory, *([target] if target >= 0 else [])]
            self._send(data, fds)
        finally:
            os.close(memory)

    def signal(self, number: int, group: bool = False) -> None:
        """Send a signal to the program, or to its process group as a terminal does."""
        value = -number if group else number
        self._send(MESSAGE.pack(launch.MAGIC, launch.SIGNAL, self._layout, 0, value, 0, 0, 0, 0), [])

    def _send(self, data: bytes, fds: list[int]) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        # An environment that is gone is found out by its end of file.
        with suppress(BrokenPipeError, ConnectionResetError):
            self._line.sendmsg([data], rights, socket.MSG_NOSIGNAL)

    def misses_target(self) -> bool:
        """Whether the process that was to name the environment is not in it; waits for the first event."""
        self._first = self.receive()
        return isinstance(self._first, Failed) and self._first.stage == "TARGET"

    @property
    def has_event(self) -> bool:
        """Whether `receive` gives one that polling would not show."""
        return self._first is not None

    def receive(self) -> Event:
        """The next event; waits for it."""
        if self._first:
            first, self._first = self._first, None
            return first
        try:
            data, fds = self._message()
        except ConnectionResetError:  # it went without having read what we sent; what it said comes next
            try:
                data, fds = self._message()
            except ConnectionResetError:
                return Gone()
        event: Event = self._parse(data, fds)
        if not isinstance(event, Terminal):
            for fd in fds:
                os.close(fd)
        return event

    def _message(self) -> tuple[bytes, list[int]]:
        data, fds, _, _ = socket.recv_fds(self._line, MESSAGE.size + 1, 1, socket.MSG_CMSG_CLOEXEC)
        return data, fds

    def _parse(self, data: bytes, fds: list[int]) -> Event:
        if not data:
            return Gone()
        if len(data) != MESSAGE.size:
            return Failed("REQUEST", errno.EPROTO)
        magic, kind, its_layout, stage, value, *_ = MESSAGE.unpack(data)
        if magic != launch.MAGIC or its_layout != self._layout:
            return Failed("REQUEST", errno.EPROTO)
        if kind == launch.TERMINAL and fds:
            return Terminal(fds[0])
        if kind == launch.STARTED:
            return Started()
        if kind == launch.EXITED:
            return Exited(value)
        if kind == launch.END:
            return Ending()
        if kind == launch.FAILED and stage < len(launch.STAGES):
            return Failed(launch.STAGES[stage], value)
        return Failed("REQUEST", errno.EBADMSG)

    def close(self) -> None:
        """Let go of the program: if it still runs it is ended."""
        self._line.close()
