# SPDX-License-Identifier: GPL-3.0-or-later
"""A stack between a guest and workers whose every output is read by the strict reader."""

from __future__ import annotations

import random
from typing import NamedTuple

import strict

from avne.errors import Malformed
from avne.ipc import messages
from avne.ipc.messages import Sender, encode
from avne.ipc.pool import Pool
from avne.limits import REASSEMBLY_DATAGRAMS, REASSEMBLY_PIECES
from avne.netstack.dns.resolver import Config
from avne.netstack.stack import Stack
from avne.netstack.tcp import reassembly, seq
from avne.netstack.tcp.output import MAX_IN_FLIGHT
from avne.netstack.wire import split, vnet

_token = random.Random(1).randbytes
_pool = Pool()  # one for all inputs: its memory comes back by itself


class Told(NamedTuple):
    worker: bytes
    kind: int
    flow: int
    fields: list[object]
    payload: bytes


class World:
    def __init__(
        self, kind: str, capabilities: int, resolver: bool, in_parts: bool, lane: bool = False
    ) -> None:
        self.stack = Stack(Config(("192.0.2.53", 53) if resolver else None), _token)
        self.now = 1000.0
        self.told: list[Told] = []
        self.frames: list[bytes] = []  # sent to the guest
        self.in_parts = in_parts  # frames are read head and text apart
        self.stack.pool = _pool
        self.features: set[str] = set()
        if lane:
            self.stack.upstreams.lanes.add(b"w0")
        self.handle(b"w0", encode(messages.HELLO, 0, messages.WIRE_VERSION, kind, capabilities))
        self.told.clear()

    # ---- what happens --------------------------------------------------------------------------

    def receive(self, frame: bytes) -> None:
        """As the process does: the text into the pool."""
        head = split.HEAD_V6 if len(frame) > vnet.SIZE and frame[vnet.SIZE] >> 4 == 6 else split.HEAD_V4
        room = self.stack.pool.room(1 << 16) if self.in_parts else None
        if room is None or len(frame) < head:
            self.stack.receive(frame, self.now)
            return
        text = frame[head:]
        room[: len(text)] = text
        self.stack.receive_text(bytearray(frame[:head]), room[: len(text)], self.now)

    def handle(self, worker: bytes, header: bytes, payload: bytes | None = None) -> bool:
        """False: the worker broke the protocol, and was cut off."""
        try:
            self.stack.handle(worker, header, payload, self.now)
        except Malformed as error:
            self.features.add(f"cut-off {error.reason}")
            self.stack.worker_gone(worker, self.now)
            self.turn()
            return False
        self.turn()
        return True

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        for _ in range(2000):
            due = self.stack.poll_at()
            if due is None or due > end:
                break
            self.now = max(self.now, due)
            self.turn()
        else:
            raise AssertionError("timers without end")
        self.now = end
        self.turn()

    def turn(self) -> None:
        stack = self.stack
        stack.handle_timer(self.now)
        stack.flush(self.now)
        out = stack.upstreams.messages
        while out:
            worker, header, payload = out.popleft()
            kind, flow, *fields = messages.decode(header, Sender.NETSTACK)
            body = bytes(payload or b"")
            self.told.append(Told(worker, kind, flow, fields, body))
        while stack.packets:
            frame = b"".join(stack.packets.popleft())
            strict.check(frame)
            self.frames.append(frame)
        stack.logs.clear()

    # ---- what must be so -----------------------------------------------------------------------

    def check(self) -> None:
        """Memory is bounded, and the numbers are in order."""
        stack = self.stack
        assert 0 <= stack.half_open <= len(stack.connections)
        held = stack.internet._reassembler._datagrams.values()
        assert len(held) <= REASSEMBLY_DATAGRAMS
        assert all(len(datagram.pieces) <= REASSEMBLY_PIECES for datagram in held)
        for c in stack.connections.values():
            assert seq.le(c.snd_una, c.snd_nxt)
            assert len(c.inflight) <= MAX_IN_FLIGHT + 1
            assert seq.le(c.rcv_nxt, c.rcv_adv), "the window has no negative size"
            assert seq.le(c.rcv_adv, c.rcv_edge), "no more is offered than was granted"
            if c.reassembly is not None:
                assert c.reassembly.held <= c.rcv_wnd
                assert len(c.reassembly._blocks) <= reassembly.MAX_BLOCKS
            self.features.add(c.state.value)

    def end(self) -> set[str]:
        """The workers go, time passes, and nothing is left."""
        self.check()
        for worker in list(self.stack.upstreams.workers):
            self.stack.worker_gone(worker, self.now)
        self.turn()
        self.wait(1500.0)  # a guest that answers nothing: R2, or the last probe of its window
        assert not self.stack.connections, "a connection lives for ever"
        assert self.stack.half_open == 0
        assert not self.stack._deadlines
        assert self.stack.port53.resolver._waiting == 0
        self.features.update(self.stack.counters)
        return self.features
