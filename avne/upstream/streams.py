# SPDX-License-Identifier: GPL-3.0-or-later
"""The open flows of a worker: moves bytes between their sockets and the channel.

What a flow owes and may do is in relay.py, whether an end is true in canary.py; here is the I/O.

Sockets are watched edge-triggered: an event marks a flow readable, and it stays in `_ready`
until its socket is empty or its credit is used up.  Each turn serves a few of them, one payload
each, so that no flow waits for another's bulk.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from avne.ipc import messages
from avne.ipc.credit import Budget
from avne.ipc.lane import Piece
from avne.ipc.messages import Capability, encode
from avne.limits import HALF_CLOSED_MAX, INLINE_BELOW, MAX_PAYLOAD
from avne.upstream.base import Upstream
from avne.upstream.lookout import Lookout
from avne.upstream.relay import Relay, Step
from avne.upstream.uplink import Payload, Uplink

READS_PER_TURN: Final = 16
_LEAST_ROOM: Final = 64 << 10  # of the slab, to read into
TICK: Final = 1.0  # how often quiet and lingering flows are looked at
DRAIN_LINGER: Final = 1.0  # for a flow's end after its last byte was written

_EVENTS: Final = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
_HANGUP: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)

Log = Callable[[str, str, dict[str, Any]], None]  # level, event, fields


class Stream:
    """An open flow: its socket and its books."""

    __slots__ = ("data_header", "fd", "number", "opened", "readable", "relay", "scheduled", "sock")

    def __init__(self, number: int, sock: socket.socket, relay: Relay, opened: float) -> None:
        self.number = number
        self.opened = opened
        self.sock = sock
        self.fd = sock.fileno()
        self.relay = relay
        self.data_header = encode(messages.DATA, number)
        self.readable = False
        self.scheduled = False  # is in the ready queue


class Streams:
    """All of them.  The worker sets `now` at the start of each turn."""

    def __init__(self, uplink: Uplink, epoll: select.epoll, upstream: Upstream, log: Log) -> None:
        self.now = 0.0
        self.bytes_up = self.bytes_down = 0
        self.draining = False
        self._uplink = uplink
        self._epoll = epoll
        self._log = log
        self._half_close = Capability.HALF_CLOSE in upstream.capabilities
        self.closing: list[socket.socket] = []  # until this turn's events are done: they name descriptors
        self._lookout = Lookout(epoll, upstream, self.closing) if upstream.ends_need_proof else None
        self._budget = Budget()
        self._returned: list[int] = []  # pieces of the netstack's slab that have been written
        self._private = memoryview(bytearray(MAX_PAYLOAD))  # where there is no room in ours
        self._streams: dict[int, Stream] = {}
        self._by_fd: dict[int, Stream] = {}
        self._ready: deque[Stream] = deque()
        self._quiet: dict[Stream, None] = {}  # those that `give_up` may hit, the oldest first
        self._lingering: dict[Stream, float] = {}  # while draining: when to close at the latest
        self._tick_at = 0.0

    def __len__(self) -> int:
        return len(self._streams)

    def __contains__(self, number: int) -> bool:
        return number in self._streams

    def adopt(self, number: int, sock: socket.socket, credit: int) -> None:
        """A new flow on a connected, non-blocking socket; the netstack grants `credit` bytes down."""
        relay = Relay(self._budget, self._returned, credit, self._half_close, self._lookout is not None)
        stream = Stream(number, sock, relay, self.now)
        self._streams[number] = self._by_fd[stream.fd] = stream
        self._uplink.send(encode(messages.OPENED, number, relay.grant))
        self._epoll.register(stream.fd, _EVENTS)

    def handle(self, message: list[Any], payload: Payload | None) -> None:
        """A message of the netstack about a flow; one that is gone is passed over.  Raises `Malformed`."""
        kind, number = message[0], message[1]
        stream = self._streams.get(number)
        if stream is None:
            if isinstance(payload, Piece):
                self._returned.append(payload.offset)
            return
        relay = stream.relay
        if kind == messages.DATA:
            assert payload is not None
            idle = not relay.queued
            relay.receive_data(payload, self.now)
            if idle:  # else the socket is full, and an event will come
                self._write(stream)
        elif kind == messages.CREDIT:
            relay.receive_credit(message[2])
            self._schedule(stream)
        elif kind == messages.SHUT:
            relay.receive_shut(self.now)
            if not self._half_close:
                self._quiet[stream] = None
                self._bound_quiet()
            self._settle(stream)
        elif kind == messages.RESET:
            with contextlib.suppress(OSError):
                stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._remove(stream)

    def on_event(self, fd: int, mask: int) -> None:
        """An event of epoll; a descriptor that is no one's (any more) is passed over."""
        stream = self._by_fd.get(fd)
        if stream is None:
            if self._lookout and self._lookout.on_event(fd, mask, self.now):
                self._heed_verdicts()
            return
        if mask & _HANGUP:
            self._hang_up(stream)
        if mask & select.EPOLLERR and stream.number in self._streams:
            stream.relay.break_off(self.now)
            self._quiet[stream] = None
            self._settle(stream)
        if mask & (select.EPOLLIN | _HANGUP):
            stream.readable = True
            self._schedule(stream)
        if stream.relay.queued and mask & (select.EPOLLOUT | _HANGUP):
            self._write(stream)

    def take_turn(self) -> None:
        """Read from some of those that have something; close what ended."""
        for _ in range(min(len(self._ready), READS_PER_TURN)):
            stream = self._ready.popleft()
            stream.scheduled = False
            if stream.number in self._streams:
                self._read(stream)
        for sock in self.closing:
            sock.close()
        self.closing.clear()
        for offset in self._returned:
            self._uplink.send(encode(messages.RETURN, 0, offset))
        self._returned.clear()

    def poll_at(self) -> float:
        """When `handle_timer` is due; in the past while reading goes on."""
        if self._ready:
            return self.now
        due = self._tick_at if self._quiet or self._lingering else float("inf")
        return min(due, self._lookout.poll_at()) if self._lookout else due

    def handle_timer(self) -> None:
        now = self.now
        if self._lookout:
            self._lookout.handle_timer(now)
            self._heed_verdicts()
        if now < self._tick_at or not (self._quiet or self._lingering):
            return
        self._tick_at = now + TICK
        for stream in list(self._quiet):
            due = stream.relay.quiet_until()
            if due is not None and now >= due:
                why = "reset-unread" if stream.relay.broken else "quiet-after-half-close"
                self._log("info", why, {"flow": stream.number})
                stream.relay.give_up()
                self._settle(stream)
        for stream, until in list(self._lingering.items()):
            if now >= until:
                self._remove(stream)

    def _bound_quiet(self) -> None:
        """Most of those have been closed by their programs: there must not be ever more of them."""
        if len(self._quiet) > HALF_CLOSED_MAX:
            oldest = next(iter(self._quiet))
            del self._quiet[oldest]
            oldest.relay.give_up()
            self._settle(oldest)

    def drain(self) -> None:
        """Finish what waits to be written, then close; what the servers still say is dropped."""
        self.draining = True
        for stream in list(self._streams.values()):
            self._settle(stream)
            self._schedule(stream)

    def _hang_up(self, stream: Stream) -> None:
        if stream.relay.hang_up() and self._lookout:
            self._lookout.flow_ended(stream.number, stream.opened, self.now)
            self._heed_verdicts()

    def _heed_verdicts(self) -> None:
        assert self._lookout is not None
        verdicts = self._lookout.take_verdicts()
        lost = sum(not alive for _, alive in verdicts)
        if lost:
            self._log("warning", "upstream-died", {"flows": lost})
        for number, alive in verdicts:
            stream = self._streams[number]
            stream.relay.judge(alive)
            self._settle(stream)

    def _schedule(self, stream: Stream) -> None:
        if stream.readable and not stream.scheduled and (stream.relay.down_credit or self.draining):
            stream.scheduled = True
            self._ready.append(stream)

    def _read(self, stream: Stream) -> None:
        """One payload from the socket to the netstack, never more than its credit."""
        relay = stream.relay
        slab = self._uplink.slab
        room = slab.room(_LEAST_ROOM) if slab is not None else None
        buffer = self._private if room is None else room
        size = MAX_PAYLOAD if self.draining else min(MAX_PAYLOAD, relay.down_credit)
        size = min(size, len(buffer))
        try:
            got = stream.sock.recv_into(buffer, size)
        except BlockingIOError:
            stream.readable = False
            return
        except OSError:
            self._reset(stream)
            return
        if got == 0:
            stream.readable = False
            relay.ended = True
            self._hang_up(stream)  # if the event is still to come
            self._settle(stream)
            return
        if not self.draining:
            payload: memoryview | Piece = buffer[:got]
            if slab is not None and room is not None and got >= INLINE_BELOW:
                payload = Piece(slab.take(got), room[:got])
            self._uplink.send(stream.data_header, payload)
            relay.read(got, self.now)
            self.bytes_down += got
        # A short read means an empty socket (epoll(7)), unless its end is still to be read.
        stream.readable = got == size or relay.hung_up
        self._schedule(stream)

    def _write(self, stream: Stream) -> None:
        """As much as the socket takes."""
        relay = stream.relay
        credit = 0
        try:
            while relay.queued:
                sent = stream.sock.send(relay.head())
                self.bytes_up += sent
                credit += relay.wrote(sent, self.now)
        except BlockingIOError:
            pass
        except OSError:
            relay.fail_write()
        if credit:
            self._uplink.send(encode(messages.CREDIT, stream.number, credit))
        self._settle(stream)

    def _settle(self, stream: Stream) -> None:
        """Take the steps that are due."""
        if stream.number not in self._streams:
            return
        if self.draining:
            self._settle_drained(stream)
            return
        for step in stream.relay.steps():
            if step is Step.SHUT_SOCKET:
                _shut(stream.sock)
            elif step is Step.SEND_SHUT:
                self._uplink.send(encode(messages.SHUT, stream.number))
            elif step is Step.SEND_RESET:
                self._reset(stream)
            else:
                self._remove(stream)

    def _settle_drained(self, stream: Stream) -> None:
        """Close only after the peer has: an earlier close could cut off what it has not read yet."""
        relay = stream.relay
        if relay.ended:
            self._remove(stream)
        elif not relay.queued and stream not in self._lingering:
            self._lingering[stream] = self.now + DRAIN_LINGER
            _shut(stream.sock)

    def _reset(self, stream: Stream) -> None:
        """Tell the netstack that the flow broke."""
        self._uplink.send(encode(messages.RESET, stream.number, stream.relay.reset_code))
        self._remove(stream)

    def _remove(self, stream: Stream) -> None:
        stream.relay.release()
        del self._streams[stream.number], self._by_fd[stream.fd]
        self._epoll.unregister(stream.fd)
        self.closing.append(stream.sock)
        self._quiet.pop(stream, None)
        self._lingering.pop(stream, None)
        if self._lookout:
            self._lookout.flow_gone(stream.number)


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the next read or write says the same
        sock.shutdown(socket.SHUT_WR)
