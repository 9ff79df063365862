# SPDX-License-Identifier: GPL-3.0-or-later
"""Our TCP paired with itself over a simulated link, in simulated time.

The link may lose, duplicate, reorder and corrupt frames; both ends are real `Connection`s, and every
frame is built, parsed and checked as on a tun.  Where it may corrupt them, they carry whole checksums.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable

from avne.errors import Malformed
from avne.netstack.tcp import arrives, output, state, timers
from avne.netstack.tcp.connection import Connection, Packet
from avne.netstack.wire import checksum, ip, tcp, vnet

A, B = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
A6, B6 = bytes(15) + b"\x01", bytes(15) + b"\x02"


class End:
    """One end: the `Link` and the `App` of its connection, and what it has seen."""

    def __init__(self, src: bytes, dst: bytes, iss: int, window: int, auto_grant: bool = True) -> None:
        self.packets: deque[Packet] = deque()
        self.dirty = False
        self.received_bytes = bytearray()
        self.got_fin = False
        self.is_established = False
        self.acked_bytes = 0
        self.end: bool | None = None  # reset?
        self.auto_grant = auto_grant
        self.window = window
        self.frames_sent = 0
        template = tcp.HeaderTemplate(src, 1000, dst, 2000)
        self.connection = Connection(self, self, b"key", template, iss, 1460)

    # Link
    def wake(self, connection: Connection) -> None:
        self.dirty = True

    def schedule(self, connection: Connection) -> None:
        connection.scheduled = float("inf")  # the simulator looks at the deadline itself

    def challenge(self, now: float) -> bool:
        return True

    def drop(self, connection: Connection) -> None:
        pass

    # App
    def established(self, now: float) -> None:
        self.is_established = True

    def received(self, payload: memoryview, now: float) -> None:
        self.received_bytes += payload
        if self.auto_grant:
            self.connection.grant(len(payload))

    def received_fin(self, now: float) -> None:
        self.got_fin = True

    def acked(self, count: int, now: float) -> None:
        self.acked_bytes += count

    def closed(self, reset: bool, now: float) -> None:
        assert self.end is None, "closed twice"
        self.end = reset

    def send(self, data: bytes) -> None:
        self.connection.write(memoryview(data))


def parse(frame: bytes) -> tcp.Segment:
    """As the stack does: with every length and, where the kernel has not vouched, checksum checked."""
    return tcp.parse(frame, ip.parse(frame))


def whole_checksum(frame: bytes) -> bytes:
    """`frame` with its TCP checksum computed, as on a wire: nobody vouches for it."""
    datagram = ip.parse(frame)
    at = datagram.payload + 16
    frame = frame[:at] + b"\0\0" + frame[at + 2 :]
    text = memoryview(frame)[datagram.payload : datagram.end]
    sum_ = checksum.pseudo_header(datagram.src, datagram.dst, ip.TCP) + len(text) + checksum.total(text)
    sum_ = ~checksum.fold(sum_) & 0xFFFF
    return vnet.PLAIN + frame[vnet.SIZE : at] + sum_.to_bytes(2, "big") + frame[at + 2 :]


class Simulation:
    """Two ends and a link of `delay` seconds, one way; chance comes from a seeded generator.

    `corrupt`: one byte of a frame is another one; every such frame must be thrown away.
    """

    def __init__(
        self,
        seed: int = 0,
        loss: float = 0.0,
        duplicate: float = 0.0,
        reorder: float = 0.0,
        delay: float = 0.001,
        window: int = 1 << 18,
        iss: tuple[int, int] = (100, 300),
        v6: bool = False,
        auto_grant: bool = True,
        corrupt: float = 0.0,
    ) -> None:
        a, b = (A6, B6) if v6 else (A, B)
        self.client = End(a, b, iss[0], window)
        self.server = End(b, a, iss[1], window, auto_grant)
        self.client.connection.grant(window)
        self.random = random.Random(seed)
        self.loss, self.duplicate, self.reorder, self.delay = loss, duplicate, reorder, delay
        self.corrupt = corrupt
        self.corrupted = 0
        self.on_send: Callable[[End, bytes], None] | None = None  # sees each frame, lost ones too
        self.now = 1000.0
        self._wire: list[tuple[float, int, End, bytes]] = []
        self._serial = 0
        self.delivered = 0

    def connect(self) -> None:
        self.client.connection.open_active()

    def other(self, end: End) -> End:
        return self.server if end is self.client else self.client

    def step(self) -> bool:
        """Until nothing more happens at this instant, then to the next event; False when all is quiet."""
        for end in (self.client, self.server):
            if end.dirty:
                end.dirty = False
                output.flush(end.connection, self.now)
            while end.packets:
                self._transmit(end, b"".join(end.packets.popleft()))
        events = [t for t, _, _, _ in self._wire[:1]]
        events += [e.connection.deadline for e in (self.client, self.server)]
        due = min(events)
        if due == float("inf"):
            return self.client.dirty or self.server.dirty
        self.now = max(self.now, due)
        while self._wire and self._wire[0][0] <= self.now:
            _, _, end, frame = heapq.heappop(self._wire)
            self.arrive(end, frame)
        for end in (self.client, self.server):
            if end.connection.deadline <= self.now:
                timers.expire(end.connection, self.now)
        return True

    def arrive(self, end: End, frame: bytes) -> None:
        self.delivered += 1
        try:
            segment = parse(frame)
        except Malformed:
            assert self.corrupt, "a frame that only a link could have damaged"
            self.corrupted += 1
            return
        connection = end.connection
        if connection.state is state.CLOSED and end.end is None and segment.flags & tcp.SYN:
            connection.open_passive(segment)
            connection.accept(end.window)
        else:
            arrives.segment(connection, segment, self.now)

    def run(self, limit: float = 300.0, steps: int = 200_000) -> None:
        stop = self.now + limit
        for _ in range(steps):
            if not self.step() or self.now > stop:
                return
        raise AssertionError("the simulation does not come to rest")

    def _transmit(self, sender: End, frame: bytes) -> None:
        sender.frames_sent += 1
        if self.on_send is not None:
            self.on_send(sender, frame)
        if self.random.random() < self.loss:
            return
        copies = 2 if self.random.random() < self.duplicate else 1
        for _ in range(copies):
            late = self.delay * self.random.randint(2, 5) if self.random.random() < self.reorder else 0
            self._serial += 1
            arrival = self.now + self.delay + late
            heapq.heappush(self._wire, (arrival, self._serial, self.other(sender), self._on_wire(frame)))

    def _on_wire(self, frame: bytes) -> bytes:
        if not self.corrupt:
            return frame
        octets = bytearray(whole_checksum(frame))
        if self.random.random() < self.corrupt:
            # One byte's change never keeps a sum of 16-bit words (RFC 1071).
            octets[self.random.randrange(vnet.SIZE, len(octets))] ^= self.random.randint(1, 255)
        return bytes(octets)
