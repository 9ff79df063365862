# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections to the proxy that are none to a destination yet: what the loop does of a `Negotiation`."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable
from typing import Final

from avne.confine.runtime import SENDTO
from avne.errors import Malformed
from avne.ipc.messages import Capability, Code
from avne.limits import EARLY_MAX
from avne.upstream.base import Negotiation, OpenError, Upstream
from avne.upstream.proxy import CONNECT_TIMEOUT, PEEK, REPLY_TIMEOUT

_ANSWER: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
_EVENTS: Final = _ANSWER | select.EPOLLOUT

SYSCALLS: Final = (SENDTO, "recvfrom", "epoll_ctl", "close")

Done = Callable[[socket.socket | OpenError], None]


class Opening:
    """One of them; `cancel` makes it end without a word."""

    __slots__ = ("_early", "_owner", "connected", "deadline", "dialogue", "done", "early", "sock", "unsent")

    def __init__(
        self, owner: Negotiations, sock: socket.socket, dialogue: Negotiation, done: Done, deadline: float
    ) -> None:
        self._owner = owner
        self.sock = sock
        self.dialogue = dialogue
        self.done = done
        self.deadline = deadline
        self.connected = False
        self.unsent = dialogue.output
        self._early = b""  # for the destination
        self.early = 0  # how much of it is written

    def speak(self) -> None:
        """Send, if it is connected.  Raises OSError."""
        self.unsent = self.unsent[self.sock.send(self.unsent) :]
        if not self.connected:
            self.connected = True
            self.deadline += REPLY_TIMEOUT - CONNECT_TIMEOUT

    def hurry(self, data: bytes = b"") -> None:
        """Write what goes to the destination, if it may be written before the answer.  Raises `Malformed`.

        What is not written is the netstack's to write, which has it, too.
        """
        self._early += data
        if len(self._early) > EARLY_MAX:
            raise Malformed("wire-credit")
        waits = len(self._early) > self.early
        if waits and self._owner.early and self.connected and not self.unsent and self.dialogue.has_asked:
            with contextlib.suppress(OSError):  # reading tells
                self.early += self.sock.send(self._early[self.early :])

    def cancel(self) -> None:
        self._owner.forget(self)
        self._owner.closing.append(self.sock)


class Negotiations:
    """Shares the worker's epoll.

    Sockets to be closed are put into `closing`, for the end of the turn.
    """

    def __init__(self, epoll: select.epoll, upstream: Upstream, closing: list[socket.socket]) -> None:
        self.closing = closing
        self._epoll = epoll
        self._upstream = upstream
        self.early = Capability.EARLY in upstream.capabilities
        self._by_fd: dict[int, Opening] = {}
        self._due = float("inf")  # no deadline is earlier

    def start(self, dialogue: Negotiation, done: Done) -> Opening | None:
        """Begin one; `done` gets the connection or the error, possibly before this returns.

        None, and no more, where a thread has to wait for the proxy.  Raises `OpenError`.
        """
        try:
            sock = self._upstream.knock()
        except BlockingIOError:
            return None
        except OSError as error:
            raise OpenError(Code.UPSTREAM_DOWN, error.strerror or "failed") from None
        opening = Opening(self, sock, dialogue, done, time.monotonic() + CONNECT_TIMEOUT)
        try:
            opening.speak()  # a proxy of this machine is connected already
        except BlockingIOError:
            pass
        except OSError as error:
            self._fail(opening, OpenError(Code.UPSTREAM_DOWN, error.strerror or "failed"))
            return opening
        self._due = min(self._due, opening.deadline)
        self._by_fd[sock.fileno()] = opening
        self._epoll.register(sock.fileno(), _ANSWER if opening.connected and not opening.unsent else _EVENTS)
        if opening.connected and dialogue.done:  # one that says nothing
            self._proceed(opening)
        return opening

    def forget(self, opening: Opening) -> None:
        """It is over, one way or another."""
        if self._by_fd.pop(opening.sock.fileno(), None) is not None:
            self._epoll.unregister(opening.sock.fileno())

    def on_event(self, fd: int) -> bool:
        """Whether `fd` is one of ours."""
        opening = self._by_fd.get(fd)
        if opening is None:
            return False
        self._proceed(opening)
        return True

    def poll_at(self) -> float:
        """When `handle_timer` is due."""
        return self._due if self._by_fd else float("inf")

    def handle_timer(self, now: float) -> None:
        if now < self._due:
            return
        for opening in [one for one in self._by_fd.values() if one.deadline <= now]:
            code = Code.UPSTREAM_TIMEOUT if opening.connected else Code.UPSTREAM_DOWN
            self._fail(opening, OpenError(code, "it did not answer in time"))
        self._due = min((one.deadline for one in self._by_fd.values()), default=float("inf"))

    def _proceed(self, opening: Opening) -> None:
        """As far as it goes without waiting."""
        dialogue, sock = opening.dialogue, opening.sock
        try:
            if not opening.connected:
                opening.speak()
            while not dialogue.done:
                if opening.unsent:
                    opening.speak()
                    opening.hurry()
                    continue
                taken = dialogue.receive(sock.recv(PEEK, socket.MSG_PEEK))
                sock.recv(taken)
                opening.unsent = dialogue.output
        except BlockingIOError:
            return
        except OpenError as error:
            self._fail(opening, error)
        except OSError as error:
            self._fail(opening, OpenError(Code.UPSTREAM_DOWN, os.strerror(error.errno or 0)))
        else:
            self.forget(opening)
            opening.done(sock)

    def _fail(self, opening: Opening, error: OpenError) -> None:
        opening.cancel()
        opening.done(error)
