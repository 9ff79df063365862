# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of matrix.py, cell by cell, and that none is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import matrix
import playbook
import pytest
from playbook import GUEST, SERVER, WINDOW, Play, Seg, parse

from avne.netstack.tcp import arrives, seq, state, timers
from avne.netstack.tcp.connection import Connection, Timer
from avne.netstack.wire import tcp

CELLS = matrix.table()
STATES = [s.value for s in state.State]
FAR = 1 << 24  # an old ACK must be further away than any window (RFC 5961 §5)


# ---- the situations ---------------------------------------------------------------------------


def _closed() -> Play:
    play = playbook.established()
    play.abort().expect(playbook.seg("RA"))
    return play


def _with_data(canonical: Callable[..., Play]) -> Callable[[], Play]:
    return lambda: canonical(iss=FAR).write(b"xyz").expect(playbook.seg("PA"))


SITUATIONS: dict[str, Callable[[], Play]] = {
    "PARKED": playbook.parked,
    "SYN-SENT": playbook.syn_sent,
    "SYN-RECEIVED": playbook.syn_received,
    "ESTABLISHED": _with_data(playbook.established),
    "FIN-WAIT-1": playbook.fin_wait_1,
    "FIN-WAIT-2": playbook.fin_wait_2,
    "CLOSE-WAIT": _with_data(playbook.close_wait),
    "CLOSING": playbook.closing,
    "LAST-ACK": playbook.last_ack,
    "TIME-WAIT": playbook.time_wait,
    "CLOSED": _closed,
}


class Before(NamedTuple):
    """The numbers that the table's terms mean, relative, as they were before the event."""

    una: int
    nxt: int
    rcv: int
    edge: int  # RCV.NXT+RCV.WND
    unanswered: bool  # no ACK of ours has been acceptable yet: SND.NXT is the only good one

    @property
    def ack(self) -> int:
        return self.nxt if self.unanswered else self.una


def _before(play: Play) -> Before:
    c = play.c
    early = c.state in (state.PARKED, state.SYN_SENT, state.SYN_RECEIVED)
    rcv = 1 if c.state is state.SYN_SENT else play.rcv  # not known yet: as if the SYN had come
    una = (c.snd_una - play.iss) & seq.MASK
    return Before(una, play.snd, rcv, rcv + c.rcv_wnd, early)


# ---- the events -------------------------------------------------------------------------------


def _segment(flags: str, at: Callable[[Before], int], ack: Callable[[Before], int] | None = None,
             data: bytes = b"", wnd: int = WINDOW) -> Callable[[Play, Before], Seg]:  # fmt: skip
    """An event that is a segment: where it begins, and what it acknowledges."""

    def happen(play: Play, b: Before) -> Seg:
        number = b.ack if ack is None else ack(b)
        segment = Seg(flags, at(b) & seq.MASK, number & seq.MASK, wnd, data)
        _arrive(play, segment)
        return segment

    return happen


def _arrive(play: Play, segment: Seg) -> None:
    if play.c.state is state.CLOSED:
        # No connection is left: the stack answers (§3.10.7.1).
        template = tcp.HeaderTemplate(SERVER, 80, GUEST, 40000)
        if answer := arrives.answer_unknown(template, parse(play.frame(segment))):
            play.packets.append((answer,))
    else:
        play.recv_all(segment)


MAY_WRITE = {state.PARKED, state.SYN_SENT, state.SYN_RECEIVED, state.ESTABLISHED, state.CLOSE_WAIT}


def _window_closes(play: Play, b: Before) -> Seg:
    segment = _segment("A", lambda b: b.rcv, wnd=0)(play, b)
    if play.c.state in MAY_WRITE:
        play.c.write(memoryview(b"d"))
        play._turn()
    return segment


def _with_closed_window(play: Play, b: Before) -> None:
    """The window is 0; where the app may write, all data is acknowledged and it has written more."""
    if not b.unanswered and play.c.state is not state.CLOSED:
        data = play.c.state in MAY_WRITE
        play.recv_all(Seg("A", b.rcv, b.nxt if data else b.una, 0)).expect()
        play.app.clear()
        if data:
            play.write(b"d").expect()


def _timeout(which: int) -> Callable[[Play, Before], None]:
    def happen(play: Play, b: Before) -> None:
        if play.c.timer != which:
            play.app.append("no timer")
        else:
            play.now = play.c.deadline
            timers.expire(play.c, play.now)
            play._turn()

    return happen


def _exhausted(play: Play, b: Before) -> None:
    play.c.backoffs = max(timers.MAX_BACKOFFS, timers.MAX_SYN_BACKOFFS)


def _app(*actions: Callable[[Connection], None]) -> Callable[[Play, Before], None]:
    return lambda play, b: play.do(*actions) and None


