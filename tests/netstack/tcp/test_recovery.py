# SPDX-License-Identifier: GPL-3.0-or-later
"""What the simulated link's table (docs/netsim.md) has taught: losses must not be learnt from twice."""

from __future__ import annotations

import pytest
from playbook import Play, established, seg

from avne.netstack.tcp import rto


def _in_flight(count: int) -> Play:
    play = established()
    for n in range(count):
        play.write(bytes([65 + n]) * 100).expect(seg("PA", seq=1 + n * 100))
    return play


@pytest.mark.rfc("6298", "3-1")
def test_what_waited_behind_a_lost_segment_tells_nothing_about_the_round_trip():
    """The second was sent once, but its ACK waited for our timer: the RTO must not grow by what it was."""
    play = _in_flight(2)
    play.after(play.c.rto.value).expect(seg("PA", seq=1))
    backed_off = play.c.rto.value
    play.recv("A", ack=201).told(("acked", 200))
    assert play.c.rto.value == backed_off
    play.write(b"new").expect(seg("PA")).recv("A", ack=204)
    assert play.c.rto.value == rto.MINIMUM


@pytest.mark.rfc("6298", "3-1")
def test_sack_tells_the_round_trip_of_what_arrived_behind_a_loss():
    play = _in_flight(4)
    play.after(play.c.rto.value).expect(seg("PA", seq=1))
    play.write(b"E" * 100).expect(seg("PA", seq=401))
    assert play.c.rto.value > rto.MINIMUM
    play.after(0.01).recv("A", sack=((401, 501),))
    assert play.c.rto.value == rto.MINIMUM
    play.after(0.1).recv("A", ack=501)  # it was there long ago
    assert play.c.rto.value == rto.MINIMUM


def test_what_sack_reports_again_after_a_timeout_is_no_new_round_trip():
    play = _in_flight(4).recv("A", sack=((301, 401),))
    play.after(play.c.rto.value).expect(seg("PA", seq=1))
    before = play.c.rto.value
    play.after(0.19).recv("A", sack=((301, 401),)).expect()
    assert play.c.rto.value == before


@pytest.mark.parametrize(("count", "duplicates"), [(2, 1), (3, 2), (4, 3), (5, 3)])
def test_a_loss_is_repaired_at_once_when_all_that_followed_it_has_arrived(count, duplicates):
    """RFC 5827: with less than four in flight no third duplicate ACK would come."""
    play = _in_flight(count)
    for n in range(1, duplicates):
        play.recv("A", sack=((101, 101 + n * 100),)).expect()
    play.recv("A", sack=((101, 101 + duplicates * 100),)).expect(seg("PA", seq=1, data=b"A" * 100))
    play.recv("A", ack=1 + count * 100).expect()


def test_one_segment_in_flight_is_not_repeated_for_a_stray_ack():
    _in_flight(1).recv("A").expect().recv("A").expect()


def test_recovery_goes_on_when_the_repeated_segment_is_lost_too():
    play = _in_flight(2).recv("A", sack=((101, 201),)).expect(seg("PA", seq=1))
    for _ in range(5):
        play.recv("A", sack=((101, 201),)).expect()  # once
    play.after(play.c.rto.value).expect(seg("PA", seq=1))
    play.recv("A", ack=201).expect()
