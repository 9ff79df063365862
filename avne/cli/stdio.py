# SPDX-License-Identifier: GPL-3.0-or-later
"""Standard input, output and error that are sockets, as ssh, systemd and inetd give them.

A socket inside would keep the network that it was made in, and a local one can bring in descriptors of
whoever holds its other end.  So the program gets a pipe, and a thread copies between the two.  What is no
connected stream is left alone: the helper refuses it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import threading
from collections.abc import Callable

_CHUNK = 1 << 16


class Stdio:
    """`fds` is what the helper gets instead of ours: child's number → ours."""

    def __init__(self) -> None:
        self.fds: dict[int, int] = {}
        self._senders: list[threading.Thread] = []
        pipes: dict[tuple[int, int], int] = {}
        if _is_stream(0):
            self.fds[0], writing = os.pipe2(os.O_CLOEXEC)
            _start(_receive, os.dup(0), writing)
        for fd in (1, 2):
            if _is_stream(fd):
                status = os.fstat(fd)
                which = (status.st_dev, status.st_ino)
                if which not in pipes:  # one pipe for both keeps their order
                    reading, pipes[which] = os.pipe2(os.O_CLOEXEC)
                    self._senders.append(_start(_send, reading, os.dup(fd)))
                self.fds[fd] = pipes[which]

    def close(self, interrupted: Callable[[], object]) -> None:
        """Once nothing inside is left that could write: wait until what it wrote has been handed on, as it
        would have waited itself, or until `interrupted` gives something true."""
        for fd in {*self.fds.values()}:
            os.close(fd)
        self.fds.clear()
        for thread in self._senders:
            while thread.is_alive() and not interrupted():
                thread.join(0.1)


def _start(copy: Callable[[int, int], None], source: int, sink: int) -> threading.Thread:
    thread = threading.Thread(target=copy, args=(source, sink), daemon=True)
    thread.start()
    return thread


def _receive(source: int, sink: int) -> None:
    """From a socket to a pipe, until one of them ends."""
    with socket.socket(fileno=source) as stream, open(sink, "wb") as pipe, contextlib.suppress(OSError):
        while data := stream.recv(_CHUNK):  # descriptors that came with it are closed by the kernel
            pipe.write(data)
            pipe.flush()


def _send(source: int, sink: int) -> None:
    """From a pipe to a socket, until one of them ends."""
    with socket.socket(fileno=sink) as stream, open(source, "rb", 0) as pipe, contextlib.suppress(OSError):
        while data := pipe.read(_CHUNK):
            stream.sendall(data)


def _is_stream(fd: int) -> bool:
    """Whether it is a connected stream socket."""
    with contextlib.suppress(OSError):
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            with socket.socket(fileno=os.dup(fd)) as one:
                one.getpeername()
                return one.type == socket.SOCK_STREAM
    return False
