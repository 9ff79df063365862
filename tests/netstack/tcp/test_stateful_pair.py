# SPDX-License-Identifier: GPL-3.0-or-later
"""Our TCP against itself over the worst link there can be: the test decides what becomes of each frame."""

from __future__ import annotations

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from simulator import End, Simulation

from avne.netstack.tcp import output, seq, state, timers

STREAM = random.Random(3).randbytes(1 << 17)
SIZES = st.sampled_from([1, 2, 100, 536, 1448, 5000, 20_000])
TOP = 0xFFFFFFFF


class _Air(Simulation):
    """The link is in the test's hands."""

    def __init__(self, **how) -> None:
        super().__init__(corrupt=1e-9, **how)
        self.air: list[tuple[End, bytes]] = []

    def _transmit(self, sender: End, frame: bytes) -> None:
        self.air.append((self.other(sender), self._on_wire(frame)))

    def flush(self) -> None:
        for end in (self.client, self.server):
            if end.dirty:
                end.dirty = False
                output.flush(end.connection, self.now)
            while end.packets:
                self._transmit(end, b"".join(end.packets.popleft()))

    def expire(self, seconds: float) -> None:
        until = self.now + seconds
        ends = (self.client, self.server)
        while (due := min(end.connection.deadline for end in ends)) <= until:
            self.now = max(self.now, due)
            for end in ends:
                if end.connection.deadline <= self.now:
                    timers.expire(end.connection, self.now)
            self.flush()
        self.now = until


SIDES = st.sampled_from(["client", "server"])
FRAME = st.integers(0, 5)  # of those in the air, the oldest first


class AgainstItself(RuleBasedStateMachine):
    """Two of ours; each frame between them is delivered, lost, repeated, delayed or damaged."""

    @initialize(
        window=st.sampled_from([256, 3000, 65_535, 1 << 18]),
        iss=st.tuples(st.sampled_from([100, TOP - 500]), st.sampled_from([300, TOP - 20_000])),
        v6=st.booleans(),
    )
    def begin(self, window, iss, v6):
        self.sim = _Air(window=window, iss=iss, v6=v6)
        self.written = {"client": 0, "server": 0}
        self.shut: set[str] = set()
        self.aborted = False
        self.sim.connect()
        self.sim.flush()

    def end(self, side: str) -> End:
        return getattr(self.sim, side)

    @rule(side=SIDES, size=SIZES)
    def writes(self, side, size):
        if side not in self.shut and self.end(side).end is None:
            data = STREAM[self.written[side] : self.written[side] + size]
            self.written[side] += len(data)
            self.end(side).send(data)
            self.sim.flush()

    @rule(side=SIDES)
    def shuts(self, side):
        self.shut.add(side)
        self.end(side).connection.shutdown()
        self.sim.flush()

    @rule(count=st.integers(1, 40))
    def frames_arrive(self, count):
        for _ in range(count):
            if self.sim.air:
                self.sim.arrive(*self.sim.air.pop(0))
                self.sim.flush()

    @precondition(lambda self: self.sim.air)
    @rule(which=FRAME)
    def a_frame_is_lost(self, which):
        self.sim.air.pop(which % len(self.sim.air))

    @precondition(lambda self: self.sim.air)
    @rule(which=FRAME)
    def a_frame_comes_twice(self, which):
        self.sim.arrive(*self.sim.air[which % len(self.sim.air)])
        self.sim.flush()

    @precondition(lambda self: self.sim.air)
    @rule(which=FRAME, later=st.integers(1, 9))
    def a_frame_is_late(self, which, later):
        frame = self.sim.air.pop(which % len(self.sim.air))
        self.sim.air.insert(min(len(self.sim.air), which + later), frame)

    @precondition(lambda self: self.sim.air)
    @rule(which=FRAME, at=st.integers(0, 1 << 16), bits=st.integers(1, 255))
    def a_frame_is_damaged(self, which, at, bits):
        end, frame = self.sim.air.pop(which % len(self.sim.air))
        octets = bytearray(frame)
        octets[10 + at % (len(octets) - 10)] ^= bits
        before = self.sim.corrupted
        if end.connection.state is not state.CLOSED:
            self.sim.arrive(end, bytes(octets))
            # IPv6 has no checksum of its header: its hop limit and labels may be anything.
            assert self.sim.corrupted == before + 1 or len(end.connection.template.src) == 16
            self.sim.flush()

    @rule(seconds=st.sampled_from([0.05, 0.25, 1.0, 5.0]))
    def time_passes(self, seconds):
        self.sim.expire(seconds)

    @rule(side=SIDES, now=st.integers(0, 15))
    def aborts(self, side, now):
        if now == 0:
            self.aborted = True
            self.end(side).connection.abort(self.sim.now)
            self.sim.flush()

    @invariant()
    def what_came_was_sent(self):
        for side, other in (("client", "server"), ("server", "client")):
            end = self.end(side)
            assert bytes(end.received_bytes) == STREAM[: len(end.received_bytes)]
            assert len(end.received_bytes) <= self.written[other]
            assert self.end(other).acked_bytes <= len(end.received_bytes), (
                "acknowledged before it was delivered"
            )
            if end.got_fin:
                assert other in self.shut
                assert len(end.received_bytes) == self.written[other], "the end comes after all data"
            c = end.connection
            assert seq.le(c.snd_una, c.snd_nxt)
            assert c.reassembly is None or c.reassembly.held <= c.rcv_wnd

    def teardown(self):
        """The link heals: everything arrives, unless one side has given the other up."""
        if not hasattr(self, "sim"):
            return
        sim = self.sim
        for _ in range(400):
            for _ in range(2000):
                if not sim.air:
                    break
                sim.arrive(*sim.air.pop(0))
                sim.flush()
            self.what_came_was_sent()
            waiting = [e.connection.deadline for e in (sim.client, sim.server)]
            if min(waiting) == float("inf"):
                break
            sim.expire(max(0.0, min(waiting) - sim.now))
        if self.aborted or True in (sim.client.end, sim.server.end):
            return
        assert len(sim.server.received_bytes) == self.written["client"]
        assert len(sim.client.received_bytes) == self.written["server"]
        assert sim.server.got_fin == ("client" in self.shut)
        assert sim.client.got_fin == ("server" in self.shut)


TestAgainstItself = AgainstItself.TestCase
TestAgainstItself.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
