# SPDX-License-Identifier: GPL-3.0-or-later
"""Loss recovery with SACK, from the sender's side (RFC 2018 §5, RFC 6675)."""

from __future__ import annotations

import pytest
from playbook import Play, established, seg

from avne.limits import GSO_SIZE
from avne.netstack.tcp.connection import Timer
from avne.netstack.tcp.timers import MAX_BACKOFFS

SIZE = 2 * GSO_SIZE


def _in_flight(count: int = 4, size: int = SIZE) -> Play:
    play = established()
    for n in range(count):
        play.write(bytes([65 + n]) * size).expect(seg("PA", seq=1 + n * size))
    return play


def _block(first: int, last: int, size: int = SIZE) -> tuple[int, int]:
    """The sequence numbers of segments `first` … `last`."""
    return 1 + first * size, 1 + (last + 1) * size


@pytest.mark.rfc("6675", "4-3")
@pytest.mark.rfc("6675", "5-2")
def test_sack_alone_shows_a_loss_when_more_than_two_segments_beyond_it_have_arrived():
    play = _in_flight().recv("A", sack=(_block(1, 1),)).expect()  # 2 of gso_size, not more
    play.recv("A", sack=(_block(1, 2),)).expect(seg("PA", seq=1, data=b"A" * SIZE))
    play.recv("A", sack=(_block(1, 3),)).expect().recv("A", sack=(_block(1, 3),)).expect()  # once
    play.recv("A", ack=1 + 4 * SIZE).expect()
    assert play.c.recover is None
    assert play.c.timer == Timer.NONE


@pytest.mark.rfc("6675", "4-3")
def test_what_has_arrived_itself_is_not_lost():
    _in_flight().recv("A", sack=(_block(0, 3),)).expect().recv("A", sack=(_block(0, 3),)).expect()


@pytest.mark.rfc("6675", "4-1")
@pytest.mark.rfc("2018", "5-1")
def test_reports_of_several_acks_add_up():
    play = _in_flight(5).recv("A", sack=(_block(3, 3),)).expect()
    play.recv("A", sack=(_block(1, 1),)).expect(seg("PA", seq=1))
    play.recv("A", ack=1 + 2 * SIZE).expect(seg("PA", seq=1 + 2 * SIZE, data=b"C" * SIZE))
    play.recv("A", ack=1 + 4 * SIZE).expect(seg("PA", seq=1 + 4 * SIZE, data=b"E" * SIZE))


@pytest.mark.rfc("6675", "5-5")
@pytest.mark.rfc("6582", "3.2")
def test_recovery_ends_with_the_ack_of_all_that_was_sent_before_it():
    play = _in_flight(3, 100).recv("A").recv("A").recv("A").expect(seg("PA", seq=1))
    play.write(b"later").expect(seg("PA", seq=301))
    play.recv("A", ack=301).expect()  # nothing is repeated any more
    assert play.c.recover is None


@pytest.mark.rfc("6675", "5.1-1")
def test_after_a_timeout_no_recovery_begins_before_all_that_was_sent_is_acknowledged():
    play = _in_flight(3, 100)
    play.after(play.c.rto.value).expect(seg("PA", seq=1))
    for _ in range(5):
        play.recv("A").expect()
    play.recv("A", ack=201).expect(seg("PA", seq=201, data=b"C" * 100))
    for _ in range(5):
        play.recv("A", ack=201).expect()
    play.recv("A", ack=301).expect().write(b"D" * 100).expect(seg("PA", seq=301))
    play.recv("A", ack=301).recv("A", ack=301).expect()
    play.recv("A", ack=301).expect(seg("PA", seq=301))


@pytest.mark.rfc("6675", "5.1-2")
@pytest.mark.rfc("2018", "5.1-2")
def test_after_a_timeout_only_what_is_reported_then_counts():
    play = _in_flight(4, 100).recv("A", sack=((101, 401),)).expect()
    play.after(play.c.rto.value).expect(seg("PA", seq=1, data=b"A" * 100))
    # What was reported before has been forgotten; of what comes now the second is missing.
    play.recv("A", ack=101, sack=((201, 301),)).expect(seg("PA", seq=101, data=b"B" * 100))
    play.recv("A", ack=301).expect(seg("PA", seq=301, data=b"D" * 100))
    play = _in_flight(2, 100).recv("A", sack=((101, 201),)).expect(seg("PA", seq=1))
    play.after(play.c.rto.value).expect(seg("PA", seq=1)).recv("A", ack=101).expect(seg("PA", seq=101))


@pytest.mark.rfc("2018", "8-3")
@pytest.mark.rfc("6675", "4-2")
def test_all_is_kept_until_it_is_acknowledged_whatever_sack_says():
    play = _in_flight(3, 100)
    for _ in range(MAX_BACKOFFS - 1):
        play.recv("A", sack=((1, 301),)).told()
        play.after(play.c.deadline - play.now).expect(seg("PA", seq=1, data=b"A" * 100))
    play.recv("A", ack=301).told(("acked", 300))