EVENTS: dict[str, Callable[[Play, Before], Seg | None]] = {
    "SYN repeated": _segment("S", lambda b: 0),
    "SYN in the window": _segment("S", lambda b: b.rcv + 5),
    "SYN beyond the window": _segment("S", lambda b: b.edge + 5),
    "SYN-ACK": _segment("SA", lambda b: 0, lambda b: b.nxt),
    "SYN-ACK of nothing": _segment("SA", lambda b: 0, lambda b: b.nxt + 1),
    "ACK of all": _segment("A", lambda b: b.rcv, lambda b: b.nxt),
    "ACK duplicate": _segment("A", lambda b: b.rcv, lambda b: b.una),
    "ACK old": _segment("A", lambda b: b.rcv, lambda b: b.una - 1),
    "ACK ancient": _segment("A", lambda b: b.rcv, lambda b: b.una - FAR),
    "ACK of unsent": _segment("A", lambda b: b.rcv, lambda b: b.nxt + 1),
    "keep-alive": _segment("A", lambda b: b.rcv - 1),
    "data in order": _segment("PA", lambda b: b.rcv, data=b"abc"),
    "data urgent": _segment("PUA", lambda b: b.rcv, data=b"abc"),
    "data out of order": _segment("PA", lambda b: b.rcv + 10, data=b"abc"),
    "data overlapping": _segment("PA", lambda b: b.rcv - 2, data=b"--abc"),
    "data old": _segment("PA", lambda b: b.rcv - 3, data=b"abc"),
    "data over the right edge": _segment("PA", lambda b: b.edge - 1, data=b"abc"),
    "data beyond the window": _segment("PA", lambda b: b.edge, data=b"abc"),
    "data wrapped": _segment("PA", lambda b: b.rcv + (1 << 31), data=b"abc"),
    "data without ACK": _segment("", lambda b: b.rcv, data=b"abc"),
    "FIN in order": _segment("FA", lambda b: b.rcv),
    "FIN and ACK of all": _segment("FA", lambda b: b.rcv, lambda b: b.nxt),
    "FIN with data": _segment("FPA", lambda b: b.rcv, data=b"abc"),
    "FIN out of order": _segment("FA", lambda b: b.rcv + 10),
    "FIN repeated": _segment("FA", lambda b: b.rcv - 1),
    "RST exact": _segment("R", lambda b: b.rcv),
    "RST-ACK exact": _segment("RA", lambda b: b.rcv, lambda b: b.nxt),
    "RST in the window": _segment("R", lambda b: b.rcv + 5),
    "RST before the window": _segment("R", lambda b: b.rcv - 1),
    "RST beyond the window": _segment("R", lambda b: b.edge + 1),
    "window closes": _window_closes,
    "window opens": _segment("A", lambda b: b.rcv),
    "write": _app(lambda c: c.write(memoryview(b"d"))),
    "shutdown": _app(Connection.shutdown),
    "abort": _app(lambda c: c.abort(1000.0)),
    "grant": _app(lambda c: c.grant(64 << 10)),
    "retransmission timeout": _timeout(Timer.RETRANSMIT),
    "retransmission timeout, the last": _timeout(Timer.RETRANSMIT),
    "persist timeout": _timeout(Timer.PERSIST),
    "TIME-WAIT timeout": _timeout(Timer.TIME_WAIT),
}

# What has to be so before.
FIRST: dict[str, Callable[[Play, Before], None]] = {
    "window opens": _with_closed_window,
    "persist timeout": _with_closed_window,
    "retransmission timeout, the last": _exhausted,
}


# ---- what happened, in the table's terms --------------------------------------------------------


def _outcome(play: Play, b: Before, was: state.State, event: Seg | None) -> str:
    sent = [play._read(b"".join(packet)) for packet in play.packets]
    play.packets.clear()
    words = [_name(play, b, was, s, event) for s in sent]
    for told in play.app:
        if isinstance(told, tuple):
            words.append(f"acked{told[1]}")
        else:
            words.append(repr(told.decode()) if isinstance(told, bytes) else told)
    if play.c.state is not was:
        words += [">", play.c.state.value]
    return " ".join(words) or "-"


def _name(play: Play, b: Before, was: state.State, s: Seg, event: Seg | None) -> str:
    """The table's word for a segment, or all of the segment where it has none."""
    zero, rcv = -play.iss & seq.MASK, b.rcv
    if event is not None and was is state.SYN_SENT and "S" in event.flags:
        rcv = event.seq + 1  # RCV.NXT := SEG.SEQ+1 (§3.10.7.3)
    seg_end = 0 if event is None else event.seq + len(event.data) + sum(x in "SF" for x in event.flags)
    words = {
        ("A", b.nxt, rcv): "ACK",
        ("A", b.una - 1, rcv): "PROBE",
        ("S", 0, 0): "SYN",
        ("SA", 0, rcv): "SYN-ACK",
        ("RA", b.nxt, rcv): "RST",
        ("RA", zero, seg_end if event else rcv): "RST=0",
        ("R", event.ack if event else None, 0): "RST=ACK",
        ("FA", b.nxt, rcv): "FIN",
        ("FPA", b.una, rcv): "FIN-again",
        ("PA", b.una, rcv): "DATA-again",
        ("PA", b.nxt, rcv): "DATA",  # where nothing is in flight, the two begin at the same number
        **{("A", b.nxt, rcv + n): f"ACK+{n}" for n in (1, 3, 4)},
    }
    flags = "".join(sorted(s.flags, key="SFRPAU".index))
    word = words.get((flags, s.seq, s.ack), str(s))
    return word if bool(s.data) == word.startswith("DATA") else str(s)


# ---- the tests --------------------------------------------------------------------------------


@pytest.mark.parametrize(("event", "where", "wanted", "note"), CELLS, ids=str)
def test_cell(event, where, wanted, note):
    play = SITUATIONS[where]()
    play.app.clear()
    was = play.c.state
    assert was.value == where
    if wanted == "never":
        assert play.c.fin_queued, "the app has said that it will not"
        return
    if event in FIRST:
        FIRST[event](play, _before(play))
    before = _before(play)
    segment = EVENTS[event](play, before)
    assert _outcome(play, before, was, segment) == wanted, matrix.NOTES.get(note, "")


def test_no_cell_is_missing_and_none_is_there_twice():
    cells = Counter((event, where) for event, where, _, _ in CELLS)
    assert set(cells.values()) == {1}
    assert set(cells) == {(event, where) for event in EVENTS for where in STATES}
    assert set(STATES) == set(SITUATIONS)


def test_each_note_is_used():
    assert {note for *_, note in CELLS if note} == set(matrix.NOTES)
