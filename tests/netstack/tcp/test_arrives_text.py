# SPDX-License-Identifier: GPL-3.0-or-later
"""SEGMENT ARRIVES from the URG bit on: text, FIN, and the states after it (RFC 9293 §3.10.7.4)."""

from __future__ import annotations

import pytest
from playbook import (
    ENDED_BY_GUEST,
    RECEIVING,
    WINDOW,
    close_wait,
    established,
    fin_wait_1,
    fin_wait_2,
    last_ack,
    seg,
    syn_received,
    time_wait,
)

from avne.netstack.tcp import state
from avne.netstack.tcp.arrives import TIME_WAIT_SECONDS
from avne.netstack.tcp.connection import Connection
from avne.netstack.tcp.reassembly import MAX_BLOCKS

EDGE = 1 + WINDOW  # the first byte beyond the window, relative


def each(*states):
    return pytest.mark.parametrize("canonical", states, ids=lambda s: s.__name__)


# ---- sixth: the URG bit ----------------------------------------------------------------


def test_urgent_data_is_delivered_in_line():
    established().recv("PAU", data=b"abc!").expect(seg("A", ack=5)).told(b"abc!")


# ---- seventh: the segment text -----------------------------------------------------------


@each(*RECEIVING)
@pytest.mark.rfc("9293", "MUST-40")
@pytest.mark.rfc("9293", "SHLD-19")
@pytest.mark.rfc("5681", "4.2-1")
def test_data_in_order_is_delivered_and_acknowledged_at_once(canonical):
    play = canonical()
    play.recv("PA", ack=play.snd, data=b"abc").expect(seg("A", ack=4)).told(b"abc")
    play.recv("A", seq=4, ack=play.snd, data=b"de").expect(seg("A", ack=6)).told(b"de")


@pytest.mark.rfc("9293", "MUST-58")
@pytest.mark.rfc("9293", "MUST-59")
@pytest.mark.rfc("9293", "SHLD-18")
def test_one_ack_for_all_segments_of_a_turn():
    burst = [seg("A", seq=1 + n * 100, ack=1, data=bytes(100)) for n in range(20)]
    established().recv_all(*burst).expect(seg("A", ack=2001)).told(*[bytes(100)] * 20)


def test_the_ack_rides_on_data():
    play = established()
    play.recv_all(seg("PA", seq=1, ack=1, data=b"ping")).expect(seg("A", ack=5))
    play._quiet()
    play._arrive(seg("PA", seq=5, ack=1, wnd=WINDOW, data=b"ping"))
    play.write(b"pong").expect(seg("PA", seq=1, ack=9, data=b"pong"))


@each(*RECEIVING)
def test_old_data_is_acknowledged_again_and_only_the_new_delivered(canonical):
    play = canonical()
    play.recv("PA", ack=play.snd, data=b"abc").expect(seg("A", ack=4)).told(b"abc")
    play.recv("PA", seq=1, ack=play.snd, data=b"abc").expect(seg("A", ack=4)).told()
    play.recv("PA", seq=2, ack=play.snd, data=b"bcdef").expect(seg("A", ack=7)).told(b"def")


def test_what_exceeds_the_window_is_cut_off_with_its_fin():
    play = established().recv("FPA", data=bytes(WINDOW + 5)).expect(seg("A", ack=EDGE, wnd=0))
    play.told(bytes(WINDOW)).enters(state.ESTABLISHED)


def test_a_segment_that_begins_before_and_ends_beyond_the_window_is_not_acceptable():
    """As the table of §3.4 has it; a guest that keeps to its window never sends one."""
    play = established().recv("A", data=b"abc").expect(seg("A", ack=4)).told(b"abc")
    play.recv("A", seq=2, data=b"bc" + bytes(WINDOW)).expect(seg("A", ack=4)).told()


@each(*ENDED_BY_GUEST)
def test_text_after_the_fin_is_ignored(canonical):
    play = canonical()
    was = play.c.state
    ack = play.snd - (was in (state.CLOSING, state.LAST_ACK))  # our FIN is on its way
    play.recv("PA", seq=play.rcv, ack=ack, data=b"more").expect().told().enters(was)


