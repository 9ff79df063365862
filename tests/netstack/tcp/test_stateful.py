# SPDX-License-Identifier: GPL-3.0-or-later
"""Our TCP against a model of what TCP promises.

What was written is delivered, once and in order, and the end after it; nothing is delivered after a reset;
no more is taken than was granted, and no more sent than the other's window allows; a window once offered
stays (but for what the scaled field cannot say).
"""

from __future__ import annotations

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from playbook import Play, Seg, parse

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
        self.sent.append((start - 1, self.fin_at - 1))
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


TestAgainstAModel = AgainstAModel.TestCase
TestAgainstAModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
