# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker's ends of its lines to the netstack: ZeroMQ, and the lane where both are on one machine."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator

from avne.ipc.channel import Dealer
from avne.ipc.lane import Lane
from avne.ipc.messages import takes_lane

SYSCALLS = ("epoll_ctl", "close")
_LINE_MESSAGES_PER_TURN = 128

Payload = bytes | memoryview


class Uplink:
    """Shares the worker's epoll."""

    def __init__(
        self, endpoint: str, identity: bytes, lane: socket.socket | None, epoll: select.epoll
    ) -> None:
        self._line = Dealer(endpoint, identity)
        self._lane = Lane(lane) if lane is not None else None
        self._epoll = epoll
        self._line_fd = self._line.fileno()
        self._lane_fd = self._lane.fileno() if self._lane else -1
        epoll.register(self._line_fd, select.EPOLLIN)
        if self._lane:
            epoll.register(self._lane_fd, select.EPOLLIN)
        self._check_line = False
        self.closed = False  # the netstack is gone

    def close(self) -> None:
        self._line.close()
        if self._lane:
            self._lane.close()

    @property
    def takes_sockets(self) -> bool:
        """Whether the netstack is on this machine."""
        return self._lane is not None

    def send(self, header: bytes, payload: Payload | None = None) -> None:
        """Queue a message; what goes by the lane leaves with `flush`."""
        if self._lane is not None and takes_lane(header):
            self._lane.send(header)
            return
        self._check_line = True  # a send may take the signal of what comes in with it
        self._line.send(header, payload)

    def give(self, header: bytes, sock: socket.socket) -> None:
        """Queue a message with a socket, which is not ours any more; only where it `takes_sockets`."""
        assert self._lane is not None
        self._lane.send(header, sock)

    def flush(self) -> None:
        lane = self._lane
        if lane is None or not lane.waiting or lane.blocked:
            return
        lane.flush()
        if lane.blocked:
            self._epoll.modify(self._lane_fd, select.EPOLLIN | select.EPOLLOUT)

    def on_event(self, fd: int, mask: int) -> Iterator[tuple[bytes, Payload | None]] | None:
        """The messages that an event of epoll brings; None if `fd` is not of ours.  Raises `Malformed`."""
        if fd == self._line_fd:
            self._check_line = True
            return iter(())
        if fd != self._lane_fd:
            return None
        assert self._lane is not None
        if mask & select.EPOLLOUT:
            self._lane.flush()
            if not self._lane.blocked:
                self._epoll.modify(fd, select.EPOLLIN)
        received = self._lane.receive() if mask & ~select.EPOLLOUT else []
        if received is None:
            self.closed = True
            return iter(())
        return ((header, None) for header, _ in received)  # the netstack gives no sockets

    def receive(self) -> Iterator[tuple[bytes, Payload | None]]:
        """What the ZeroMQ line has, when it may have something.  Raises `Malformed`."""
        if not self._check_line:
            return
        for _ in range(_LINE_MESSAGES_PER_TURN):
            message = self._line.receive()
            if message is None:
                self._check_line = False
                return
            yield message[1], message[2]

    def idle(self) -> bool:
        """Whether the worker may sleep: nothing waits here, in or out."""
        if self._check_line and not self._line.pending():
            self._check_line = False
        lane = self._lane
        return not self._check_line and (lane is None or not lane.waiting or lane.blocked)
