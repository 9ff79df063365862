# SPDX-License-Identifier: GPL-3.0-or-later
"""One connection as a play: ``established().recv("A", seq=1, ack=1, data=b"hi").expect(seg("A", ack=3))``.

We are the stack, the guest is the test.  Sequence numbers are relative: in `recv`, ``seq`` to the guest's ISN
and ``ack`` to ours; in `expect` the other way round; 0 is the SYN and 1 the first byte.  Windows are bytes,
never scaled.  Flags are letters: S A F R P U.  Frames are built and parsed as on a tun.

Every line but `expect` and `told` first demands that nothing unexpected was sent; each is a turn of the loop.
"""

from __future__ import annotations

import difflib
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from avne.netstack.tcp import arrives, output, seq, state, timers
from avne.netstack.tcp.connection import Connection, Packet
from avne.netstack.wire import ip, tcp, vnet

GUEST, SERVER = bytes((10, 213, 0, 2)), bytes((192, 0, 2, 80))
WINDOW = 32768  # that the app grants, and that the guest offers
FLAGS = {"F": tcp.FIN, "S": tcp.SYN, "R": tcp.RST, "P": tcp.PSH, "A": tcp.ACK, "U": tcp.URG}


class Seg(NamedTuple):
    """A segment, or what is expected of one: None is anything."""

    flags: str
    seq: int | None = None
    ack: int | None = None
    wnd: int | None = None
    data: bytes | None = None
    sack: tuple[tuple[int, int], ...] | None = None
    options: tcp.Options | None = None
    raw: bytes | None = None  # options as bytes, of what the guest sends only

    def like(self, expected: Seg) -> Seg:
        """Without what `expected` leaves open."""
        return self._replace(**{name: None for name, value in expected._asdict().items() if value is None})

    def __str__(self) -> str:
        fields = ((name, value) for name, value in self._asdict().items() if value is not None)
        return " ".join(value if name == "flags" else f"{name}={value}" for name, value in fields)


def seg(flags: str, **fields: Any) -> Seg:
    return Seg(flags, **fields)


class Play:
    """A connection, its link, its app, and the guest's side of the numbers."""

    def __init__(self, iss: int = 5000, irs: int = 7000, wscale: int | None = 0, sack: bool = True) -> None:
        self.iss, self.irs, self.start = iss, irs, 1000.0
        self.now = self.start
        self.packets: deque[Packet] = deque()
        self.app: list[Any] = []
        self.dirty = False
        self.dropped = False
        self.hold = False  # ACKs that may wait do so
        self.held = False
        self.challenges = 100  # how many more are allowed
        self.syn_options = tcp.Options(1460, wscale, sack)
        template = tcp.HeaderTemplate(SERVER, 80, GUEST, 40000)
        self.c = Connection(self, self, b"key", template, iss, 65480)

    # ---- the link ------------------------------------------------------------------

    def wake(self, connection: Connection) -> None:
        self.dirty = True

    def schedule(self, connection: Connection) -> None:
        connection.scheduled = float("inf")

    def drop(self, connection: Connection) -> None:
        self.dropped = True

    def challenge(self, now: float) -> bool:
        self.challenges -= 1
        return self.challenges >= 0

    # ---- the app -------------------------------------------------------------------

    def established(self, now: float) -> None:
        self.app.append("established")

    def received(self, payload: memoryview, now: float) -> None:
        self.app.append(bytes(payload))

    def received_fin(self, now: float) -> None:
        self.app.append("fin")

    def acked(self, count: int, now: float) -> None:
        self.app.append(("acked", count))

    def closed(self, reset: bool, now: float) -> None:
        self.app.append("reset" if reset else "closed")

    # ---- what happens --------------------------------------------------------------

    def recv(self, flags: str, seq: int = 1, ack: int | None = 1, wnd: int = WINDOW, data: bytes = b"",
             sack: tuple[tuple[int, int], ...] = (), options: tcp.Options | None = None,
             raw: bytes | None = None) -> Play:  # fmt: skip
        """A segment of the guest; `ack` counts only with A among the flags."""
        self._quiet()
        self._arrive(Seg(flags, seq, ack, wnd, data, sack, options, raw))
        return self._turn()

    def recv_all(self, *segments: Seg) -> Play:
        """Several segments in one turn."""
        self._quiet()
        for segment in segments:
            self._arrive(segment._replace(wnd=WINDOW if segment.wnd is None else segment.wnd))
        return self._turn()

    def do(self, *actions: Callable[[Connection], None]) -> Play:
        """What the app does, all in one turn."""
        self._quiet()
        for action in actions:
            action(self.c)
        return self._turn()

    def write(self, data: bytes) -> Play:
        return self.do(lambda c: c.write(memoryview(data)))

    def shutdown(self) -> Play:
        return self.do(Connection.shutdown)

    def grant(self, count: int) -> Play:
        return self.do(lambda c: c.grant(count))

    def abort(self) -> Play:
        return self.do(lambda c: c.abort(self.now))

    def at(self, seconds: float) -> Play:
        """The time is `seconds` after the start; what was due before has happened."""
        self._quiet()
        end = self.start + seconds
        while self.c.deadline <= end:
            self.now = max(self.now, self.c.deadline)
            timers.expire(self.c, self.now)
            self._turn()
        self.now = end
        return self

    def after(self, seconds: float) -> Play:
        return self.at(self.now - self.start + seconds)

    # ---- what is expected ------------------------------------------------------------

    def expect(self, *expected: Seg) -> Play:
        """Exactly these segments were sent, in this order."""
        sent = [self._read(b"".join(self.packets.popleft())) for _ in range(len(self.packets))]
        shown = [str(s.like(e)) for s, e in zip(sent, expected, strict=False)]
        shown += [str(s) for s in sent[len(expected) :]]
        wanted = [str(e) for e in expected]
        assert shown == wanted, "expected (-), sent (+):\n" + "\n".join(difflib.ndiff(wanted, shown))
        return self

    def each_frame(self, look: Callable[[bytes], None]) -> Play:
        """`look` at each frame that was sent, of which there is one at least."""
        assert self.packets
        while self.packets:
            look(b"".join(self.packets.popleft()))
        return self

    def told(self, *events: Any) -> Play:
        """Exactly this the app has been told since the last time."""
        told, self.app = self.app, []
        assert told == list(events)
        return self

    def enters(self, wanted: state.State) -> Play:
        assert self.c.state is wanted
        assert self.dropped is (wanted is state.CLOSED)
        return self

    # ---- inside ----------------------------------------------------------------------

    @property
    def snd(self) -> int:
        """SND.NXT, relative."""
        return (self.c.snd_nxt - self.iss) & seq.MASK

    @property
    def rcv(self) -> int:
        """RCV.NXT, relative."""
        return (self.c.rcv_nxt - self.irs) & seq.MASK

    def _quiet(self) -> None:
        self.expect()

    def _turn(self) -> Play:
        if self.dirty:
            self.dirty = False
            self.held = output.flush(self.c, self.now, self.hold)
        return self

    def _arrive(self, s: Seg) -> None:
        segment = parse(self.frame(s))
        if self.c.state is state.CLOSED and not self.dropped:
            self.c.open_passive(segment)
        else:
            arrives.segment(self.c, segment, self.now)

    def frame(self, s: Seg) -> bytes:
        """`s` as the guest's kernel gives it to the tun."""
        options = b""
        if s.options is not None or "S" in s.flags:
            o = s.options or self.syn_options
            options = tcp.syn_options(o.mss or 1460, o.window_scale, o.sack_permitted)
        if s.sack:
            options += tcp.sack_option([tuple((self.iss + edge) & seq.MASK for edge in b) for b in s.sack])
        options = options if s.raw is None else s.raw
        flags = sum(FLAGS[letter] for letter in s.flags)
        ack = (self.iss + (s.ack or 0)) & seq.MASK if "A" in s.flags else 0
        scale = 0 if "S" in s.flags else self.c.snd_wscale
        data = s.data or b""
        template = tcp.HeaderTemplate(GUEST, 40000, SERVER, 80)
        start = (self.irs + (s.seq or 0)) & seq.MASK
        return template.build(start, ack, flags, (s.wnd or 0) >> scale, len(data), 0, options) + data

    def _read(self, frame: bytes) -> Seg:
        """What we have sent, as the guest sees it."""
        s = parse(frame)
        flags = "".join(letter for letter, bit in FLAGS.items() if s.flags & bit)
        wnd = s.wnd if "S" in flags or "R" in flags else s.wnd << self.c.rcv_wscale
        sack = tuple(tuple((edge - self.irs) & seq.MASK for edge in block) for block in s.options.sack)
        ack = (s.ack - self.irs) & seq.MASK if "A" in flags else 0
        return Seg(flags, (s.seq - self.iss) & seq.MASK, ack, wnd, bytes(s.payload), sack, s.options)


