# SPDX-License-Identifier: GPL-3.0-or-later
"""SEGMENT ARRIVES up to the ACK field (RFC 9293 §3.10.7.1–4), in the order of the RFC."""

from __future__ import annotations

import pytest
from playbook import (
    ENDED_BY_GUEST,
    GUEST,
    RECEIVING,
    SERVER,
    SYNCHRONIZED,
    WINDOW,
    Play,
    close_wait,
    established,
    fin_wait_1,
    last_ack,
    parked,
    parse,
    seg,
    syn_received,
    syn_sent,
    time_wait,
)

from avne.netstack.tcp import arrives, state
from avne.netstack.tcp.connection import Connection
from avne.netstack.wire import tcp

ALL = (syn_received, *SYNCHRONIZED)


def each(*states):
    return pytest.mark.parametrize("canonical", states, ids=lambda s: s.__name__)


# ---- §3.10.7.1: CLOSED ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("segment", "answer"),
    [
        ((7, 0, tcp.SYN), (0, 8, tcp.RST | tcp.ACK)),
        ((7, 0, tcp.SYN | tcp.FIN), (0, 9, tcp.RST | tcp.ACK)),
        ((7, 0, 0), (0, 10, tcp.RST | tcp.ACK)),
        ((0xFFFFFFFF, 0, tcp.FIN), (0, 3, tcp.RST | tcp.ACK)),
        ((7, 99, tcp.ACK), (99, 0, tcp.RST)),
        ((7, 99, tcp.SYN | tcp.ACK), (99, 0, tcp.RST)),
        ((7, 99, tcp.FIN | tcp.ACK), (99, 0, tcp.RST)),
    ],
)
def test_a_segment_for_no_connection_is_reset(segment, answer):
    start, ack, flags = segment
    payload = memoryview(b"" if flags & (tcp.SYN | tcp.ACK) else b"abc")
    template = tcp.HeaderTemplate(SERVER, 80, GUEST, 40000)
    reset = arrives.answer_unknown(template, tcp.Segment(start, ack, flags, 0, payload))
    assert reset is not None
    assert (parse(reset).seq, parse(reset).ack, parse(reset).flags) == answer


@pytest.mark.parametrize("flags", [tcp.RST, tcp.RST | tcp.ACK])
def test_a_reset_for_no_connection_is_not_answered(flags):
    template = tcp.HeaderTemplate(SERVER, 80, GUEST, 40000)
    assert arrives.answer_unknown(template, tcp.Segment(1, 2, flags, 0, memoryview(b""))) is None


def test_a_closed_connection_does_nothing():
    play = established().abort().expect(seg("RA")).told("reset").enters(state.CLOSED)
    for flags in ("S", "A", "R", "FA"):
        play.recv(flags).expect().told()
    play.write(b"late").grant(5).shutdown().expect()


# ---- §3.10.7.2: LISTEN, and the parked SYN -----------------------------------------------


def test_a_parked_syn_is_answered_when_the_app_accepts():
    play = parked().at(30.0).expect()
    play.do(lambda c: c.accept(WINDOW)).expect(seg("SA", seq=0, ack=1, wnd=WINDOW))
    play.recv("A").expect().told("established").enters(state.ESTABLISHED)


def test_a_syn_repeated_while_parked_is_not_answered():
    play = parked()
    for _ in range(6):
        play.recv("S", seq=0).expect().enters(state.PARKED)


def test_an_acknowledgement_of_nothing_is_reset_while_parked():
    parked().recv("A", ack=77).expect(seg("R", seq=77)).enters(state.PARKED)
    parked().recv("SA", seq=0, ack=77).expect(seg("R", seq=77)).enters(state.PARKED)


def test_a_reset_while_parked_must_be_exact():
    parked().recv("R", seq=0).expect().recv("RA", seq=2).expect().told().enters(state.PARKED)
    parked().recv("R", seq=1).expect().told("reset").enters(state.CLOSED)


def test_a_refused_syn_is_reset_as_the_guests_connect_expects_it():
    play = parked()
    play.abort().expect(seg("RA", seq=-play.iss & 0xFFFFFFFF, ack=1)).told("reset")  # <SEQ=0>


