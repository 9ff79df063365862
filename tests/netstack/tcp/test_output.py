# SPDX-License-Identifier: GPL-3.0-or-later
"""What a connection sends: data, windows, and repairs of losses (RFC 9293 §3.8, RFC 5681, RFC 2018)."""

from __future__ import annotations

import pytest
from playbook import (
    WINDOW,
    Play,
    close_wait,
    established,
    fin_wait_1,
    parked,
    parse,
    seg,
    syn_received,
    time_wait,
)

from avne.limits import GSO_SIZE, MAX_BURST
from avne.netstack.tcp import state
from avne.netstack.tcp.connection import MAX_CRUMBS, Connection, Timer
from avne.netstack.wire import tcp, vnet


def _sent_sizes(play: Play) -> list[int]:
    frames = [b"".join(packet) for packet in play.packets]
    play.packets.clear()
    return [len(parse(frame).payload) for frame in frames]


# ---- SYN-ACK -------------------------------------------------------------------------


@pytest.mark.rfc("9293", "MUST-14")
@pytest.mark.rfc("2018", "2")
@pytest.mark.rfc("9293", "SHLD-5")
@pytest.mark.rfc("9293", "MAY-3")
@pytest.mark.rfc("7323", "2.2-1")
def test_options_are_answered_only_where_they_were_offered():
    every = tcp.Options(65480, 8, True)
    syn_ack = parked().do(lambda c: c.accept(WINDOW))
    syn_ack.expect(seg("SA", options=every))
    play = parked(wscale=None, sack=False).do(lambda c: c.accept(WINDOW))
    play.expect(seg("SA", options=tcp.Options(65480, None, False)))


@pytest.mark.rfc("7323", "2.2-3")
@pytest.mark.rfc("7323", "2.3-2")
def test_a_large_window_is_cut_in_the_syn_ack_and_told_right_after_it():
    play = parked().do(lambda c: c.accept(1 << 20)).expect(seg("SA", wnd=65535))
    play.recv("A").expect(seg("A", ack=1, wnd=1 << 20))


@pytest.mark.rfc("7323", "2.2-1")
def test_without_scaling_the_window_is_at_most_64_kib():
    play = parked(wscale=None).do(lambda c: c.accept(1 << 20)).expect(seg("SA", wnd=65535))
    play.recv("A").expect(seg("A", wnd=65535))


@pytest.mark.rfc("9293", "MUST-65")
@pytest.mark.rfc("9293", "MUST-16")
def test_segments_are_no_larger_than_the_guests_mss_and_carry_no_mss():
    play = Play()
    play.syn_options = tcp.Options(100, 0, True)
    play.recv("S", seq=0).do(lambda c: c.accept(WINDOW)).expect(seg("SA")).recv("A")
    play.write(bytes(1000))
    frame = b"".join(play.packets[0])
    assert frame[1] == vnet.GSO_TCPV4
    assert int.from_bytes(frame[4:6], "little") == 100
    play.expect(seg("PA", data=bytes(1000), options=tcp.NO_OPTIONS))


@pytest.mark.rfc("9293", "MUST-15")
@pytest.mark.parametrize(("address", "size"), [(4, 536), (16, 1220)])
def test_without_an_mss_option_the_default_is_used(address, size):
    play = Play()
    play.c.template = tcp.HeaderTemplate(bytes(address), 80, bytes(address), 1)
    play.c.open_passive(tcp.Segment(1, 0, tcp.SYN, 100, memoryview(b"")))
    assert play.c.gso_size == size


# ---- data ------------------------------------------------------------------------------


@pytest.mark.rfc("9293", "SHLD-28")
@pytest.mark.rfc("9293", "MUST-61")
def test_data_goes_out_in_the_largest_segments_with_push_on_the_last():
    play = established().recv("A", wnd=65535)
    play.write(bytes(MAX_BURST + 10)).expect(
        seg("A", seq=1, data=bytes(MAX_BURST)), seg("PA", seq=1 + MAX_BURST, data=bytes(10))
    )


@pytest.mark.rfc("9293", "MUST-60")
@pytest.mark.rfc("9293", "MAY-16")
def test_small_writes_of_a_turn_share_a_segment_and_are_not_held_back():
    play = established().do(*[lambda c, b=b: c.write(memoryview(b)) for b in (b"a", b"bc", b"", b"d")])
    play.expect(seg("PA", seq=1, data=b"abcd"))
    play.write(b"e").expect(seg("PA", seq=5, data=b"e"))  # no Nagle: the first is still in flight


