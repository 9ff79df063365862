# SPDX-License-Identifier: GPL-3.0-or-later
"""Retransmission, persist and giving up (RFC 9293 §3.8, RFC 6298), in simulated time."""

from __future__ import annotations

import pytest
from playbook import Play, established, last_ack, seg, syn_received, syn_sent

from avne.netstack.tcp import rto, state
from avne.netstack.tcp.timers import MAX_BACKOFFS, MAX_PROBES, MAX_SYN_BACKOFFS


def _moments(play: Play, seconds: float) -> list[float]:
    """When, in seconds from now, something was sent in the next `seconds`."""
    play.expect()
    began, moments = play.now, []
    while play.c.deadline <= began + seconds:
        due = play.c.deadline
        play.after(due - play.now)
        if play.packets:
            moments.append(round(due - began, 3))
            play.packets.clear()
    play.after(began + seconds - play.now)
    return moments


@pytest.mark.rfc("6298", "5")
@pytest.mark.rfc("6298", "5.1")
@pytest.mark.rfc("6298", "5.4")
@pytest.mark.rfc("6298", "5.5")
@pytest.mark.rfc("6298", "5.6")
def test_the_interval_doubles_up_to_a_minute():
    play = established().write(b"x").expect(seg("PA", seq=1, data=b"x"))
    play.c.rto.value = 1.0
    play.c.start_timer(play.c.timer, play.now + 1.0)
    assert _moments(play, 300) == [1, 3, 7, 15, 31, 63, 123, 183, 243]


@pytest.mark.rfc("9293", "MUST-20")
@pytest.mark.rfc("9293", "SHLD-11")
def test_a_guest_that_answers_nothing_is_given_up_after_100_seconds():
    play = established().write(b"x").expect(seg("PA"))
    moments = _moments(play, 1000)
    assert len(moments) == MAX_BACKOFFS + 1  # the last one is the reset
    assert moments[-1] > 100
    assert play.app[-1] == "reset"
    play.enters(state.CLOSED)


@pytest.mark.rfc("9293", "MUST-12")
def test_giving_up_is_a_reset():
    play = established().write(b"x").expect(seg("PA"))
    play.c.backoffs = MAX_BACKOFFS
    play.after(play.c.rto.value).expect(seg("RA", seq=2, ack=1)).told("reset")


@pytest.mark.rfc("9293", "MUST-22")
@pytest.mark.rfc("9293", "MUST-23")
@pytest.mark.parametrize(("opening", "flags"), [(syn_received, "SA"), (syn_sent, "S")])
def test_a_syn_is_repeated_for_three_minutes_and_given_up(opening, flags):
    play = opening()
    began = play.now
    for n in range(MAX_SYN_BACKOFFS):
        play.after(min(60, 2**n)).expect(seg(flags, seq=0))
    assert play.now - began > 120
    play.at(180).expect().at(183)
    if opening is syn_received:
        play.expect(seg("RA"))
    play.expect().told("reset").enters(state.CLOSED)


@pytest.mark.rfc("6298", "5.7")
def test_after_a_lost_syn_ack_data_waits_three_seconds():
    play = syn_received().after(1.0).expect(seg("SA")).recv("A").told("established")
    play.write(b"x").expect(seg("PA")).after(2.9).expect().after(0.1).expect(seg("PA", seq=1, data=b"x"))


@pytest.mark.rfc("9293", "MUST-18")
@pytest.mark.rfc("6298", "3-1")
def test_a_syn_ack_that_was_asked_for_again_tells_nothing_about_the_round_trip():
    play = syn_received().after(0.9).recv("S", seq=0).expect(seg("SA", seq=0)).recv("A").told("established")
    assert play.c.rto.value == rto.INITIAL
    play = syn_received().after(0.9).recv("A").told("established")
    assert play.c.rto.value == pytest.approx(2.7)


def test_a_syn_is_repeated():
    play = syn_sent().after(1.0).expect(seg("S", seq=0)).after(2.0).expect(seg("S", seq=0))
    play.recv("SA", seq=0, ack=1).expect(seg("A", seq=1, ack=1)).told("established")


def test_a_fin_is_repeated():
    play = last_ack()
    play.after(play.c.rto.value).expect(seg("FPA", seq=1, ack=2, data=b""))
    play.recv("A", seq=2, ack=2).told("closed")


def test_only_the_first_segment_is_repeated_at_the_timeout_and_the_rest_as_it_is_acknowledged():
    play = established()
    for n in range(3):
        play.write(bytes([65 + n])).expect(seg("PA", seq=1 + n))
    play.after(play.c.rto.value).expect(seg("PA", seq=1, data=b"A"))
    play.recv("A", ack=2).expect(seg("PA", seq=2, data=b"B"))
    play.recv("A", ack=4).expect()


@pytest.mark.rfc("6298", "5.2")
def test_with_nothing_in_flight_no_timer_runs():
    play = established().write(b"x").expect(seg("PA")).recv("A", ack=2)
    assert play.c.deadline == float("inf")
    play.after(1000).expect().enters(state.ESTABLISHED)


@pytest.mark.rfc("6298", "5.3")
def test_each_acknowledgement_starts_the_timer_anew():
    play = established()
    play.write(b"A").expect(seg("PA")).write(b"B").expect(seg("PA"))
    play.after(play.c.rto.value * 0.9).recv("A", ack=2).expect()
    play.after(play.c.rto.value * 0.9).expect()
    play.after(play.c.rto.value * 0.2).expect(seg("PA", seq=2, data=b"B"))