def test_accepted_and_refused_in_one_turn_is_a_reset_that_the_syn_accepts():
    parked().do(lambda c: c.accept(WINDOW), lambda c: c.abort(1000.0)).expect(seg("RA", seq=0, ack=1))


def test_data_on_a_syn_is_left_for_the_guest_to_repeat():
    play = Play().recv("S", seq=0, data=b"early").enters(state.PARKED)
    play.do(lambda c: c.accept(WINDOW)).expect(seg("SA", seq=0, ack=1))
    play.recv("PA", seq=1, data=b"early").expect(seg("A", seq=1, ack=6)).told("established", b"early")


# ---- §3.10.7.3: SYN-SENT -----------------------------------------------------------------


def test_an_active_open_is_established_by_the_syn_ack():
    play = syn_sent().recv("SA", seq=0, ack=1).expect(seg("A", seq=1, ack=1, wnd=WINDOW))
    play.told("established").enters(state.ESTABLISHED)


@pytest.mark.rfc("9293", "MUST-10")
def test_simultaneous_open():
    play = syn_sent().recv("S", seq=0).expect(seg("SA", seq=0, ack=1)).enters(state.SYN_RECEIVED)
    # The guest's SYN-ACK repeats its SYN: not acceptable, so it is acknowledged, and the guest is open.
    play.recv("SA", seq=0, ack=1).expect(seg("A", seq=1, ack=1)).enters(state.SYN_RECEIVED)
    play.recv("A").expect().told("established").enters(state.ESTABLISHED)


@pytest.mark.parametrize("ack", [0, 2, 0x80000000])
def test_an_unacceptable_ack_in_syn_sent_is_reset(ack):
    syn_sent().recv("SA", seq=0, ack=ack).expect(seg("R", seq=ack)).enters(state.SYN_SENT)
    syn_sent().recv("RA", seq=0, ack=ack).expect().told().enters(state.SYN_SENT)


def test_resets_in_syn_sent():
    syn_sent().recv("R", seq=0).expect().told().enters(state.SYN_SENT)
    syn_sent().recv("RA", seq=0, ack=1).expect().told("reset").enters(state.CLOSED)


def test_neither_syn_nor_rst_in_syn_sent_is_dropped():
    syn_sent().recv("A", ack=1).expect().recv("", data=b"x").expect().told().enters(state.SYN_SENT)


def test_abort_in_syn_sent_tells_the_app():
    syn_sent().abort().expect().told("reset").enters(state.CLOSED)


# ---- §3.10.7.4, first: the sequence number -------------------------------------------------


@each(*SYNCHRONIZED)
@pytest.mark.parametrize("offset", [-1, WINDOW, 0x80000000])
def test_what_is_outside_the_window_is_acknowledged_and_dropped(canonical, offset):
    play = canonical()
    seq, was = play.rcv + offset, play.c.state
    play.recv("PA", seq=seq, ack=play.snd, data=b"").expect(seg("A", seq=play.snd, ack=play.rcv))
    play.told().enters(was)


@each(syn_received)
@pytest.mark.parametrize("offset", [-2, WINDOW])
def test_what_is_outside_the_window_is_acknowledged_in_syn_received_too(canonical, offset):
    canonical().recv("A", seq=1 + offset).expect(seg("A", seq=1, ack=1)).enters(state.SYN_RECEIVED)


@each(*ALL)
@pytest.mark.parametrize("offset", [-1, WINDOW])
@pytest.mark.rfc("5961", "3.2-1")
def test_a_reset_outside_the_window_is_dropped(canonical, offset):
    play = canonical()
    was = play.c.state
    play.recv("R", seq=play.rcv + offset).expect().told().enters(was)


@each(established, close_wait)
def test_a_keep_alive_is_answered(canonical):
    play = canonical()
    play.recv("A", seq=play.rcv - 1).expect(seg("A", seq=play.snd, ack=play.rcv)).told()
    play.recv("A", seq=play.rcv - 1, data=b"\0").expect(seg("A", seq=play.snd, ack=play.rcv)).told()


def _closed_window() -> Play:
    """All that was granted has been sent."""
    play = established().recv("PA", data=bytes(WINDOW)).expect(seg("A", ack=1 + WINDOW, wnd=0))
    play.app.clear()
    return play


