# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections to the proxy that are none to a destination yet: what the loop does of a `Negotiation`.

Most of a negotiation is the same for every destination.  While connects follow each other that part is done
beforehand: a spare connection has had its answers, and waits for the next one's request.  Its transcript is
what the new dialogue receives first.  A proxy may close it meanwhile: then the connect begins anew.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable
from typing import Final

from avne.ipc.messages import Code
from avne.limits import SPARE_AFTER, SPARE_TIME, SPARES
from avne.upstream.base import Negotiation, OpenError, Upstream
from avne.upstream.socks5 import CONNECT_TIMEOUT, LARGEST_REPLY, REPLY_TIMEOUT

_ANSWER: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
_EVENTS: Final = _ANSWER | select.EPOLLOUT
_NOWHERE: Final = "0.0.0.0", 1  # what a spare's own dialogue is for: it is never asked

Done = Callable[[socket.socket | OpenError], None]


class Opening:
    """One of them; `cancel` makes it end without a word."""

    __slots__ = ("_owner", "connected", "deadline", "dialogue", "done", "place", "said", "sock", "unsent")

    def __init__(self, owner: Negotiations, place: tuple[str, int], done: Done) -> None:
        self._owner = owner
        self.place = place
        self.done = done
        self.said: list[bytes] | None = None  # by the proxy on a spare, each answered before the next came
        self.dialogue: Negotiation
        self.sock: socket.socket

    def begin(self, sock: socket.socket, dialogue: Negotiation) -> None:
        self.sock = sock
        self.dialogue = dialogue
        self.unsent = dialogue.output
        self.connected = False
        self.deadline = time.monotonic() + CONNECT_TIMEOUT

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

    Sockets to be closed are put into `closing`, for the end of the turn.
    """

    def __init__(self, epoll: select.epoll, upstream: Upstream, closing: list[socket.socket]) -> None:
        self.closing = closing
        self._epoll = epoll
        self._upstream = upstream
        self._by_fd: dict[int, Opening] = {}
        self._due = float("inf")  # no deadline is earlier
        self._spares: list[Opening] = []  # greeted, or about to be
        self._started_at = -SPARE_AFTER

    def start(self, host: str, port: int, done: Done) -> Opening | None:
        """Begin one; `done` gets the connection or the error, possibly before this returns.

        None, and no more, where a thread has to wait for the proxy.  Raises `OpenError`.
        """
        dialogue = self._upstream.dialogue(host, port)
        if dialogue is None:
            return None
        opening = Opening(self, (host, port), done)
        if not self._take_spare(opening, dialogue) and not self._connect(opening, dialogue):
            return None
        now = time.monotonic()
        if now - self._started_at < SPARE_AFTER and len(self._spares) < SPARES:
            self._make_spare()
        self._started_at = now
        return opening

    def _connect(self, opening: Opening, dialogue: Negotiation) -> bool:
        """A new connection; False where a thread has to wait for it.  Raises `OpenError`."""
        try:
            sock = self._upstream.knock()
        except BlockingIOError:
            return False
        except OSError as error:
            raise OpenError(Code.UPSTREAM_DOWN, error.strerror or "failed") from None
        opening.begin(sock, dialogue)
        try:
            opening.speak()  # a proxy of this machine is connected already
        except BlockingIOError:
            pass
        except OSError as error:
            self._fail(opening, OpenError(Code.UPSTREAM_DOWN, error.strerror or "failed"))
            return True
        self._due = min(self._due, opening.deadline)
        self._by_fd[sock.fileno()] = opening
        self._epoll.register(sock.fileno(), _EVENTS if opening.unsent else _ANSWER)
        return True

    # ---- spares ----------------------------------------------------------------------------

    def _make_spare(self) -> None:
        dialogue = self._upstream.dialogue(*_NOWHERE)
        assert dialogue is not None
        spare = Opening(self, _NOWHERE, lambda _: None)
        spare.said = []
        self._spares.append(spare)
        try:
            made = self._connect(spare, dialogue)
        except OpenError:
            made = False
        if not made and spare in self._spares:
            self._spares.remove(spare)

    def _take_spare(self, opening: Opening, dialogue: Negotiation) -> bool:
        """Go on with a spare that is ready, if there is one."""
        spare = next((one for one in self._spares if one.dialogue.asked), None)
        if spare is None:
            return False
        assert spare.said is not None
        for came in spare.said:
            dialogue.receive(came)
        self._spares.remove(spare)
        opening.begin(spare.sock, dialogue)
        opening.said = spare.said
        self._by_fd[spare.sock.fileno()] = opening
        self._due = min(self._due, opening.deadline)
        try:
            opening.speak()
        except OSError as error:  # it has died, and its event is still to come
            self._fail(opening, OpenError(Code.UPSTREAM_DOWN, os.strerror(error.errno or 0)))
        return True

    def _again(self, opening: Opening) -> bool:
        """Whether it can begin anew: its spare had died before the proxy has heard the request."""
        if opening.said is None or opening.place is _NOWHERE:
            return False
        opening.said = None
        dialogue = self._upstream.dialogue(*opening.place)
        assert dialogue is not None
        try:
            return self._connect(opening, dialogue)
        except OpenError:
            return False

    # ---- all ---------------------------------------------------------------------------------

    def forget(self, opening: Opening) -> None:
        """It is over, one way or another."""
        if self._by_fd.pop(opening.sock.fileno(), None) is not None:
            self._epoll.unregister(opening.sock.fileno())
        if opening in self._spares:
            self._spares.remove(opening)

    def on_event(self, fd: int) -> bool:
        """Whether `fd` is one of ours."""
        opening = self._by_fd.get(fd)
        if opening is None:
            return False
        if opening.place is _NOWHERE and opening.dialogue.asked:
            opening.cancel()  # a spare is to be silent, and open
        else:
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
        """As far as it goes without waiting.

        When all that has come is read there is no need to ask for more: that makes another event.
        """
        dialogue, sock = opening.dialogue, opening.sock
        try:
            while opening.unsent:
                opening.speak()
            while not dialogue.done:
                came = sock.recv(LARGEST_REPLY, socket.MSG_PEEK)
                taken = dialogue.receive(came)
                sock.recv(taken)
                if opening.place is _NOWHERE and self._greeted(opening, came[:taken]):
                    return
                opening.unsent = dialogue.output
                while opening.unsent:
                    opening.speak()
                if taken == len(came) and not dialogue.done:
                    return
        except BlockingIOError:
            return
        except OpenError as error:
            self._fail(opening, error)
        except OSError as error:
            self._fail(opening, OpenError(Code.UPSTREAM_DOWN, os.strerror(error.errno or 0)))
        else:
            self.forget(opening)
            opening.done(sock)

    def _greeted(self, spare: Opening, came: bytes) -> bool:
        """Whether a spare is ready."""
        assert spare.said is not None
        spare.said.append(came)
        if not spare.dialogue.asked:
            return False
        spare.unsent = b""
        spare.deadline = time.monotonic() + SPARE_TIME
        self._due = min(self._due, spare.deadline)
        return True

    def _fail(self, opening: Opening, error: OpenError) -> None:
        opening.cancel()
        if error.code != Code.UPSTREAM_DOWN or not self._again(opening):
            opening.done(error)
