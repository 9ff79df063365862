# SPDX-License-Identifier: GPL-3.0-or-later
"""A SOCKS 5 server on a unix socket that refuses everything, and counts what it was asked (RFC 1928)."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from typing import Final

_NOT_ALLOWED: Final = b"\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00"
_NO_METHOD: Final = 0


class Refuser:
    """Nothing that is asked of it leaves the machine; `asked` is how many requests came."""

    def __init__(self, path: str) -> None:
        self.url = f"socks5://unix:{path}"
        self.asked = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(64)
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._greeted: set[socket.socket] = set()
        self._closing = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select(0.1):
                with contextlib.suppress(OSError):
                    assert isinstance(key.fileobj, socket.socket)
                    if key.fileobj is self._listener:
                        connection, _ = self._listener.accept()
                        self._selector.register(connection, selectors.EVENT_READ)
                    else:
                        self._answer_or_forget(key.fileobj)

    def _answer_or_forget(self, connection: socket.socket) -> None:
        try:
            self._answer(connection)
        except OSError:  # it has hung up
            self._forget(connection)

    def _forget(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        self._greeted.discard(connection)
        connection.close()

    def _answer(self, connection: socket.socket) -> None:
        """A greeting and a request are small, and each comes in one piece on a unix socket."""
        data = connection.recv(4096)
        if data and connection not in self._greeted:
            self._greeted.add(connection)
            connection.sendall(bytes((5, _NO_METHOD)))
            data = data[2 + data[1] :]
            if not data:
                return
        if data:
            self.asked += 1
            connection.sendall(_NOT_ALLOWED)
        self._forget(connection)

    def close(self) -> None:
        self._closing = True
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()
