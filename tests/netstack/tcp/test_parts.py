# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of the TCP machine that know no connection: numbers, timeouts, reassembly, states."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avne.netstack.tcp import isn, seq, state
from avne.netstack.tcp.reassembly import MAX_BLOCKS, Reassembly
from avne.netstack.tcp.rto import INITIAL, MAXIMUM, MINIMUM, RetransmissionTimeout

NUMBER = st.integers(0, 0xFFFFFFFF)


# ---- seq.py ------------------------------------------------------------------------


@given(NUMBER, st.integers(-(1 << 31), (1 << 31) - 1))
def test_distances_are_signed_and_survive_the_wrap(start, distance):
    end = seq.add(start, distance)
    assert 0 <= end <= seq.MASK
    assert seq.diff(end, start) == distance
    assert seq.lt(start, end) is (distance > 0 or distance == -(1 << 31))
    assert seq.le(start, end) is (distance >= 0)


@given(NUMBER, st.integers(0, 1 << 31), st.integers(0, 1 << 31))
def test_within_is_half_open(start, length, offset):
    assert seq.within(seq.add(start, offset), start, length) is (offset < length)


# ---- isn.py --------------------------------------------------------------------------


@pytest.mark.rfc("9293", "MUST-8")
@pytest.mark.rfc("9293", "SHLD-1")
@pytest.mark.rfc("6528", "3-1")
def test_the_first_number_ticks_and_depends_on_flow_and_secret():
    a = isn.initial(100.0, b"flow", b"secret")
    assert isn.initial(100.0, b"flow", b"secret") == a
    assert seq.diff(isn.initial(101.0, b"flow", b"secret"), a) == 250_000  # one in 4 µs
    assert isn.initial(100.0, b"flux", b"secret") != a
    assert isn.initial(100.0, b"flow", b"secreT") != a


# ---- rto.py --------------------------------------------------------------------------


@pytest.mark.parametrize(("used", "first"), [(5, 9), (9, 10), (2000, 2001), (0xFFFFFFFF, 9)])
def test_a_reused_port_begins_beyond_the_numbers_of_the_connection_before(used, first):
    assert isn.beyond(9, used) == first


@pytest.mark.rfc("6298", "2.1")
@pytest.mark.rfc("6298", "2.2")
@pytest.mark.rfc("6298", "2.3")
def test_the_timeout_follows_the_samples():
    rto = RetransmissionTimeout()
    assert rto.value == INITIAL == 1.0
    rto.sample(0.5)
    assert rto.value == pytest.approx(0.5 + 4 * 0.25)  # SRTT + 4 RTTVAR, RTTVAR = R/2
    rto.sample(0.9)  # RTTVAR = 3/4·0.25 + 1/4·0.4, SRTT = 7/8·0.5 + 1/8·0.9
    assert rto.value == pytest.approx(0.55 + 4 * 0.2875)
    for _ in range(100):
        rto.sample(0.00002)
    assert rto.value == MINIMUM


@pytest.mark.rfc("6298", "4")
def test_samples_that_do_not_vary_leave_the_clocks_granularity():
    rto = RetransmissionTimeout()
    for _ in range(200):
        rto.sample(0.5)
    assert rto.value == pytest.approx(0.501)


@pytest.mark.rfc("6298", "5.7")
def test_data_after_a_lost_syn_starts_with_three_seconds():
    rto = RetransmissionTimeout()
    rto.begin_data()
    assert rto.value == INITIAL
    rto.back_off()
    rto.begin_data()
    assert rto.value == 3.0
    rto.sample(0.6)  # 1.8 s: measured, and so nothing was lost
    rto.begin_data()
    assert rto.value == pytest.approx(1.8)


@pytest.mark.rfc("6298", "2.5")
def test_the_timeout_has_bounds():
    assert MAXIMUM >= 60
    rto = RetransmissionTimeout()
    rto.sample(1000.0)
    assert rto.value == MAXIMUM
    rto.back_off()
    assert rto.value == MAXIMUM


# ---- reassembly.py ---------------------------------------------------------------------


def _view(data: bytes) -> memoryview:
    return memoryview(data)


@given(
    st.integers(0, 0xFFFFFFFF),
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 20)), max_size=30),
)
@pytest.mark.rfc("2018", "8-2")
def test_any_pieces_in_any_order_come_out_once_and_in_order(base, pieces):
    stream = bytes(range(100))
    reassembly = Reassembly()
    held = set()
    for start, length in pieces:
        reassembly.insert(seq.add(base, start), _view(stream[start : start + length]), base)
        held |= set(range(start, start + length))
    assert reassembly.held == len(held)
    for left, right in reassembly.sack_blocks():
        assert set(range(seq.diff(left, base), seq.diff(right, base))) <= held
    # The hole closes: everything up to the next one is taken.
    at, got = 0, b""
    for at in range(81):
        block = reassembly.take(seq.add(base, at))
        if block is not None:
            got += bytes(block)
            assert bytes(block) == stream[at : at + len(block)]
    assert not reassembly


def test_what_is_behind_already_is_thrown_away():
    reassembly = Reassembly()
    reassembly.insert(10, _view(b"abc"), 0)
    reassembly.insert(20, _view(b"xyz"), 0)
    assert reassembly.take(5) is None
    assert bytes(reassembly.take(12)) == b"c"
    assert reassembly.take(30) is None
    assert not reassembly


@pytest.mark.rfc("2018", "4-4")
@pytest.mark.rfc("2018", "4-6")
@pytest.mark.rfc("2018", "8-1")
def test_the_block_of_the_latest_segment_is_reported_first_and_then_those_reported_before():
    reassembly = Reassembly()
    for start in (10, 20, 30, 40, 22, 10):
        reassembly.insert(start, _view(b"ab"), 0)
    assert reassembly.sack_blocks() == [(10, 12), (20, 24), (40, 42), (30, 32)]


def test_blocks_that_were_put_long_ago_are_reported_last():
    reassembly = Reassembly()
    reassembly.insert(10, _view(b"ab"), 0)
    for start in range(20, 60):
        reassembly.insert(start, _view(b"a"), 0)
    assert reassembly.sack_blocks() == [(20, 60), (10, 12)]


def test_a_fin_alone_keeps_it_alive():
    reassembly = Reassembly()
    assert not reassembly
    reassembly.fin = 7
    assert reassembly
    assert reassembly.sack_blocks() == []


def test_the_memory_behind_the_pieces_is_bounded():
    """A few bytes do not keep the frame of 64 KiB that they came in."""
    reassembly = Reassembly()
    for n in range(MAX_BLOCKS):
        frame = memoryview(bytes(65536))
        reassembly.insert(10 + 2 * n, frame[100:101], 0)
    kept = sum(memoryview(block.obj).nbytes for _, block in reassembly._blocks)
    assert kept == reassembly.held == MAX_BLOCKS
    reassembly.insert(1, memoryview(bytes(65536))[:1], 0)
    assert reassembly.held == MAX_BLOCKS


# ---- state.py --------------------------------------------------------------------------


def test_every_state_has_its_moves_and_can_be_reached():
    assert set(state.TRANSITIONS) == set(state.State)
    reached = {state.PARKED, state.SYN_SENT}
    for _ in state.State:
        reached |= {new for old in reached for new in state.TRANSITIONS[old]}
    assert reached == set(state.State) - {state.CLOSED}