@pytest.mark.rfc("9293", "MUST-66")
def test_a_zero_window_still_takes_acks_and_resets():
    play = _closed_window().write(b"abc").expect(seg("PA", seq=1, data=b"abc"))
    play.recv("A", seq=1 + WINDOW, ack=4).expect().told(("acked", 3))
    play.recv("R", seq=1 + WINDOW).expect().told("reset").enters(state.CLOSED)
    _closed_window().recv("R", seq=1 + WINDOW, data=b"why").told("reset").enters(state.CLOSED)
    _closed_window().recv("R", seq=2 + WINDOW).expect().told()


def test_data_beyond_a_zero_window_is_a_probe():
    play = _closed_window()
    play.recv("PA", seq=1 + WINDOW, data=b"x").expect(seg("A", ack=1 + WINDOW, wnd=0)).told()
    play.recv("A", seq=2 + WINDOW).expect(seg("A", ack=1 + WINDOW, wnd=0)).told()
    play.grant(1024).expect(seg("A", ack=1 + WINDOW, wnd=1024))
    play.recv("PA", seq=1 + WINDOW, data=b"x").expect(seg("A", ack=2 + WINDOW)).told(b"x")


# ---- second: the RST bit (RFC 5961 §3) -----------------------------------------------------


@each(*ALL)
@pytest.mark.rfc("9293", "MUST-12")
@pytest.mark.rfc("5961", "3.2-2")
def test_a_reset_at_the_exact_number_ends_the_connection(canonical):
    play = canonical()
    told = [] if canonical is time_wait else ["reset"]
    play.recv("R", seq=play.rcv, ack=None).expect().told(*told).enters(state.CLOSED)


@each(*ALL)
@pytest.mark.parametrize("offset", [1, WINDOW - 1])
@pytest.mark.rfc("5961", "3.2-3")
def test_a_reset_elsewhere_in_the_window_is_challenged(canonical, offset):
    play = canonical()
    was = play.c.state
    challenge = seg("A", seq=play.snd, ack=play.rcv)
    if canonical in ENDED_BY_GUEST and offset == WINDOW - 1:
        play.recv("R", seq=play.rcv + offset).told().enters(was)  # the FIN has used up one of the window
        return
    play.recv("RA", seq=play.rcv + offset, ack=play.snd).expect(challenge).told().enters(was)


@pytest.mark.rfc("9293", "SHLD-2")
def test_a_reset_may_carry_data():
    established().recv("RA", data=b"the reason").expect().told("reset").enters(state.CLOSED)


# ---- fourth: the SYN bit (RFC 5961 §4) -----------------------------------------------------


@each(*SYNCHRONIZED)
@pytest.mark.parametrize("offset", [-1, 0, 5, WINDOW, 0x80000000])
@pytest.mark.rfc("5961", "4.2")
def test_a_syn_is_challenged_whatever_its_number(canonical, offset):
    play = canonical()
    was = play.c.state
    play.recv("S", seq=play.rcv + offset).expect(seg("A", seq=play.snd, ack=play.rcv)).told().enters(was)


@pytest.mark.rfc("5961", "7-1")
def test_challenges_are_limited():
    play = established()
    play.challenges = 2
    for _ in range(2):
        play.recv("S", seq=9).expect(seg("A"))
    play.recv("S", seq=9).expect().recv("R", seq=9).expect()
    play.c.snd_una = play.c.snd_nxt = play.c.iss + (1 << 24)  # 16 MiB later
    play.recv("A", seq=1, ack=1).expect().told()


def test_the_syn_of_a_lost_syn_ack_gets_it_again():
    syn_received().recv("S", seq=0).expect(seg("SA", seq=0, ack=1)).enters(state.SYN_RECEIVED)


# ---- fifth: the ACK field ------------------------------------------------------------------


@each(*ALL)
def test_without_ack_bit_a_segment_is_dropped(canonical):
    play = canonical()
    was = play.c.state
    play.recv("", seq=play.rcv, data=b"x").expect().recv("F", seq=play.rcv).expect().told().enters(was)


@pytest.mark.parametrize("ack", [0, 2, 0x80000001])
def test_a_wrong_ack_in_syn_received_is_reset(ack):
    syn_received().recv("A", ack=ack).expect(seg("R", seq=ack)).told().enters(state.SYN_RECEIVED)