@pytest.mark.rfc("9293", "MUST-18")
@pytest.mark.rfc("6298", "3-1")
def test_a_repeated_segment_tells_nothing_about_the_round_trip():
    play = established().write(b"x").expect(seg("PA"))
    before = play.c.rto.value
    play.after(before).expect(seg("PA"))
    play.after(before * 0.5).recv("A", ack=2)
    assert play.c.rto.value == before * 2  # backed off, and no sample
    play.write(b"y").expect(seg("PA")).recv("A", ack=3)
    assert play.c.rto.value < before * 2


# ---- persist -----------------------------------------------------------------------------


def _closed() -> Play:
    return established().recv("A", wnd=0).write(b"waiting").expect()


@pytest.mark.rfc("6298", "3-2")
def test_every_segment_that_is_sent_once_is_measured():
    play = established()
    for n in range(100):
        play.write(b"x").expect(seg("PA")).after(0.19).recv("A", ack=2 + n)
    slow = play.c.rto.value
    assert slow == pytest.approx(0.2, abs=0.005)
    play.write(b"x").expect(seg("PA")).recv("A", ack=102)  # 0 s: one sample, and it counts
    assert play.c.rto.value > slow + 0.1


@pytest.mark.rfc("9293", "MUST-36")
@pytest.mark.rfc("9293", "SHLD-29")
@pytest.mark.rfc("9293", "SHLD-30")
def test_a_closed_window_is_probed_with_growing_intervals():
    play = _closed()
    play.c.rto.value = 1.0
    play.c.start_timer(play.c.timer, play.now + 1.0)
    assert _moments(play, 300) == [1, 3, 7, 15, 31, 63, 123, 183, 243]
    assert play.c.rto.value == 1.0  # nothing was lost


@pytest.mark.rfc("9293", "MUST-36")
def test_a_probe_is_an_empty_segment_just_before_the_window():
    play = _closed()
    play.after(play.c.rto.value).expect(seg("A", seq=0, ack=1, data=b""))


@pytest.mark.rfc("9293", "MUST-35")
@pytest.mark.rfc("9293", "MUST-37")
def test_a_closed_window_may_stay_closed():
    play = _closed()
    for _ in range(200):
        play.after(rto.MAXIMUM)
        if play.packets:
            play.packets.clear()
            play.recv("A", wnd=0).expect()
    play.recv("A", wnd=100).expect(seg("PA", seq=1, data=b"waiting"))
    assert play.c.backoffs == 0


def test_a_guest_that_answers_no_probe_is_given_up():
    """Else each such connection, and what waits for it, stays for as long as the environment."""
    play = _closed()
    moments = _moments(play, 3600)
    assert len(moments) == MAX_PROBES + 1  # the last one is the reset
    assert moments[-1] > 300
    assert play.app == ["reset"]
    play.enters(state.CLOSED)


def test_data_after_a_closed_window_is_repeated_as_quickly_as_any():
    play = _closed()
    before = play.c.rto.value
    play.after(100)
    play.packets.clear()
    play.recv("A", wnd=100).expect(seg("PA")).after(before).expect(seg("PA", seq=1, data=b"waiting"))


@pytest.mark.rfc("9293", "MUST-37")
def test_a_window_that_closes_over_data_in_flight_is_waited_for():
    """A guest without memory drops what it has no room for, and says: zero."""
    play = established().write(b"dropped").expect(seg("PA")).recv("A", wnd=0).expect()
    for _ in range(3 * MAX_BACKOFFS):
        play.after(rto.MAXIMUM)
        assert play.packets, "it is asked again"
        play.packets.clear()
        play.recv("A", wnd=0).expect()
    play.recv("A", wnd=5000).expect(seg("PA", seq=1, data=b"dropped"))  # at once, not at the next timeout
    play.recv("A", ack=8).told(("acked", 7))


@pytest.mark.rfc("9293", "SHLD-17")
@pytest.mark.rfc("9293", "MAY-7")
@pytest.mark.rfc("9293", "SHLD-16")
@pytest.mark.rfc("7323", "2.4-4")
def test_a_window_that_shrinks_over_data_in_flight_ends_nothing_while_the_guest_answers():
    play = established().write(bytes(1000)).expect(seg("PA")).recv("A", wnd=500).expect()
    for _ in range(3 * MAX_BACKOFFS):
        play.after(play.c.deadline - play.now).expect(seg("PA", seq=1, data=bytes(1000)))
        play.recv("A", wnd=500).expect()
    play.enters(state.ESTABLISHED)
    assert _moments(play, 1000)  # one that answers nothing is given up
    play.enters(state.CLOSED)


@pytest.mark.rfc("9293", "MUST-35")
def test_acknowledged_data_leaves_the_rest_to_the_persist_timer():
    play = established().recv("A", wnd=3000).write(bytes(6000)).expect(seg("A", data=bytes(2896)))
    play.recv("A", ack=2897, wnd=0).expect()
    play.after(play.c.rto.value).expect(seg("A", seq=2896, data=b""))
    play.recv("A", ack=2897, wnd=6000).expect(seg("PA", seq=2897, data=bytes(3104)))


def test_a_probe_with_nothing_left_to_send_is_not_sent():
    play = _closed()
    play.c.unsent.clear()
    play.after(play.c.rto.value).expect()


def test_a_retransmission_with_nothing_in_flight_is_not_sent():
    play = established().write(b"x").expect(seg("PA"))
    play.c.inflight.clear()
    play.after(play.c.rto.value).expect().enters(state.ESTABLISHED)