@pytest.mark.rfc("9293", "SHLD-31")
@pytest.mark.rfc("2018", "4-3")
@pytest.mark.rfc("2018", "4-5")
@pytest.mark.rfc("2018", "8-2")
@pytest.mark.rfc("5681", "4.2-3")
def test_data_ahead_is_kept_and_reported():
    play = established().recv("A", seq=4, data=b"def")
    play.expect(seg("A", seq=1, ack=1, sack=((4, 7),))).told()
    play.recv("A", seq=10, data=b"jkl").expect(seg("A", ack=1, sack=((10, 13), (4, 7))))
    play.recv("A", seq=1, data=b"abc").expect(seg("A", ack=7, sack=((10, 13),))).told(b"abc", b"def")
    play.recv("A", seq=7, data=b"ghi").expect(seg("A", ack=13, sack=())).told(b"ghi", b"jkl")
    assert play.c.reassembly is None


@pytest.mark.rfc("9293", "MAY-13")
@pytest.mark.rfc("2018", "4-3")
@pytest.mark.rfc("5681", "4.2-2")
def test_every_segment_ahead_gets_its_duplicate_ack():
    ahead = [seg("A", seq=11 + n * 10, ack=1, data=bytes(10)) for n in range(3)]
    play = established().recv_all(*ahead)
    play.expect(*[seg("A", ack=1, sack=((11, end),)) for end in (21, 31, 41)])


@pytest.mark.rfc("2018", "4-1")
def test_without_permission_no_sack_is_sent():
    established(sack=False).recv("A", seq=4, data=b"def").expect(seg("A", ack=1, sack=()))


def test_overlapping_segments_ahead_are_delivered_once():
    play = established().recv("A", seq=4, data=b"def").expect(seg("A", ack=1))
    play.recv("A", seq=3, data=b"cdefgh").expect(seg("A", ack=1, sack=((3, 9),)))
    play.recv("A", seq=1, data=b"abcd").expect(seg("A", ack=9))
    assert b"".join(play.app) == b"abcdefgh"


def test_segments_ahead_are_bounded():
    play = established()
    for n in range(MAX_BLOCKS + 20):
        play.recv("A", seq=3 + 2 * n, data=b"x").expect(seg("A", ack=1))
    assert play.c.reassembly is not None
    assert play.c.reassembly.held == MAX_BLOCKS
    play.recv("A", seq=1, data=bytes(2)).expect(seg("A", ack=4))


@pytest.mark.parametrize("gap", range(1, 6))
def test_sequence_numbers_wrap_at_every_place(gap):
    play = established(irs=(-gap) & 0xFFFFFFFF, iss=(-gap) & 0xFFFFFFFF)
    play.recv("A", seq=4, data=b"def").expect(seg("A", seq=1, ack=1, sack=((4, 7),)))
    play.recv("A", seq=1, data=b"abc").expect(seg("A", ack=7)).told(b"abc", b"def")
    play.write(b"abcdef").expect(seg("PA", seq=1, data=b"abcdef")).recv("A", seq=7, ack=3).told(("acked", 2))
    play.shutdown().expect(seg("FA", seq=7)).recv("FA", seq=7, ack=8)
    play.expect(seg("A", seq=8, ack=8)).told(("acked", 4), "fin", "closed").enters(state.TIME_WAIT)


# ---- eighth: the FIN bit -----------------------------------------------------------------


@pytest.mark.rfc("9293", "MUST-12")
def test_fin_in_each_receiving_state():
    established().recv("FA").expect(seg("A", ack=2)).told("fin").enters(state.CLOSE_WAIT)
    fin_wait_1().recv("FA", ack=1).expect(seg("A", ack=2)).told("fin").enters(state.CLOSING)
    play = fin_wait_1().recv("FA", ack=2).expect(seg("A", ack=2))
    play.told("fin", "closed").enters(state.TIME_WAIT)
    fin_wait_2().recv("FA", ack=2).expect(seg("A", ack=2)).told("fin", "closed").enters(state.TIME_WAIT)


def test_fin_behind_the_last_data():
    established().recv("FPA", data=b"bye").expect(seg("A", ack=5)).told(b"bye", "fin")


def test_fin_behind_data_that_has_arrived_before():
    play = established().recv("A", data=b"bye").expect(seg("A", ack=4)).told(b"bye")
    play.recv("FPA", data=b"bye").expect(seg("A", ack=5)).told("fin").enters(state.CLOSE_WAIT)


def test_fin_ahead_of_its_turn_waits():
    play = established().recv("FA", seq=4).expect(seg("A", ack=1)).told()
    play.recv("A", seq=1, data=b"abc").expect(seg("A", ack=5)).told(b"abc", "fin").enters(state.CLOSE_WAIT)


def test_fin_with_data_ahead_of_its_turn_waits():
    play = established().recv("FA", seq=4, data=b"def")
    assert all(s.flags == "A" for s in (play._read(b"".join(p)) for p in play.packets))
    play.packets.clear()
    play.recv("A", seq=1, data=b"abc").expect(seg("A", ack=8)).told(b"abc", b"def", "fin")