@pytest.mark.rfc("9293", "MUST-34")
@pytest.mark.rfc("9293", "SHLD-15")
@pytest.mark.rfc("7323", "2.4-3")
def test_no_more_than_the_window_is_sent_and_a_shrunken_one_is_survived():
    play = established().recv("A", wnd=GSO_SIZE).write(bytes(5000))
    play.expect(seg("A", seq=1, data=bytes(GSO_SIZE)))
    play.recv("A", wnd=10).expect()
    play.recv("A", ack=1 + GSO_SIZE, wnd=2 * GSO_SIZE)
    play.expect(seg("A", seq=1 + GSO_SIZE, data=bytes(2 * GSO_SIZE)))


@pytest.mark.rfc("9293", "MUST-38")
def test_the_sender_avoids_the_silly_window():
    play = established().recv("A", wnd=4000).write(bytes(10_000)).expect(seg("A", data=bytes(2 * GSO_SIZE)))
    # 1,104 bytes are left of the window: less than a segment, less than half of the largest window.
    play.recv("A", ack=1 + 2 * GSO_SIZE, wnd=1104).expect().told(("acked", 2 * GSO_SIZE))
    play.after(play.c.rto.value).expect(seg("A", seq=1 + 2 * GSO_SIZE, data=bytes(1104)))  # the override
    play.recv("A", ack=1 + 2 * GSO_SIZE + 1104, wnd=20_000).expect(seg("PA", data=bytes(6000)))


def test_half_of_a_small_guests_buffer_is_not_silly():
    play = Play()
    play.recv("S", seq=0, wnd=1000).do(lambda c: c.accept(WINDOW)).expect(seg("SA"))
    play.recv("A", wnd=1000).write(bytes(2000)).expect(seg("A", data=bytes(1000)))
    play.recv("A", ack=1001, wnd=600).expect(seg("A", data=bytes(600)))


def test_data_written_in_crumbs_is_gathered():
    """Each piece costs 200 bytes of memory, and writev(2) takes at most 1,024 of them."""
    play = established().recv("A", wnd=0)
    for n in range(5000):
        play.write(bytes([n & 0xFF]))
        assert len(play.c.unsent) <= MAX_CRUMBS + 1
    play.recv("A", wnd=8000)
    assert len(play.packets[0]) <= MAX_CRUMBS + 1
    play.expect(seg("PA", data=bytes(n & 0xFF for n in range(5000))))


def test_large_pieces_are_neither_gathered_nor_many_in_a_packet():
    play = established().recv("A", wnd=0)
    pieces = [bytes([n]) * 900 for n in range(65)] + [bytes(1 << 20)]
    play.do(
        lambda c: c.write(memoryview(pieces[-1])), *[lambda c, p=p: c.write(memoryview(p)) for p in pieces]
    )
    assert len(play.c.unsent) == 67
    play.packets.clear()
    play.c.unsent.popleft()
    play.c.unsent_bytes -= 1 << 20
    play.recv("A", wnd=65 * 900)
    assert max(len(packet) for packet in play.packets) == 2
    assert sum(_sent_sizes(play)) == 40 * GSO_SIZE


def test_an_empty_write_is_nothing():
    play = established().write(b"").expect()
    play.do(lambda c: c.write(memoryview(b"")), Connection.shutdown).expect(seg("FA", seq=1))


def test_fin_waits_for_the_data_before_it():
    play = established().recv("A", wnd=5).do(lambda c: c.write(memoryview(b"abcdefgh")), Connection.shutdown)
    play.after(play.c.rto.value).expect(seg("A", data=b"abcde")).enters(state.ESTABLISHED)
    play.recv("A", ack=6, wnd=5).expect(seg("FPA", seq=6, data=b"fgh")).enters(state.FIN_WAIT_1)


def test_what_was_written_before_the_handshakes_end_follows_it():
    play = syn_received().do(lambda c: c.write(memoryview(b"banner")), Connection.shutdown).expect()
    play.recv("A").expect(seg("FPA", seq=1, data=b"banner")).told("established")


def test_abort_in_each_state():
    established().abort().expect(seg("RA", seq=1, ack=1)).told("reset").enters(state.CLOSED)
    fin_wait_1().abort().expect(seg("RA", seq=2, ack=1)).told("reset")
    syn_received().abort().expect(seg("RA", seq=1, ack=1)).told("reset")
    time_wait().abort().expect().told().enters(state.CLOSED)


