# SPDX-License-Identifier: GPL-3.0-or-later
"""The stage's listeners: one thread hears whatever arrives, by whichever way, and notes the tokens in it."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import socket
import threading
from collections.abc import Callable
from typing import Final

_TOKEN: Final = re.compile(rb"avne-([0-9a-f]+)-([a-z0-9-]+)\.")
_TICK = 0.1

Accepted = Callable[[socket.socket], None]


class Ears:
    """`heard` holds (run, probe) for every token that came in."""

    def __init__(self, tick: Callable[[], None]) -> None:
        self.heard: set[tuple[str, str]] = set()
        self._tick = tick
        self._tails: dict[int, bytes] = {}
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._closing = False
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stream(self, listener: socket.socket, accepted: Accepted | None = None) -> None:
        """Accept and read connections; `accepted` is told of each."""
        listener.listen(64)
        listener.setblocking(False)
        self._add(listener, lambda: self._accept(listener, accepted))

    def datagrams(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._add(sock, lambda: self._receive(sock))

    def file(self, fd: int) -> None:
        """A pipe's or a terminal's descriptor, made non-blocking."""
        os.set_blocking(fd, False)
        self._add(fd, lambda: self._read(fd))

    def forget(self, what: socket.socket | int) -> None:
        """Before it is closed."""
        with self._lock, contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(what)

    def note(self, run: str, name: str) -> None:
        """Something was heard in another way."""
        with self._lock:
            self.heard.add((run, name))

    def close(self) -> None:
        self._closing = True
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        self._selector.close()

    def _add(self, what: socket.socket | int, action: Callable[[], None]) -> None:
        with self._lock:
            self._selector.register(what, selectors.EVENT_READ, action)

    def _listen(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select(_TICK):
                key.data()
            self._tick()

    def _accept(self, listener: socket.socket, accepted: Accepted | None) -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            connection.setblocking(False)
            self._add(connection, lambda: self._receive(connection, ends=True))
            if accepted:
                accepted(connection)

    def _receive(self, sock: socket.socket, ends: bool = False) -> None:
        try:
            data = sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._note(sock.fileno(), data)
        if not data and ends:
            self._tails.pop(sock.fileno(), None)
            self.forget(sock)
            sock.close()

    def _read(self, fd: int) -> None:
        try:
            self._note(fd, os.read(fd, 65536))
        except BlockingIOError:
            pass
        except OSError:
            self.forget(fd)

    def _note(self, fd: int, data: bytes) -> None:
        text = self._tails.get(fd, b"") + data
        self._tails[fd] = text[-200:]
        for run, name in _TOKEN.findall(text):
            self.note(run.decode(), name.decode())
