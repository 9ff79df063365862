# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections to the proxy that are none to a destination yet: what the loop does of a `Negotiation`."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable
from typing import Final

from avne.confine.runtime import SENDTO
from avne.ipc.messages import Code
from avne.upstream.base import Acquaintance, Negotiation, OpenError, Upstream
from avne.upstream.proxy import CONNECT_TIMEOUT, PEEK, REPLY_TIMEOUT

_ANSWER: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
_EVENTS: Final = _ANSWER | select.EPOLLOUT

SYSCALLS: Final = (SENDTO, "recvfrom", "epoll_ctl", "close")

Done = Callable[[socket.socket | OpenError], None]
Make = Callable[[], Negotiation | None]


class Opening:
    """One of them; `cancel` makes it end without a word."""

    __slots__ = ("_owner", "again", "connected", "deadline", "dialogue", "done", "sock", "unsent")

    def __init__(self, owner: Negotiations, dialogue: Negotiation, done: Done, deadline: float) -> None:
        self._owner = owner
        self.sock: socket.socket
        self.dialogue = dialogue
        self.done = done
        self.deadline = deadline
        self.connected = False
        self.unsent = dialogue.output
        # While its connection is an older one, of which nothing has been heard: another beginning.
        self.again: Make | None = None

    def speak(self) -> None:
        """Send, if it is connected.  Raises OSError."""
        self.unsent = self.unsent[self.sock.send(self.unsent) :]
        if not self.connected:
            self.connected = True
            self.deadline += REPLY_TIMEOUT - CONNECT_TIMEOUT

    def cancel(self) -> None:
        self._owner.forget(self)
        self._owner.closing.append(self.sock)


class Negotiations:
    """Shares the worker's epoll.

    Sockets to be closed are put into `closing`, for the end of the turn.  With `spare` one connection to the
    proxy, on which what comes before any destination has been said, is made ahead of its use: while
    something else is waited for, or nothing.
    """

    def __init__(
        self, epoll: select.epoll, upstream: Upstream, closing: list[socket.socket], spare: bool = False
    ) -> None:
        self.closing = closing
        self._epoll = epoll
        self._upstream = upstream
        self._by_fd: dict[int, Opening] = {}
        self._due = float("inf")  # no deadline is earlier
        self._keeps_spare = spare and upstream.acquaintance() is not None
        self._spare: tuple[socket.socket, Acquaintance] | None = None
        self.wants_spare = self._makes_spare = False

    def start(self, make: Make, done: Done) -> Opening | None:
        """Begin what `make` gives, for which it is called anew where a second try is needed.

        `done` gets the connection or the error, possibly before this returns.  None, and no more, where a
        thread has to wait for the proxy.  Raises `OpenError`.
        """
        dialogue = make()
        if dialogue is None:
            return None
        opening = Opening(self, dialogue, done, time.monotonic() + CONNECT_TIMEOUT)
        if self._keeps_spare:
            spare, self._spare = self._spare, None
            self.wants_spare = True
            if spare is not None and self._take(opening, *spare):
                opening.again = make
        return opening if self._begin(opening) else None

    def make_spare(self) -> None:
        """One for the next `start`.  Its failure is nobody's."""
        self.wants_spare = False
        greeting = self._upstream.acquaintance()
        if self._makes_spare or self._spare is not None or greeting is None:
            return

        def done(result: socket.socket | OpenError) -> None:
            self._makes_spare = False
            if not isinstance(result, OpenError):
                self._spare = result, greeting

        self._makes_spare = True
        try:
            began = self._begin(Opening(self, greeting, done, time.monotonic() + CONNECT_TIMEOUT))
        except OpenError:
            began = False
        if not began:
            self._makes_spare = False

    def _take(self, opening: Opening, sock: socket.socket, greeting: Acquaintance) -> bool:
        """Whether `opening` goes on with a connection that was made before."""
        try:
            sock.recv(1, socket.MSG_PEEK)  # its end, or a word that nobody has asked for
        except BlockingIOError:
            if opening.unsent == greeting.said:
                opening.dialogue.receive(greeting.heard)
                opening.unsent = opening.dialogue.output
                opening.sock = sock
                return True
        except OSError:
            pass
        self.closing.append(sock)
        return False

    def _begin(self, opening: Opening) -> bool:
        """False, and nothing done, where a thread has to wait for the proxy.  Raises `OpenError`."""
        if opening.again is None:
            try:
                opening.sock = self._upstream.knock()
            except BlockingIOError:
                return False
            except OSError as error:
                raise OpenError(Code.UPSTREAM_DOWN, error.strerror or "failed") from None
        sock = opening.sock
        self._due = min(self._due, opening.deadline)
        self._by_fd[sock.fileno()] = opening
        try:
            opening.speak()  # a proxy of this machine is connected already
        except BlockingIOError:
            pass
        except OSError as error:
            self._epoll.register(sock.fileno(), _EVENTS)
            self._fail(opening, OpenError(Code.UPSTREAM_DOWN, error.strerror or "failed"))
            return True
        self._epoll.register(sock.fileno(), _ANSWER if opening.connected and not opening.unsent else _EVENTS)
        if opening.connected and opening.dialogue.done:  # one that says nothing
            self._proceed(opening)
        return True

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
            opening.again = None  # it has waited for long enough
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
                    continue
                data = sock.recv(PEEK, socket.MSG_PEEK)
                if data:
                    opening.again = None
                sock.recv(dialogue.receive(data))
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
        again, opening.again = opening.again, None
        if again is not None:  # the proxy has had enough of waiting for us, or has been started again
            try:
                if (dialogue := again()) is not None:
                    opening.dialogue, opening.unsent = dialogue, dialogue.output
                    opening.connected = False
                    if self._begin(opening):
                        return
            except OpenError as other:
                error = other
        opening.done(error)