# ---- windows for the guest -----------------------------------------------------------------


@pytest.mark.rfc("9293", "MUST-39")
def test_the_window_is_opened_in_large_steps():
    play = established().recv("A", data=bytes(1000)).expect(seg("A", ack=1001, wnd=31744))
    play.grant(1000).expect()  # not worth a segment
    play.grant(64 << 10).expect(seg("A", ack=1001, wnd=WINDOW + (64 << 10)))
    play = established().recv("A", data=bytes(20_000)).expect(seg("A", ack=20_001))
    play.grant(12_000).expect()
    play.grant(800).expect(seg("A", wnd=25_344))  # as much again as was left


@pytest.mark.rfc("9293", "MUST-39")
def test_what_the_scaled_window_cannot_tell_is_not_worth_a_segment():
    play = established().recv("A", data=bytes(WINDOW)).expect(seg("A", wnd=0))
    play.grant(255).expect()
    play.grant(1).expect(seg("A", wnd=256))
    play.write(b"x").expect(seg("PA")).write(b"y").expect(seg("PA"))  # and no ACK besides


@pytest.mark.rfc("9293", "SHLD-14")
def test_the_window_never_shrinks_from_the_right():
    play, edge = established(), 0
    for n in range(20):
        play.recv("A", seq=1 + n * 777, data=bytes(777))
        ack = parse(b"".join(play.packets.popleft()))
        play.grant((n * 300) % 1000)
        reached = n * 777 + 778 + (ack.wnd << 8)
        assert reached >= edge - 255  # rounded down to the scale's unit
        edge = max(edge, reached)
        play.packets.clear()


def test_no_window_is_told_to_who_has_said_its_last():
    close_wait().grant(1 << 20).expect()


# ---- losses ---------------------------------------------------------------------------------


def _three_in_flight(**how) -> Play:
    play = established(**how)
    for n in range(3):
        play.write(bytes([65 + n]) * 100).expect(seg("PA", seq=1 + n * 100))
    return play


@pytest.mark.rfc("5681", "3.2-1")
@pytest.mark.rfc("6675", "5-1")
@pytest.mark.rfc("6675", "5-3")
@pytest.mark.rfc("6675", "5-5")
def test_the_third_duplicate_ack_repeats_the_first_segment():
    play = _three_in_flight().recv("A").expect().recv("A").expect()
    play.recv("A").expect(seg("PA", seq=1, data=b"A" * 100))
    play.recv("A").expect().recv("A").expect()  # once
    play.recv("A", ack=301).expect().told(("acked", 300))
    assert play.c.recover is None
    assert play.c.timer == Timer.NONE


def test_what_is_no_duplicate_ack():
    play = _three_in_flight()
    play.recv("A", wnd=9000).recv("A", wnd=9001).recv("A", wnd=9002).expect()  # windows
    for n in range(3):
        play.recv("A", seq=1 + n, wnd=9002, data=b"x").expect(seg("A"))  # data
    play = established()
    play.recv("A").recv("A").recv("A").recv("A").expect()  # nothing in flight


@pytest.mark.rfc("6582", "3.2")
def test_a_partial_ack_uncovers_the_next_loss():
    play = _three_in_flight().recv("A").recv("A").recv("A").expect(seg("PA", seq=1))
    play.recv("A", ack=101).expect(seg("PA", seq=101, data=b"B" * 100))
    play.recv("A", ack=251).expect(seg("PA", seq=251, data=b"C" * 50))
    play.recv("A", ack=301).expect()


def test_a_partly_acknowledged_segment_of_many_pieces_is_repeated_from_there():
    play = established().do(*[lambda c, b=b: c.write(memoryview(b)) for b in (b"abc", b"def", b"ghi")])
    play.expect(seg("PA", seq=1, data=b"abcdefghi")).recv("A", ack=5).told(("acked", 4))
    play.after(play.c.rto.value).expect(seg("PA", seq=5, data=b"efghi"))
    play.recv("A", ack=7).expect(seg("PA", seq=7, data=b"ghi"))  # short of the recovery point
    play.recv("A", ack=10).expect().told(("acked", 2), ("acked", 3))


