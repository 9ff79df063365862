# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker's end of its line to the netstack: the lane on one machine, ZeroMQ between two."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from avne.ipc import messages
from avne.ipc.heartbeat import Heartbeats
from avne.ipc.lane import Lane
from avne.ipc.messages import encode

if TYPE_CHECKING:
    from avne.ipc.channel import Dealer

SYSCALLS = ("epoll_ctl", "close")
_MESSAGES_PER_TURN = 128
_NETSTACK = b""  # the only peer

Payload = bytes | memoryview
Received = tuple[bytes, Payload | None]  # header, payload


class Uplink:
    """Shares the worker's epoll."""

    takes_sockets: bool  # whether the netstack is on this machine
    closed = False  # the netstack is gone
    why = ""  # it is closed, where that can be known: news of channel.py, or "silent"

    def close(self) -> None:
        raise NotImplementedError

    def send(self, header: bytes, payload: Payload | None = None) -> None:
        """Queue a message; it leaves with `flush` at the latest."""
        raise NotImplementedError

    def give(self, header: bytes, sock: socket.socket) -> None:
        """Queue a message with a socket, which is not ours any more; only where it `takes_sockets`."""
        raise NotImplementedError

    def flush(self) -> None:
        raise NotImplementedError

    def on_event(self, fd: int, mask: int) -> Iterator[Received] | None:
        """The messages that an event of epoll brings; None if `fd` is not of ours.  Raises `Malformed`."""
        raise NotImplementedError

    def receive(self) -> Iterator[Received]:
        """What has come without an event, in each turn.  Raises `Malformed`."""
        raise NotImplementedError

    def idle(self) -> bool:
        """Whether the worker may sleep: nothing waits here, in or out."""
        raise NotImplementedError

    def poll_at(self) -> float:
        """When `handle_timer` is due."""
        return float("inf")

    def handle_timer(self, now: float) -> None:
        """Ask whether the netstack is there, where nothing else would tell."""


def connect(config: dict[str, Any], lane: socket.socket | None, epoll: select.epoll) -> Uplink:
    """The line that a worker's configuration says: by `lane`, or to its endpoint."""
    if lane is not None:
        return LaneUplink(Lane(lane), epoll)
    from avne.ipc.channel import Dealer, Keys

    keys = Keys(*config["keys"]) if "keys" in config else None
    return DealerUplink(Dealer(config["endpoint"], config["identity"].encode(), keys), epoll)


class LaneUplink(Uplink):
    takes_sockets = True

    def __init__(self, lane: Lane, epoll: select.epoll) -> None:
        self._lane = lane
        self._epoll = epoll
        self._fd = lane.fileno()
        epoll.register(self._fd, select.EPOLLIN)

    def close(self) -> None:
        self._lane.close()

    def send(self, header: bytes, payload: Payload | None = None) -> None:
        assert payload is None, "no bytes go by the lane"
        self._lane.send(header)

    def give(self, header: bytes, sock: socket.socket) -> None:
        self._lane.send(header, sock)

    def flush(self) -> None:
        lane = self._lane
        if lane.waiting and not lane.blocked:
            lane.flush()
            if lane.blocked:
                self._epoll.modify(self._fd, select.EPOLLIN | select.EPOLLOUT)

    def on_event(self, fd: int, mask: int) -> Iterator[Received] | None:
        if fd != self._fd:
            return None
        if mask & select.EPOLLOUT:
            self._lane.flush()
            if not self._lane.blocked:
                self._epoll.modify(fd, select.EPOLLIN)
        received = self._lane.receive() if mask & ~select.EPOLLOUT else []
        if received is None:
            self.closed = True
            return iter(())
        return ((header, None) for header, _ in received)  # the netstack gives no sockets

    def receive(self) -> Iterator[Received]:
        return iter(())

    def idle(self) -> bool:
        return not self._lane.waiting or self._lane.blocked


class DealerUplink(Uplink):
    """The dealer's descriptor only signals a change (channel.py): what there is, `receive` finds."""

    takes_sockets = False

    def __init__(self, dealer: Dealer, epoll: select.epoll) -> None:
        self._dealer = dealer
        self._fd = dealer.fileno()
        self._check = False  # it may have something
        self._others = dealer.others()
        self._beats = Heartbeats(time.monotonic()) if self._others else None
        for one in (self._fd, *self._others):
            epoll.register(one, select.EPOLLIN)

    def close(self) -> None:
        self._dealer.close()

    def send(self, header: bytes, payload: Payload | None = None) -> None:
        self._check = True  # a send may take the signal of what comes in with it
        self._dealer.send(header, payload)

    def flush(self) -> None:
        """What is sent leaves at once."""

    def on_event(self, fd: int, mask: int) -> Iterator[Received] | None:
        if fd in self._others:
            for what, _ in self._dealer.news():
                self.closed, self.why = True, self.why or what
        elif fd != self._fd:
            return None
        self._check = True
        return iter(())

    def poll_at(self) -> float:
        return self._beats.poll_at() if self._beats else float("inf")

    def handle_timer(self, now: float) -> None:
        if self._beats:
            ask, silent = self._beats.handle_timer((_NETSTACK,), now)
            if silent:
                self.closed, self.why = True, "silent"
            elif ask:
                self.send(encode(messages.PING, 0, 0))

    def receive(self) -> Iterator[Received]:
        if not self._check:
            return
        for _ in range(_MESSAGES_PER_TURN):
            message = self._dealer.receive()
            if message is None:
                self._check = False
                return
            if self._beats:
                self._beats.heard.add(_NETSTACK)
            yield message[1], message[2]

    def idle(self) -> bool:
        if self._check and not self._dealer.pending():
            self._check = False
        return not self._check
