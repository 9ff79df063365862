# SPDX-License-Identifier: GPL-3.0-or-later
"""The lane: messages and descriptors between the netstack and a worker on the same machine.

It is a pair of sockets (SOCK_SEQPACKET), which the supervisor makes and announces to the netstack first.
A worker elsewhere has the ZeroMQ line (channel.py) instead: there a message wakes two more threads before
it is there, and no descriptor can go that way.

A packet is up to LANE_PACKET messages, little-endian, with the descriptors of those that have one
(SCM_RIGHTS) in the same order::

    u16 length · u8 whether a descriptor belongs to it · header    and so on

Memory: what waits answers or accompanies something that `limits` counts.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from array import array
from collections import deque
from itertools import islice
from struct import Struct
from typing import Final

from avne.confine.rules import call, one_of
from avne.confine.runtime import NONBLOCKING, SENDMSG
from avne.errors import Malformed
from avne.limits import LANE_PACKET, MAX_HEADER

# The last two are Python's, for a socket that has come.
SYSCALLS: Final = (
    SENDMSG, "recvmsg", "close", NONBLOCKING, "getsockname",
    call("getsockopt", one_of(1, socket.SOL_SOCKET), one_of(2, socket.SO_TYPE, socket.SO_PROTOCOL)),
)  # fmt: skip

_HEAD: Final = Struct("<H?")
_PACKET: Final = LANE_PACKET * (_HEAD.size + MAX_HEADER)
_ROOM: Final = socket.CMSG_SPACE(LANE_PACKET * array("i").itemsize)
# Too many descriptors are under way (unix(7)): the peer will take some.
_FULL: Final = (errno.EAGAIN, errno.ETOOMANYREFS)

LaneMessage = tuple[bytes, socket.socket | None]  # header, socket


class Lane:
    """One end.  `fileno()` is to be polled, for writing too while `blocked`."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        sock.setblocking(False)
        self._waiting: deque[LaneMessage] = deque()
        self.blocked = False  # the peer has not taken all that was flushed

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self.end().close()

    def end(self) -> socket.socket:
        """Drop what waits; the caller closes the socket."""
        self._drop()
        return self._sock

    def _drop(self) -> None:
        for _, sock in self._waiting:
            if sock is not None:
                sock.close()
        self._waiting.clear()

    # ---- out -------------------------------------------------------------------------------

    def send(self, header: bytes, sock: socket.socket | None = None) -> None:
        """Queue a message for `flush`; `sock` is the lane's from here on."""
        self._waiting.append((header, sock))

    @property
    def waiting(self) -> bool:
        """Whether there is something to flush."""
        return bool(self._waiting)

    def flush(self) -> None:
        """Give the kernel what was queued, as much as it takes."""
        self.blocked = False
        waiting = self._waiting
        while waiting:
            packet = list(islice(waiting, LANE_PACKET))
            data = b"".join([_HEAD.pack(len(h), sock is not None) + h for h, sock in packet])
            given = [sock for _, sock in packet if sock is not None]
            fds = array("i", [sock.fileno() for sock in given])
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if given else []
            try:
                self._sock.sendmsg([data], rights, socket.MSG_NOSIGNAL)
            except OSError as error:
                self.blocked = error.errno in _FULL
                if not self.blocked:
                    self._drop()  # the peer is gone: the end of file says so too
                return
            for _ in packet:
                waiting.popleft()
            for sock in given:
                sock.close()

    # ---- in --------------------------------------------------------------------------------

    def receive(self) -> list[LaneMessage] | None:
        """The messages of one packet, if one is there; None at the end of file.  Raises `Malformed`.

        A socket is missing where this process may have no more descriptors.
        """
        try:
            data, ancillary, _, _ = self._sock.recvmsg(_PACKET, _ROOM, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return []
        except OSError:
            return None
        fds = array("i")
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
        if not data:
            _close(fds)
            return None
        messages: list[LaneMessage] = []
        given = deque(fds)
        try:
            for header, has_socket in _split(data):
                messages.append((header, _socket(given.popleft()) if has_socket and given else None))
            if given:
                raise Malformed("wire-descriptors")
        except Malformed:
            _close(given)
            for _, sock in messages:
                if sock is not None:
                    sock.close()
            raise
        return messages


def _split(data: bytes) -> list[tuple[bytes, bool]]:
    parts = []
    at = 0
    while at < len(data):
        if len(data) - at < _HEAD.size:
            raise Malformed("wire-frame-size")
        length, has_socket = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        if length > MAX_HEADER or at + length > len(data):
            raise Malformed("wire-frame-size")
        parts.append((data[at : at + length], has_socket))
        at += length
    return parts


def _socket(fd: int) -> socket.socket:
    """Of whatever family: nothing here depends on it."""
    try:
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fd)
    except OSError as error:
        os.close(fd)
        raise Malformed("wire-descriptors") from error


def _close(fds: array[int] | deque[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
