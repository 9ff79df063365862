# SPDX-License-Identifier: GPL-3.0-or-later
"""The sockets at which other commands of the same user reach a run: ``attach``, bells, and ``workers``.

They are in the session's directory, which nobody else can enter and which the environment hides
from the program.  At a bell nothing is read: who connects to ``stop`` asks for the end, to ``reload`` for a
new network, to ``newnym`` for new circuits.  Who connects to ``attach`` is handed in to the environment's
init, which hears the request.  At ``workers`` one packet is read, and answered with another, perhaps later.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Callable, Mapping

from avne.cli.loop import Loop
from avne.paths import Session

ATTACH, STOP, RELOAD, NEWNYM, WORKERS = "attach", "stop", "reload", "newnym", "workers"
_REQUEST = 64  # bytes
_BACKLOG = 64
Answer = Callable[[bytes], None]  # to be called once
_CREDENTIALS = struct.Struct("=iII")  # struct ucred: pid uid gid


class Doors:
    """Listening from the start; `open_attach` lets in those who wait meanwhile."""

    def __init__(
        self,
        session: Session,
        loop: Loop,
        attach: Callable[[int], None],
        bells: Mapping[str, Callable[[], None]],
        workers: Callable[[bytes, Answer], None],
    ) -> None:
        self._loop = loop
        self._attach = _listen(session.socket(ATTACH))
        self._on_attach = attach
        self._bells = [self._bell(session, name, action) for name, action in bells.items()]
        self._bells.append(self._desk(session, WORKERS, workers))
        self._asking: set[socket.socket] = set()
        self._open = False

    def open_attach(self) -> None:
        self._open = True
        self._loop.watch(self._attach.fileno(), self._attached)

    def close_attach(self) -> None:
        """The program has ended: who still waits here, or comes, is turned away."""
        if self._open:
            self._open = False
            self._loop.forget(self._attach.fileno())
        self._attach.close()

    def close(self) -> None:
        self.close_attach()
        for bell in self._bells:
            bell.close()
        for connection in self._asking:
            connection.close()

    def _attached(self) -> None:
        if connection := _accept(self._attach):
            with connection:
                self._on_attach(connection.fileno())

    def _bell(self, session: Session, name: str, action: Callable[[], None]) -> socket.socket:
        """A socket where to connect is to ask."""
        bell = _listen(session.socket(name))

        def rung() -> None:
            if connection := _accept(bell):
                connection.close()
                action()

        self._loop.watch(bell.fileno(), rung)
        return bell

    def _desk(self, session: Session, name: str, action: Callable[[bytes, Answer], None]) -> socket.socket:
        """A socket where a question is read from each connection, and answered."""
        desk = _listen(session.socket(name))

        def came() -> None:
            if connection := _accept(desk):
                connection.setblocking(False)
                self._asking.add(connection)
                self._loop.watch(connection.fileno(), lambda: self._read_question(connection, action))

        self._loop.watch(desk.fileno(), came)
        return desk

    def _read_question(self, connection: socket.socket, action: Callable[[bytes, Answer], None]) -> None:
        self._loop.forget(connection.fileno())
        try:
            question = connection.recv(_REQUEST)
        except OSError:
            question = b""

        def answer(data: bytes) -> None:
            with contextlib.suppress(OSError):  # it has gone
                connection.send(data)
            self._asking.discard(connection)
            connection.close()

        if question:
            action(question, answer)
        else:
            answer(b"")


def _listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    listener.bind(path)
    listener.listen(_BACKLOG)
    return listener


def _accept(listener: socket.socket) -> socket.socket | None:
    """The next connection, if it is of the same user."""
    try:
        connection, _ = listener.accept()
    except OSError:  # gone again, or no descriptor is left for it
        return None
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    if _CREDENTIALS.unpack(peer)[1] == os.geteuid():
        return connection
    connection.close()
    return None