def test_fin_just_beyond_a_window_that_the_data_fills():
    play = established().recv("FPA", data=bytes(WINDOW)).expect(seg("A", ack=EDGE + 1, wnd=0))
    play.told(bytes(WINDOW), "fin").enters(state.CLOSE_WAIT)
    play.grant(4096).expect()  # nobody will use it


def test_fin_at_a_closed_window_waits_for_it():
    play = established().recv("PA", data=bytes(WINDOW)).expect(seg("A", wnd=0)).told(bytes(WINDOW))
    play.recv("FA", seq=EDGE).expect(seg("A", ack=EDGE, wnd=0)).told()
    play.grant(1000).expect(seg("A", ack=EDGE, wnd=768))
    play.recv("FA", seq=EDGE).expect(seg("A", ack=EDGE + 1)).told("fin")


@each(*ENDED_BY_GUEST)
def test_a_fin_again_is_acknowledged_again(canonical):
    play = canonical()
    was = play.c.state
    ack = play.snd - (was in (state.CLOSING, state.LAST_ACK))
    play.recv("FA", seq=1, ack=ack).expect(seg("A", seq=play.snd, ack=2)).told().enters(was)


@each(close_wait, last_ack, time_wait)
def test_another_fin_in_the_window_is_ignored(canonical):
    play = canonical()
    was = play.c.state
    ack = play.snd - (was is state.LAST_ACK)
    play.recv("FA", seq=play.rcv, ack=ack).expect(seg("A", ack=2)).told().enters(was)


def test_half_closed_by_the_guest_we_may_go_on_sending():
    play = close_wait().write(b"the answer").expect(seg("PA", seq=1, ack=2, data=b"the answer"))
    play.recv("A", seq=2, ack=11).expect().told(("acked", 10))
    play.shutdown().expect(seg("FA", seq=11)).enters(state.LAST_ACK)
    play.recv("A", seq=2, ack=12).expect().told("closed").enters(state.CLOSED)


def test_half_closed_by_us_the_guest_may_go_on_sending():
    play = fin_wait_2().recv("PA", ack=2, data=b"more").expect(seg("A", seq=2, ack=5)).told(b"more")
    play.recv("FA", seq=5, ack=2).expect(seg("A", ack=6)).told("fin", "closed")


def test_an_app_that_aborts_on_what_it_reads_hears_nothing_more():
    play = established()
    play.recv("A", seq=4, data=b"def").expect(seg("A"))

    def received(payload, now):
        play.app.append(bytes(payload))
        play.c.abort(play.now)

    play.received = received
    play.recv("FPA", seq=1, data=b"abc").expect(seg("RA", seq=1, ack=4))
    play.told(b"abc", "reset").enters(state.CLOSED)


def test_an_app_that_aborts_when_it_is_established_hears_nothing_more():
    play = syn_received()
    play.established = lambda now: play.c.abort(now)
    play.recv("FPA", data=b"abc").expect(seg("RA", seq=1, ack=1)).told("reset").enters(state.CLOSED)


# ---- TIME-WAIT ---------------------------------------------------------------------------


def test_time_wait_ends_by_itself():
    play = time_wait().after(TIME_WAIT_SECONDS - 0.1).expect().enters(state.TIME_WAIT)
    play.after(0.1).expect().told().enters(state.CLOSED)


def test_a_lost_last_ack_is_repeated_and_begins_time_wait_anew():
    play = time_wait().after(TIME_WAIT_SECONDS * 0.9).recv("FA", ack=2).expect(seg("A", seq=2, ack=2))
    play.after(TIME_WAIT_SECONDS * 0.9).expect().enters(state.TIME_WAIT)
    play.after(TIME_WAIT_SECONDS * 0.1).enters(state.CLOSED)


def test_anything_else_does_not_prolong_time_wait():
    play = time_wait().after(TIME_WAIT_SECONDS * 0.9).recv("A", seq=1, ack=2).expect(seg("A"))
    play.after(TIME_WAIT_SECONDS * 0.1).enters(state.CLOSED)


def test_the_app_is_let_go_with_the_connection():
    play = time_wait().after(TIME_WAIT_SECONDS).enters(state.CLOSED)
    assert play.c.app is not play
    for method in (Connection.shutdown, lambda c: c.abort(0.0), lambda c: c.app.closed(True, 0.0)):
        play.do(method).expect().told()