def parse(frame: bytes) -> tcp.Segment:
    assert len(frame) >= vnet.SIZE
    return tcp.parse(frame, ip.parse(frame))


# ---- canonical states ------------------------------------------------------------------


def parked(**how: Any) -> Play:
    play = Play(**how).recv("S", seq=0)
    return play.enters(state.PARKED).expect()


def syn_sent(**how: Any) -> Play:
    play = Play(**how)
    play.irs = 0  # not known yet
    play.do(lambda c: c.grant(WINDOW), Connection.open_active).expect(seg("S", seq=0))
    play.irs = how.get("irs", 7000)
    return play.enters(state.SYN_SENT)


def syn_received(**how: Any) -> Play:
    play = parked(**how).do(lambda c: c.accept(WINDOW))
    return play.expect(seg("SA", seq=0, ack=1, wnd=WINDOW)).enters(state.SYN_RECEIVED)


def established(**how: Any) -> Play:
    play = syn_received(**how).recv("A").told("established")
    return play.expect().enters(state.ESTABLISHED)


def fin_wait_1(**how: Any) -> Play:
    play = established(**how).shutdown().expect(seg("FA", seq=1, ack=1))
    return play.enters(state.FIN_WAIT_1)


def fin_wait_2(**how: Any) -> Play:
    return fin_wait_1(**how).recv("A", ack=2).expect().enters(state.FIN_WAIT_2)


def close_wait(**how: Any) -> Play:
    play = established(**how).recv("FA").expect(seg("A", seq=1, ack=2)).told("fin")
    return play.enters(state.CLOSE_WAIT)


def closing(**how: Any) -> Play:
    play = fin_wait_1(**how).recv("FA").expect(seg("A", seq=2, ack=2)).told("fin")
    return play.enters(state.CLOSING)


def last_ack(**how: Any) -> Play:
    play = close_wait(**how).shutdown().expect(seg("FA", seq=1, ack=2))
    return play.enters(state.LAST_ACK)


def time_wait(**how: Any) -> Play:
    play = fin_wait_2(**how).recv("FA", ack=2).expect(seg("A", seq=2, ack=2)).told("fin", "closed")
    return play.enters(state.TIME_WAIT)


OPENING = (syn_received,)
RECEIVING = (established, fin_wait_1, fin_wait_2)
ENDED_BY_GUEST = (close_wait, closing, last_ack, time_wait)
SYNCHRONIZED = RECEIVING + ENDED_BY_GUEST
