# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avne.errors import Malformed
from avne.ipc.messages import Code
from avne.ipc.relay import QUIET, RESET_GRACE, Budget, Relay, Step
from avne.limits import CREDIT_FIRST, CREDIT_MAX


def relay(
    half_close: bool = True, proof: bool = False, down: int = 1000, budget: Budget | None = None
) -> Relay:
    return Relay(budget or Budget(), down, half_close, proof)


def written(relay: Relay, now: float = 0.0) -> bytes:
    """All that waits, written at once."""
    data = b""
    while relay.queued:
        heads = b"".join(relay.heads())
        data += heads
        relay.wrote(len(heads), now)
    return data


# Credit.


def test_credit_comes_back_as_bytes_are_written() -> None:
    budget = Budget()
    r = relay(budget=budget)
    assert r.grant == budget.held == CREDIT_FIRST
    r.receive_data(bytes(CREDIT_FIRST // 4 - 1), 0.0)
    assert r.wrote(CREDIT_FIRST // 4 - 1, 0.0) == 0
    r.receive_data(b"x", 0.0)
    assert r.wrote(1, 0.0) == CREDIT_FIRST // 4
    assert r.grant == budget.held == CREDIT_FIRST
    r.release()
    assert budget.held == 0


def test_data_beyond_the_credit_is_the_netstack_s_fault() -> None:
    r = relay()
    r.receive_data(bytes(CREDIT_FIRST), 0.0)
    with pytest.raises(Malformed, match="wire-credit"):
        r.receive_data(b"x", 0.0)


def test_credit_above_the_maximum_is_the_netstack_s_fault() -> None:
    r = relay(down=CREDIT_MAX - 5)
    r.receive_credit(5)
    assert r.down_credit == CREDIT_MAX
    with pytest.raises(Malformed, match="wire-credit"):
        r.receive_credit(1)


def test_reading_uses_the_netstack_s_credit() -> None:
    r = relay(down=10)
    r.read(10, 0.0)
    assert r.down_credit == 0
    r.receive_credit(4)
    assert r.down_credit == 4


@given(st.lists(st.tuples(st.integers(1, 70_000), st.integers(0, 200_000)), max_size=60))
def test_bytes_come_out_as_they_went_in_and_no_flow_starves(script: list[tuple[int, int]]) -> None:
    """Whatever is sent within the credit is written in order, and an emptied flow has credit again."""
    budget = Budget()
    r = relay(budget=budget)
    credit, came, went = r.grant, bytearray(), bytearray()
    for number, (size, write) in enumerate(script):
        data = bytes([number & 0xFF]) * min(size, credit)
        credit -= len(data)
        came += data
        if data:
            r.receive_data(data, 0.0)
        while write and r.queued:
            part = b"".join(r.heads())[:write]
            went += part
            write -= len(part)
            credit += r.wrote(len(part), 0.0)
        assert credit == r.grant
        assert budget.held == credit + r.queued <= CREDIT_MAX
    went += written(r)
    assert went == came
    assert r.grant >= CREDIT_FIRST * 3 // 4


def test_small_payloads_are_gathered_and_the_one_being_written_is_not_disturbed() -> None:
    r = relay()
    for byte in range(200):
        r.receive_data(bytes([byte]), 0.0)
    assert [len(head) for head in r.heads()] == [200]
    r.wrote(50, 0.0)
    r.receive_data(b"more", 0.0)
    assert b"".join(r.heads()) == bytes(range(50, 200)) + b"more"
    big = bytes(16_000)
    r.receive_data(memoryview(big), 0.0)
    r.receive_data(b"tail", 0.0)
    assert written(r) == bytes(range(50, 200)) + b"more" + big + b"tail"
    r.receive_data(b"again", 0.0)
    assert written(r) == b"again"


# Ends.


def test_the_program_s_end_is_passed_on_after_its_last_byte() -> None:
    r = relay()
    r.receive_data(b"last", 0.0)
    r.receive_shut(0.0)
    assert r.steps() == []
    r.wrote(4, 0.0)
    assert r.steps() == [Step.SHUT_SOCKET]
    assert r.steps() == []
    r.ended = True
    assert r.steps() == [Step.TELL_END, Step.CLOSE]


def test_the_server_s_end_leaves_the_other_direction_open() -> None:
    r = relay()
    r.ended = True
    assert r.steps() == [Step.TELL_END]
    r.receive_data(b"x", 0.0)
    r.receive_shut(0.0)
    assert r.steps() == []
    r.wrote(1, 0.0)
    assert r.steps() == [Step.SHUT_SOCKET, Step.CLOSE]


def test_nothing_may_follow_a_shut() -> None:
    r = relay()
    r.receive_shut(0.0)
    with pytest.raises(Malformed, match="wire-turn"):
        r.receive_shut(0.0)
    with pytest.raises(Malformed, match="wire-credit"):
        r.receive_data(b"x", 0.0)


def test_an_end_that_needs_proof_waits_for_it() -> None:
    r = relay(proof=True)
    assert r.hang_up()
    assert not r.hang_up(), "asked once"
    r.ended = True
    assert r.steps() == []
    r.judge(True)
    assert r.steps() == [Step.TELL_END]


def test_proof_may_come_before_the_last_byte_is_read() -> None:
    r = relay(proof=True)
    r.hang_up()
    r.judge(True)
    assert r.steps() == []
    r.ended = True
    assert r.steps() == [Step.TELL_END]


def test_the_upstream_s_death_is_a_reset_after_the_last_byte() -> None:
    r = relay(proof=True)
    r.hang_up()
    r.judge(False)
    assert r.steps() == []
    r.ended = True
    assert r.steps() == [Step.TELL_RESET]
    assert r.reset_code == Code.UPSTREAM_DOWN


def test_without_need_of_proof_nobody_asks() -> None:
    assert not relay().hang_up()


def test_after_a_failed_write_the_answer_is_read_and_its_end_is_a_reset() -> None:
    budget = Budget()
    r = relay(budget=budget)
    r.receive_data(b"lost", 0.0)
    r.fail_write()
    assert not r.queued
    r.receive_data(b"lost too", 0.0)
    assert budget.held == r.grant == CREDIT_FIRST - 12
    r.receive_shut(0.0)
    assert r.steps() == [], "no shutdown of a broken socket"
    r.read(10, 0.0)
    r.ended = True
    assert r.steps() == [Step.TELL_RESET]
    r.release()
    assert budget.held == 0


def test_a_write_that_fails_after_the_server_s_end_is_a_reset() -> None:
    r = relay()
    r.ended = True
    assert r.steps() == [Step.TELL_END]
    r.fail_write()
    assert r.steps() == [Step.TELL_RESET]


def test_a_reset_after_the_server_s_end_is_both() -> None:
    r = relay()
    r.ended = True
    r.break_off(0.0)
    assert r.steps() == [Step.TELL_END, Step.TELL_RESET]


def test_a_reset_after_an_end_waits_for_the_end_s_proof() -> None:
    r = relay(proof=True)
    r.ended = True
    r.break_off(0.0)
    assert r.steps() == []
    r.judge(True)
    assert r.steps() == [Step.TELL_END, Step.TELL_RESET]


def test_a_reset_waits_for_the_program_to_read_but_not_for_long() -> None:
    r = relay(down=10)
    assert r.quiet_until() is None
    r.break_off(5.0)
    assert r.quiet_until() == 5.0 + RESET_GRACE
    r.read(10, 5.5)
    assert r.quiet_until() == 5.5 + RESET_GRACE
    assert r.steps() == []
    r.give_up()
    assert r.steps() == [Step.TELL_RESET]
    assert r.reset_code == Code.GENERAL_FAILURE


# Tor: no half-close.


def test_without_half_close_the_socket_stays_open_for_the_answer() -> None:
    r = relay(half_close=False)
    assert r.quiet_until() is None
    r.receive_shut(5.0)
    assert r.steps() == []
    assert r.quiet_until() == 5.0 + QUIET
    r.read(10, 7.0)
    assert r.quiet_until() == 7.0 + QUIET
    r.ended = True
    assert r.quiet_until() is None
    assert r.steps() == [Step.TELL_END, Step.CLOSE]


def test_silence_is_the_program_s_own_while_it_grants_no_credit() -> None:
    r = relay(half_close=False, down=10)
    r.receive_shut(0.0)
    r.read(10, 1.0)
    assert r.quiet_until() is None
    r.receive_credit(1)
    assert r.quiet_until() == 1.0 + QUIET


def test_bytes_that_wait_are_no_silence() -> None:
    r = relay(half_close=False)
    r.receive_data(b"x", 0.0)
    r.receive_shut(0.0)
    assert r.quiet_until() is None
    r.wrote(1, 3.0)
    assert r.quiet_until() == 3.0 + QUIET


def test_what_is_quiet_for_too_long_is_reset() -> None:
    r = relay(half_close=False, proof=True)
    r.receive_shut(0.0)
    r.give_up()
    assert r.steps() == [Step.TELL_RESET]
    assert r.reset_code == Code.UPSTREAM_TIMEOUT


def test_with_half_close_silence_has_no_bound() -> None:
    r = relay()
    r.receive_shut(0.0)
    assert r.quiet_until() is None
