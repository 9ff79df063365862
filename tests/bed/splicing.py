# SPDX-License-Identifier: GPL-3.0-or-later
"""Two connected sockets joined by splice(2): bytes, ends and resets of each are passed on in their order."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import struct

PIPE = 1 << 20
RESET_GRACE = 1.0  # seconds for the bytes before a reset, with a target that does not read


class Direction:
    """Bytes on their way from one socket to the other, held by a pipe."""

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self.source, self.target = source, target
        self.read_end, self.write_end = os.pipe2(os.O_CLOEXEC)
        fcntl.fcntl(self.write_end, fcntl.F_SETPIPE_SZ, PIPE)
        self.held = 0
        self.total = 0
        self.ended = False  # the source has said all
        self.finished = False  # and the target knows
        self.reset = False  # what the source has said ends with RST, though reading may not say so
        self.refused = False  # the target takes nothing more

    def move(self) -> bool:
        """Read and write once, as much as goes without waiting; whether anything went."""
        got = put = 0
        if not self.held and not self.ended:
            try:
                got = self.held = self._read()
                self.ended = not got
            except BlockingIOError:
                pass
            except OSError:  # comes behind the last byte
                self.ended = self.reset = True
            self.total += got
        if self.held:
            try:
                put = self._splice(self.read_end, self.target.fileno(), self.held)
                self.held -= put
            except BlockingIOError:
                pass
            except OSError:
                self.held = 0
                self.ended = self.finished = self.refused = True
        if self.ended and not self.held and not self.finished:
            self.finished = True
            if not self.reset:
                with contextlib.suppress(OSError):
                    self.target.shutdown(socket.SHUT_WR)
        return got + put > 0

    def _read(self) -> int:
        size = self._splice(self.source.fileno(), self.write_end, PIPE)
        if not size:  # the end, or a byte of urgent data, which splice(2) does not pass
            size = os.write(self.write_end, self.source.recv(4096))
        return size

    @staticmethod
    def _splice(source: int, target: int, size: int) -> int:
        return os.splice(source, target, size, flags=os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK)

    def close(self) -> None:
        os.close(self.read_end)
        os.close(self.write_end)


class Relay:
    """Two sockets joined, until both directions have ended or one socket was reset.

    A reset is passed on behind the bytes that came before it.  Linux tells of it in one of three ways:
    reading fails behind the last byte, or, when a write was told before, simply ends there; and
    behind a FIN only POLLERR tells.
    """

    def __init__(self, near: socket.socket, far: socket.socket, reset: bool) -> None:
        self.up, self.down = Direction(near, far), Direction(far, near)
        self.down.reset = reset
        self._both = (self.up, self.down)
        self._poller = select.poll()
        self._watched = {near.fileno(), far.fileno()}
        for sock in (near, far):
            sock.setblocking(False)
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)  # RFC 6093 §5
            self._poller.register(sock, 0)

    def run(self) -> None:
        try:
            while not (self.up.finished and self.down.finished):
                if not self._wait():
                    self._reset()
                    return
                for direction, back in (self._both, self._both[::-1]):
                    while direction.move() and direction.source.fileno() not in self._watched:
                        pass  # no event will tell of the rest
                    back.reset |= direction.refused
                    if direction.reset and direction.finished:
                        self._reset()
                        return
        finally:
            self.up.close()
            self.down.close()

    def _wait(self) -> bool:
        """Until something can go on; False when a target has not taken in time what came before a reset."""
        wanted = dict.fromkeys((self.up.source.fileno(), self.down.source.fileno()), 0)
        for direction in self._both:
            if direction.held:
                wanted[direction.target.fileno()] |= select.POLLOUT
            elif not direction.ended:
                wanted[direction.source.fileno()] |= select.POLLIN
        for fd in self._watched:
            self._poller.modify(fd, wanted[fd])
        broken = any(direction.reset for direction in self._both)
        found = self._poller.poll(RESET_GRACE * 1000 if broken else None)
        for fd, events in found:
            if events & select.POLLERR:
                self._failed(fd)
            if events & select.POLLERR or (events & select.POLLHUP and not wanted[fd]):
                # It says nothing new any more: it would wake us for ever.
                self._poller.unregister(fd)
                self._watched.discard(fd)
        return bool(found)

    def _failed(self, fd: int) -> None:
        for direction in self._both:
            if direction.source.fileno() == fd:
                direction.reset = True
            else:
                direction.held, direction.ended, direction.finished = 0, True, True

    def _reset(self) -> None:
        for direction in self._both:
            direction.source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