def test_a_fin_in_flight_is_repeated_alone_when_its_data_has_arrived():
    play = established().do(lambda c: c.write(memoryview(b"abc")), Connection.shutdown).expect(seg("FPA"))
    play.recv("A", ack=4).after(play.c.rto.value).expect(seg("FPA", seq=4, data=b""))


@pytest.mark.rfc("2018", "5-1")
@pytest.mark.rfc("6675", "4-1")
def test_what_sack_reports_is_not_repeated():
    play = _three_in_flight()
    for _ in range(3):
        play.recv("A", sack=((101, 201),))
    play.expect(seg("PA", seq=1))
    play.recv("A", ack=201, sack=()).expect(seg("PA", seq=201, data=b"C" * 100))
    play.recv("A", ack=301).expect()


def test_sack_of_part_of_a_segment_does_not_count():
    play = _three_in_flight()
    for _ in range(3):
        play.recv("A", sack=((2, 101), (101, 300)))
    play.expect(seg("PA", seq=1, data=b"A" * 100))


@pytest.mark.rfc("2018", "5-2")
@pytest.mark.rfc("2018", "5-3")
@pytest.mark.rfc("2018", "5.1-2")
@pytest.mark.rfc("2018", "8-3")
@pytest.mark.rfc("6675", "4-2")
def test_a_guest_may_throw_away_what_it_has_reported():
    play = _three_in_flight().recv("A", sack=((1, 301),)).recv("A").recv("A").expect()
    play.recv("A").expect()  # all of it is there, it says
    play.after(play.c.rto.value).expect(seg("PA", seq=1))


def test_after_a_recovery_losses_are_counted_anew():
    play = _three_in_flight().recv("A").recv("A").recv("A").expect(seg("PA", seq=1))
    play.write(b"D").expect(seg("PA", seq=301)).recv("A", ack=301, sack=()).expect()
    play.recv("A", ack=301).recv("A", ack=301).expect()
    play.recv("A", ack=301).expect(seg("PA", seq=301, data=b"D"))


def test_numbers_that_come_round_to_the_first_are_data_all_the_same():
    """4 GiB later a segment may begin where the SYN stood."""
    play = established()
    play.c.snd_una = play.c.snd_nxt = play.c.iss
    play.write(b"abc").expect(seg("PA", seq=0))
    play.after(play.c.rto.value).expect(seg("PA", seq=0, data=b"abc"))


# ---- an ACK that may wait -----------------------------------------------------------------


def holding() -> Play:
    play = established()
    play.hold = True
    return play


@pytest.mark.rfc("9293", "SHLD-18")
def test_the_ack_of_a_small_segment_rides_on_the_answer():
    play = holding().recv("AP", data=b"ask").expect()
    assert play.held
    play.do(lambda c: c.write(memoryview(b"answer"))).expect(seg("PA", ack=4, data=b"answer"))
    assert not play.held


@pytest.mark.rfc("9293", "SHLD-19")
def test_it_goes_alone_when_it_is_held_no_longer():
    play = holding().recv("AP", data=b"ask").expect()
    play.hold = False
    play.do(lambda c: c.link.wake(c)).expect(seg("A", ack=4))


@pytest.mark.rfc("9293", "SHLD-19")
def test_a_second_segment_and_a_full_one_are_acknowledged_at_once():
    holding().recv("AP", data=b"ask").expect().recv("AP", seq=4, data=b"again").expect(seg("A", ack=9))
    holding().recv("A", data=bytes(1460)).expect(seg("A", ack=1461))


def test_what_is_out_of_order_or_old_is_acknowledged_at_once():
    play = holding().recv("AP", data=b"ask").expect()
    play.recv("AP", seq=1, data=b"ask").expect(seg("A", ack=4))
    play.recv("AP", seq=9, data=b"later").expect(seg("A", ack=4, sack=((9, 14),)))


def test_the_ack_of_a_fin_rides_on_ours():
    play = holding().recv("AF").expect().enters(state.CLOSE_WAIT)
    assert play.held
    play.do(Connection.shutdown).expect(seg("FA", ack=2))


def test_a_window_that_opens_is_told_with_it():
    play = holding().recv("AP", data=b"ask").expect()
    play.do(lambda c: c.grant(1 << 20)).expect()
    assert play.held
    play.hold = False
    play.do(lambda c: c.link.wake(c)).expect(seg("A", ack=4, wnd=(WINDOW - 3 + (1 << 20)) >> 8 << 8))