def test_the_ack_of_the_syn_ack_may_carry_data_and_fin():
    play = syn_received().recv("FPA", data=b"all I have").expect(seg("A", seq=1, ack=12))
    play.told("established", b"all I have", "fin").enters(state.CLOSE_WAIT)


@pytest.mark.rfc("7323", "2.2-3")
@pytest.mark.rfc("7323", "2.3-1")
def test_the_window_is_scaled_from_the_third_segment_on():
    play = syn_received(wscale=7)
    assert play.c.snd_wnd == WINDOW  # of the SYN: never scaled
    play.recv("A", wnd=1 << 20)
    assert play.c.snd_wnd == 1 << 20


@pytest.mark.rfc("7323", "2.2-3")
def test_the_window_of_a_syn_ack_is_not_scaled():
    assert syn_sent(wscale=7).recv("SA", seq=0, ack=1).expect(seg("A")).c.snd_wnd == WINDOW


@each(*SYNCHRONIZED)
@pytest.mark.rfc("5961", "5.2")
@pytest.mark.rfc("9293", "MAY-12")
def test_an_ack_of_what_was_not_sent_is_answered_and_dropped(canonical):
    play = canonical()
    was = play.c.state
    play.recv("PA", seq=play.rcv, ack=play.snd + 1, data=b"x")
    play.expect(seg("A", seq=play.snd, ack=play.rcv)).told().enters(was)


@each(*RECEIVING)
def test_the_text_of_a_segment_with_an_old_ack_still_counts(canonical):
    play = canonical()
    play.recv("PA", seq=1, ack=play.snd - 1, data=b"x").expect(seg("A", ack=2)).told(b"x")


@pytest.mark.rfc("5961", "5.2")
@pytest.mark.rfc("9293", "MAY-12")
def test_an_ack_far_too_old_is_a_blind_injection():
    play = established()
    play.c.snd_una = play.c.snd_nxt = play.c.iss + (1 << 24)
    play.recv("PA", seq=1, ack=1, data=b"evil").expect(seg("A", seq=1 << 24, ack=1)).told()  # RFC 5961 §5


def test_the_acks_of_our_fin():
    fin_wait_1().recv("A", ack=2).expect().told().enters(state.FIN_WAIT_2)
    fin_wait_1().recv("A", ack=1).expect().enters(state.FIN_WAIT_1)
    last_ack().recv("A", seq=2, ack=2).expect().told("closed").enters(state.CLOSED)
    last_ack().recv("A", seq=2, ack=1).expect().told().enters(state.LAST_ACK)


def test_closing_ends_in_time_wait():
    play = fin_wait_1().recv("FA").expect(seg("A", seq=2, ack=2)).enters(state.CLOSING).told("fin")
    play.recv("A", seq=2, ack=2).expect().told("closed").enters(state.TIME_WAIT)


def test_a_partial_ack_of_data_before_the_fin_does_not_end_fin_wait_1():
    play = established().do(lambda c: c.write(memoryview(b"abc")), Connection.shutdown)
    play.expect(seg("FPA", seq=1, data=b"abc")).recv("A", ack=4).told(("acked", 3)).enters(state.FIN_WAIT_1)
    play.recv("A", ack=5).told().enters(state.FIN_WAIT_2)


# ---- the send window ------------------------------------------------------------------------


def test_the_window_is_taken_from_the_newest_segment_only():
    play = established().recv("PA", seq=1, ack=1, wnd=9000, data=b"ab").expect(seg("A")).told(b"ab")
    assert play.c.snd_wnd == 9000
    play.recv("A", seq=3, ack=1, wnd=8000).expect()
    assert play.c.snd_wnd == 8000
    play.recv("PA", seq=2, ack=1, wnd=100, data=b"b").expect(seg("A"))  # old
    assert play.c.snd_wnd == 8000
    play.recv("A", seq=5, ack=1, wnd=7000, data=b"e").expect(seg("A", ack=3))  # ahead, and so newer
    play.recv("A", seq=3, ack=1, wnd=100, data=b"cd").expect(seg("A", ack=6))
    assert play.c.snd_wnd == 7000


@pytest.mark.rfc("9293", "MUST-1")
def test_a_window_with_its_highest_bit_set_is_a_large_one():
    play = established().recv("A", wnd=0xC000)
    play.write(bytes(0xB000)).expect(seg("PA"))
