# SPDX-License-Identifier: GPL-3.0-or-later
"""Our TCP against a model of what TCP promises, and against itself over the worst link there can be.

The promises: what was written is delivered, once and in order, and the end after it; nothing is delivered
after a reset; no more is taken than was granted, and no more sent than the other's window allows; a window
once offered stays (but for what the scaled field cannot say).
"""

from __future__ import annotations

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from playbook import Play, Seg, parse
from simulator import End, Simulation

from avne.netstack.tcp import output, seq, state, timers

STREAM = random.Random(3).randbytes(1 << 17)
SIZES = st.sampled_from([1, 2, 100, 536, 1448, 5000, 20_000])
TOP = 0xFFFFFFFF


def _reach(start: int, ranges: list[tuple[int, int]]) -> int:
    """How far from `start` the ranges [start, end) leave no hole."""
    for first, end in sorted(ranges):
        if first <= start:
            start = max(start, end)
    return start


class AgainstAModel(RuleBasedStateMachine):
    """The guest is the model: a stream each way, sequence numbers counted from 1, and what it may expect."""

    @initialize(
        iss=st.sampled_from([5000, TOP - 3000]),
        irs=st.sampled_from([7000, TOP - 10, TOP - 40_000]),
        wscale=st.sampled_from([None, 0, 7]),
        sack=st.booleans(),
        granted=st.sampled_from([0, 1000, 32_768, 65_535]),
    )
    def begin(self, iss, irs, wscale, sack, granted):
        self.play = play = Play(iss, irs, wscale, sack)
        self.granted = granted
        self.edge = 0  # the highest right edge that we have offered
        self.sent: list[tuple[int, int]] = []  # [start, end) of the guest's stream, in the window
        self.fin_at: int | None = None  # the guest's FIN, as a number
        self.written = 0  # of our stream
        self.shut = False
        self.ours = 1  # the next number that we may send for the first time
        self.acked = 1  # what the guest has acknowledged
        self.heard: list[tuple[int, int]] = []  # [start, end) of what the guest has received of us
        self.limit = 65_535  # the right edge of the guest's window, of all that it has said
        self.wnd = 65_535
        self.deaf = 0  # how many of our segments do not arrive
        self.delivered = 0
        self.finished = self.over = False
        play.recv_all(Seg("S", 0, None, self.wnd))
        play.do(lambda c: c.accept(granted))
        self.look()
        self.guest("A", 1)

    # ---- what the guest does -----------------------------------------------------------------

    def guest(self, flags: str, start: int, data: bytes = b"") -> None:
        self.limit = max(self.limit, self.acked + self.wnd)
        wnd = self.wnd
        self.play.recv_all(Seg(flags, start & seq.MASK, self.acked, wnd, data))
        self.look()

    def received_of_us(self) -> int:
        """The number up to which the guest has everything."""
        return _reach(1, self.heard)

    def snd_nxt(self) -> int:
        """The guest's SND.NXT."""
        return (
            self.fin_at + 1 if self.fin_at is not None else 1 + max((end for _, end in self.sent), default=0)
        )

    @rule(
        size=SIZES, back=st.sampled_from([0, 0, 0, 1, 500, 30_000]), skip=st.sampled_from([0, 0, 0, 1, 3000])
    )
    def sends_data(self, size, back, skip):
        """New data, some of it old, or ahead of its turn: a window's worth at most is worth sending."""
        start = max(0, _reach(0, self.sent) - back + skip)
        end = min(start + size, len(STREAM), (self.fin_at or TOP) - 1)
        if start < end:
            if start + 1 < self.edge:  # what it sends beyond the window is as if it had not been sent
                self.sent.append((start, min(end, self.edge - 1)))
            self.guest("PA", start + 1, STREAM[start:end])

    @precondition(lambda self: self.fin_at is None and self.snd_nxt() < self.edge)
    @rule()
    def ends(self):
        self.fin_at = self.snd_nxt()
        self.guest("FA", self.fin_at)

    @precondition(lambda self: self.fin_at is not None)
    @rule(back=st.sampled_from([0, 1, 1000]))
    def repeats_its_end(self, back):
        start = max(1, self.fin_at - back)
        self.guest("FA", start, STREAM[start - 1 : self.fin_at - 1])

    @rule(part=st.sampled_from([0.0, 0.5, 1.0, 1.0]), wnd=st.sampled_from([0, 1, 2890, 65_535, 65_535]))
    def acknowledges(self, part, wnd):
        reached = self.received_of_us()
        self.acked += int((reached - self.acked) * part)
        self.wnd = wnd >> (self.play.c.snd_wscale or 0) << (self.play.c.snd_wscale or 0)
        self.guest("A", self.snd_nxt())

    @rule(count=st.integers(1, 3))
    def loses_what_we_send(self, count):
        self.deaf = count

    @rule()
    def forgets_what_came_ahead(self):
        """A guest without memory may drop what it has not acknowledged (RFC 2018 §8)."""
        self.heard = [(1, self.acked)]

    @rule(ahead=st.sampled_from([1, 5000, 1 << 20]))
    def acknowledges_what_was_not_sent(self, ahead):
        was, self.acked = self.acked, self.ours + ahead
        limit = self.limit
        self.guest("A", self.snd_nxt())
        self.acked, self.limit = was, limit

    @precondition(lambda self: not self.over)
    @rule(exact=st.booleans())
    def resets(self, exact):
        start = self.play.rcv + (0 if exact else -1)
        self.guest("R", start)
        if exact:
            self.over = True

    # ---- what our app does ---------------------------------------------------------------------

    @precondition(lambda self: not self.shut)
    @rule(size=SIZES)
    def writes(self, size):
        data = STREAM[self.written : self.written + size]
        if not self.over:
            self.written += len(data)
        self.play.do(lambda c: c.write(memoryview(data)))
        self.look()

    @precondition(lambda self: not self.shut)
    @rule()
    def shuts(self):
        self.shut = True
        self.play.shutdown()
        self.look()

    @rule(count=st.sampled_from([1, 255, 256, 5000, 65_536]))
    def grants(self, count):
        self.granted += count
        self.play.grant(count)
        self.look()
        if self.play.c.state in state.RECEIVING and self.granted - self.delivered >= 256:
            assert self.edge > 1 + self.delivered, "the window stays closed"

    @rule(seconds=st.sampled_from([0.001, 0.1, 0.3, 2.0, 30.0]))
    def time_passes(self, seconds):
        play = self.play
        end = play.now + seconds
        while play.c.deadline <= end:
            play.now = max(play.now, play.c.deadline)
            timers.expire(play.c, play.now)
            play._turn()
            self.look()
        play.now = end

    # ---- what must be so -------------------------------------------------------------------------

    def look(self) -> None:
        """Every segment that we have sent, and everything that the app was told."""
        play = self.play
        while play.packets:
            segment = parse(b"".join(play.packets.popleft()))
            start = (segment.seq - play.iss) & seq.MASK
            if segment.flags & 4:  # RST
                assert not segment.payload
                continue
            if segment.flags & 2:  # SYN
                self.edge = 1 + segment.wnd
                continue
            self.sees_window(segment)
            self.sees_text(start, segment)
        for event in play.app:
            self.heeds(event)
        play.app.clear()

    def sees_window(self, segment) -> None:
        play = self.play
        ack = (segment.ack - play.irs) & seq.MASK
        sent = 1 + _reach(0, self.sent)
        assert ack <= sent + (sent == self.fin_at), "acknowledged, and never sent"
        edge = ack + (segment.wnd << play.c.rcv_wscale)
        unit = (1 << play.c.rcv_wscale) - 1
        assert edge >= self.edge - unit, "the window has shrunk"
        fin = self.fin_at is not None and ack > self.fin_at
        assert edge <= 1 + self.granted + fin, "more was offered than was granted"
        self.edge = max(self.edge, edge)

    def sees_text(self, start: int, segment) -> None:
        data = bytes(segment.payload)
        fin = segment.flags & 1
        if not data and not fin:
            return
        end = start + len(data)
        assert data == STREAM[start - 1 : end - 1], "not what was written"
        assert end - 1 <= self.written
        if start >= self.ours:
            assert end <= max(self.limit, self.ours), "more than the guest's window"
        if fin:
            assert self.shut
            assert end == self.written + 1, "the end comes after all data"
        self.ours = max(self.ours, end + fin)
        if self.deaf:
            self.deaf -= 1
        else:
            self.heard.append((start, end + fin))

    def heeds(self, event) -> None:
        assert not self.over, "nothing more after a reset"
        if isinstance(event, bytes):
            assert not self.finished, "data after the end"
            assert event == STREAM[self.delivered : self.delivered + len(event)], "not what was sent"
            self.delivered += len(event)
            assert self.delivered <= self.granted, "more than was granted"
        elif event == "fin":
            assert self.delivered == self.fin_at - 1, "the end comes after all data"
            self.finished = True
        elif event == "reset":
            self.over = True

    @invariant()
    def numbers_are_in_order(self):
        c = self.play.c
        assert seq.le(c.snd_una, c.snd_nxt)
        assert len(c.inflight) <= output.MAX_IN_FLIGHT + 1
        if c.state is not state.CLOSED:
            assert c.unsent_bytes == sum(len(piece) for piece in c.unsent)
            assert self.play.rcv == 1 + self.delivered + self.finished
        if c.reassembly is not None:
            assert c.reassembly.held <= c.rcv_wnd

    def teardown(self):
        """A guest that does what it should gets everything."""
        if not hasattr(self, "play") or self.over:
            return
        self.wnd, self.deaf = 65_535, 0
        for _ in range(60):
            self.acked = max(self.acked, self.received_of_us())
            self.guest("A", self.snd_nxt())
            self.time_passes(61.0)
            if self.over or self.play.c.state in (state.CLOSED, state.TIME_WAIT):
                break
        if not self.over:
            assert self.received_of_us() == 1 + self.written + (self.shut and self.play.c.fin_sent)
            assert not self.play.c.unsent


# ---- against itself ------------------------------------------------------------------------------


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


TestAgainstAModel = AgainstAModel.TestCase
TestAgainstAModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAgainstItself = AgainstItself.TestCase
TestAgainstItself.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
