# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections that the worker answers itself: its end of each, and the loop's work for it."""

from __future__ import annotations

import select
import socket
import time
from typing import Final

from avne.confine.rules import call, one_of
from avne.confine.runtime import NONBLOCKING, SENDTO
from avne.ipc.messages import Code
from avne.upstream.base import OpenError, Service

SYSCALLS: Final = (
    call("socketpair", one_of(0, socket.AF_UNIX)), SENDTO, "recvfrom", "shutdown", "close", "epoll_ctl",
    NONBLOCKING,
)  # fmt: skip

MAX_SERVED: Final = 256  # at the same time; a program that opens more of them is refused
PATIENCE: Final = 30.0  # seconds that a connection may take in all
_ROOM: Final = 4096


class _Served:
    __slots__ = ("deadline", "service", "sock", "unsent")

    def __init__(self, service: Service, sock: socket.socket, deadline: float) -> None:
        self.service = service
        self.sock = sock
        self.deadline = deadline
        self.unsent = b""


class Services:
    """Shares the worker's epoll.  Sockets to be closed are put into `closing`, for the end of the turn."""

    def __init__(self, epoll: select.epoll, closing: list[socket.socket]) -> None:
        self._epoll = epoll
        self._closing = closing
        self._served: dict[int, _Served] = {}  # by descriptor, in the order of their deadlines

    def start(self, service: Service) -> socket.socket:
        """The program's end of a connection that `service` answers.  Raises `OpenError`."""
        if len(self._served) >= MAX_SERVED:
            raise OpenError(Code.CONNECTION_REFUSED, "too many connections to the environment's own pages")
        try:
            theirs, ours = socket.socketpair()
        except OSError as error:
            raise OpenError(Code.GENERAL_FAILURE, error.strerror or "failed") from None
        for sock in (theirs, ours):
            sock.setblocking(False)
        self._served[ours.fileno()] = _Served(service, ours, time.monotonic() + PATIENCE)
        self._epoll.register(ours.fileno(), select.EPOLLIN | select.EPOLLRDHUP)
        return theirs

    def on_event(self, fd: int) -> bool:
        """Whether `fd` is one of ours."""
        served = self._served.get(fd)
        if served is None:
            return False
        try:
            self._proceed(served)
        except BlockingIOError:
            pass
        except OSError:
            self._end(served)
        return True

    def poll_at(self) -> float:
        """When `handle_timer` is due."""
        return next((served.deadline for served in self._served.values()), float("inf"))

    def handle_timer(self, now: float) -> None:
        for served in list(self._served.values()):
            if served.deadline > now:
                break
            self._end(served)

    def _proceed(self, served: _Served) -> None:
        """Read until the answer is complete, then send it."""
        while not served.service.done:
            served.unsent += served.service.receive(served.sock.recv(_ROOM))
        self._epoll.modify(served.sock.fileno(), select.EPOLLOUT)
        while served.unsent:
            served.unsent = served.unsent[served.sock.send(served.unsent) :]
        self._end(served)

    def _end(self, served: _Served) -> None:
        del self._served[served.sock.fileno()]
        self._epoll.unregister(served.sock.fileno())
        self._closing.append(served.sock)
