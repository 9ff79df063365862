# SPDX-License-Identifier: GPL-3.0-or-later
"""The netstack's ends of its lines to the workers: a lane for each of this machine, a router for the others.

The supervisor announces a lane before its worker gets the other end: so what it says comes by that.  Nobody
else is heard under the identity of a worker with a lane: those of workers elsewhere begin with ELSEWHERE.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

from avne.errors import Malformed
from avne.ipc.lane import Lane
from avne.ipc.messages import DRAIN, BadFrames, encode
from avne.netstack.leases import Attachment
from avne.netstack.upstreams import Message

if TYPE_CHECKING:
    from avne.ipc.channel import Router

SYSCALLS = ("epoll_ctl",)
_ROUTER_MESSAGES_PER_TURN = 64
ELSEWHERE = b"r-"  # what the names of workers elsewhere begin with

Received = tuple[bytes, bytes, Attachment]  # worker, header, payload or socket


class CutOff(Exception):
    """`worker` broke the protocol, or its lane has ended (`reason` is empty)."""

    def __init__(self, worker: bytes, reason: str) -> None:
        super().__init__(reason)
        self.worker = worker
        self.reason = reason


class Lines:
    """Shares the process's epoll.  `router` is None where no worker elsewhere may join."""

    def __init__(self, router: Router | None, epoll: select.epoll) -> None:
        self._router = router
        self._epoll = epoll
        self._router_fds: list[int] = []
        if router is not None:
            self._router_fds = [router.fileno(), *router.others()]
        for fd in self._router_fds:
            epoll.register(fd, select.EPOLLIN)
        self.heard: set[bytes] = set()  # by the router; the caller clears it
        self._cut_off: set[bytes] = set()  # of the router, which cannot end their connections
        self.strangers = 0  # messages of others than workers
        self.check_router = False  # it may have something
        self._lanes: dict[bytes, Lane] = {}
        self._by_fd: dict[int, bytes] = {}
        self._unflushed = False  # something is queued for a lane

    def add_lane(self, worker: bytes, fd: int) -> None:
        """A lane for a worker that is about to join; takes over `fd`."""
        lane = self._lanes[worker] = Lane(socket.socket(fileno=fd))
        self._by_fd[lane.fileno()] = worker
        self._epoll.register(lane.fileno(), select.EPOLLIN)

    def forget(self, worker: bytes) -> list[socket.socket]:
        """The worker is gone, or is treated so.

        Gives what is to be closed at the end of the turn: an event that is still to come in it may name the
        descriptor, which must not be another socket's by then.
        """
        lane = self._lanes.pop(worker, None)
        if lane is None:
            self._cut_off.add(worker)
            if self._router is not None:
                self._router.send(worker, encode(DRAIN, 0))
            return []
        self._epoll.unregister(lane.fileno())
        del self._by_fd[lane.fileno()]
        return [lane.end()]

    # ---- in ----------------------------------------------------------------------------------

    def on_event(self, fd: int, mask: int) -> Iterator[Received]:
        """What an event of epoll brings.  Raises `CutOff`."""
        if fd in self._router_fds:
            self.check_router = True
            return
        worker = self._by_fd.get(fd)
        if worker is None:
            return  # cut off in this same turn
        lane = self._lanes[worker]
        if mask & select.EPOLLOUT:
            self._flush(lane)
        if mask & ~select.EPOLLOUT:
            try:
                received = lane.receive()
            except Malformed as error:
                raise CutOff(worker, error.reason) from error
            if received is None:
                raise CutOff(worker, "")
            for header, sock in received:
                if worker in self._lanes:
                    yield worker, header, sock
                elif sock is not None:  # cut off for an earlier one of these
                    sock.close()

    def receive(self) -> Iterator[Received]:
        """What the router has.  Raises `CutOff`."""
        assert self._router is not None
        for _ in range(_ROUTER_MESSAGES_PER_TURN):
            try:
                message = self._router.receive()
            except BadFrames as error:
                if self._is_heard(error.peer):
                    raise CutOff(error.peer, error.reason) from error
                continue
            if message is None:
                self.check_router = False
                return
            if self._is_heard(message[0]):
                self.heard.add(message[0])
                yield message

    def _is_heard(self, peer: bytes) -> bool:
        """Who is not named as workers elsewhere are is none: nor is one that was cut off."""
        if not peer.startswith(ELSEWHERE):
            self.strangers += 1
            return False
        return peer not in self._cut_off

    def idle(self) -> bool:
        """Whether the process may sleep: nothing waits here, in or out."""
        if self._router is not None and self.check_router and not self._router.pending():
            self.check_router = False
        return not (self.check_router or self._unflushed)

    # ---- out ---------------------------------------------------------------------------------

    def send(self, message: Message) -> bool:
        """Queue a message; False when there is no such worker (any more)."""
        worker, header, payload = message
        lane = self._lanes.get(worker)
        if lane is not None:
            lane.send(header)
            self._unflushed = True
            return True
        if self._router is None:
            return False
        self.check_router = True  # a send may take the signal of what comes in with it
        return self._router.send(worker, header, payload)

    def flush(self) -> None:
        """Give the lanes what was queued for them."""
        self._unflushed = False
        for lane in self._lanes.values():
            if lane.waiting and not lane.blocked:
                self._flush(lane)

    def _flush(self, lane: Lane) -> None:
        was_blocked = lane.blocked
        lane.flush()
        if lane.blocked != was_blocked:
            self._epoll.modify(lane.fileno(), select.EPOLLIN | (select.EPOLLOUT if lane.blocked else 0))
