# SPDX-License-Identifier: GPL-3.0-or-later
"""Options on any segment, timestamps that nobody has offered, and the windows that scaling makes."""

from __future__ import annotations

from struct import pack

import pytest
from playbook import WINDOW, Play, established, fin_wait_2, last_ack, parked, seg, syn_received

from avne.netstack.tcp import state
from avne.netstack.tcp.connection import Connection
from avne.netstack.wire import tcp

TIMESTAMPS = bytes((1, 1, 8, 10)) + pack(">II", 12345, 0)
STRANGE = bytes((34, 4, 1, 2, 1, 253, 5, 1, 2, 3, 1, 0))  # not aligned, unknown, and an end


@pytest.mark.parametrize("raw", [TIMESTAMPS, STRANGE], ids=["timestamps", "strange"])
@pytest.mark.rfc("9293", "MUST-5")
@pytest.mark.rfc("7323", "3.2-2")
def test_options_are_accepted_in_any_segment(raw):
    play = Play().recv("S", seq=0, raw=tcp.syn_options(1460, 0, True) + raw).do(lambda c: c.accept(WINDOW))
    play.expect(seg("SA", seq=0, ack=1)).recv("A", raw=raw).told("established")
    play.recv("PA", seq=1, data=b"abc", raw=raw).expect(seg("A", ack=4)).told(b"abc")
    play.recv("A", seq=10, data=b"ahead", raw=raw).expect(seg("A", ack=4, sack=((10, 15),)))
    play.recv("A", seq=4, data=b"before", raw=raw).expect(seg("A", ack=15)).told(b"before", b"ahead")
    play.write(b"x").expect(seg("PA", seq=1)).recv("A", seq=15, ack=2, raw=raw).told(("acked", 1))
    play.recv("FA", seq=15, ack=2, raw=raw).expect(seg("A", ack=16)).told("fin")
    play.shutdown().expect(seg("FA", seq=2)).recv("A", seq=16, ack=3, raw=raw).told("closed")
    established().recv("R", seq=1, raw=raw).expect().told("reset")


@pytest.mark.rfc("7323", "3.2-1")
def test_timestamps_that_a_guest_offers_are_not_taken_up():
    play = Play().recv("S", seq=0, raw=tcp.syn_options(1460, 7, True) + TIMESTAMPS)
    play.do(lambda c: c.accept(WINDOW)).each_frame(_no_timestamps)
    play.recv("A", raw=TIMESTAMPS).told("established").write(b"x").each_frame(_no_timestamps)
    play.recv("FA", ack=2, raw=TIMESTAMPS).each_frame(_no_timestamps)


def _no_timestamps(frame: bytes) -> None:
    header = frame[30:]
    options = header[20 : (header[12] >> 4) * 4]
    at, kinds = 0, []
    while at < len(options):
        kinds.append(options[at])
        at += 1 if options[at] <= 1 else options[at + 1]
    assert 8 not in kinds


@pytest.mark.rfc("7323", "2.2-2")
@pytest.mark.rfc("9293", "MUST-5")
def test_what_belongs_on_a_syn_means_nothing_elsewhere():
    raw = tcp.syn_options(100, 5, True)
    play = established(wscale=2, sack=False)
    before = (play.c.snd_wscale, play.c.rcv_wscale, play.c.gso_size, play.c.sack_ok)
    play.recv("PA", data=b"abc", wnd=4000, raw=raw).expect(seg("A", ack=4)).told(b"abc")
    assert (play.c.snd_wscale, play.c.rcv_wscale, play.c.gso_size, play.c.sack_ok) == before
    assert play.c.snd_wnd == 4000


@pytest.mark.rfc("9293", "REC-1")
@pytest.mark.rfc("9293", "MUST-1")
@pytest.mark.rfc("7323", "2.3-1")
@pytest.mark.rfc("7323", "2.3-3")
@pytest.mark.parametrize("scale", [14, 15, 255])
def test_the_largest_window_there_can_be(scale):
    play = Play()
    play.syn_options = tcp.Options(1460, scale, True)
    play.recv("S", seq=0).do(lambda c: c.accept(WINDOW)).expect(seg("SA"))
    play.recv("A", wnd=0xFFFF << 14)
    assert play.c.snd_wnd == 0xFFFF << 14
    play.write(bytes(1 << 20))
    assert play.snd == 1 + (1 << 20)


@pytest.mark.rfc("7323", "2.4-1")
@pytest.mark.rfc("7323", "2.4-2")
@pytest.mark.rfc("9293", "SHLD-14")
def test_what_an_earlier_ack_has_promised_is_taken():
    """The scaled field is rounded down, so the edge that a later ACK can tell lies further left."""
    play = established().recv("A", data=bytes(100)).expect(seg("A", ack=101, wnd=WINDOW - 256))
    play.app.clear()
    rest = bytes(WINDOW - 100)
    play.recv("PA", seq=101, data=rest).expect(seg("A", ack=1 + WINDOW, wnd=0)).told(rest)


@pytest.mark.rfc("9293", "MUST-31")
@pytest.mark.rfc("9293", "MUST-66")
def test_urgent_data_of_any_length_is_delivered_in_line():
    play = established()
    for n in range(20):
        play.recv("AU", seq=1 + n * 1000, data=bytes([n]) * 1000).expect(seg("A", ack=1001 + n * 1000))
        play.grant(1000)
        play.packets.clear()
    assert b"".join(play.app) == b"".join(bytes([n]) * 1000 for n in range(20))
    play = established().recv("PA", data=bytes(WINDOW)).expect(seg("A", wnd=0))
    play.app.clear()
    play.write(b"abc").expect(seg("PA"))
    play.recv("AU", seq=1 + WINDOW, ack=4).told(("acked", 3))
    play.recv("RU", seq=1 + WINDOW).told("reset").enters(state.CLOSED)


# ---- how it was opened ------------------------------------------------------------------------


@pytest.mark.rfc("9293", "MUST-11")
def test_a_new_syn_in_syn_received_goes_back_to_listen_after_a_passive_open_only():
    syn_received().recv("S", seq=5).expect().told("reset").enters(state.CLOSED)
    play = Play()
    play.irs = 0
    play.do(lambda c: c.grant(WINDOW), Connection.open_active).expect(seg("S"))
    play.irs = 7000
    play.recv("S", seq=0).expect(seg("SA")).enters(state.SYN_RECEIVED)
    play.recv("S", seq=5).expect(seg("A", seq=1, ack=1)).told().enters(state.SYN_RECEIVED)


@pytest.mark.rfc("9293", "MUST-12")
def test_the_application_learns_how_each_connection_ended():
    parked().recv("R", seq=1).told("reset")
    last_ack().recv("A", seq=2, ack=2).told("closed")
    fin_wait_2().recv("FA", ack=2).expect(seg("A")).told("fin", "closed")
    fin_wait_2().recv("R").told("reset")
