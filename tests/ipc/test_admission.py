# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is let in (ZAP, ZeroMQ RFC 27), and who is taken for dead; both sans-IO."""

from __future__ import annotations

import random

import pytest

from avne.ipc.admission import address, answer
from avne.ipc.heartbeat import INTERVAL, MISSES, Heartbeats

KEY, OTHER = b"k" * 32, b"o" * 32
GOOD = [b"1.0", b"7", b"avne", b"192.0.2.1", b"", b"CURVE", KEY]


def changed(at: int, value: bytes) -> list[bytes]:
    return [*GOOD[:at], value, *GOOD[at + 1 :]]


def test_a_key_of_the_list_is_let_in() -> None:
    assert answer(GOOD, [OTHER, KEY]) == ([b"1.0", b"7", b"200", b"", b"", b""], "")
    assert address(GOOD) == "192.0.2.1"


@pytest.mark.parametrize(
    ("frames", "status", "why"),
    [
        (changed(6, OTHER), b"400", "unknown-key"),
        (changed(5, b"NULL")[:6], b"500", "no-key"),
        (changed(5, b"PLAIN"), b"500", "no-key"),
        (changed(0, b"2.0"), b"500", "bad-request"),
        (changed(2, b"other"), b"500", "bad-request"),
        (changed(6, KEY[:-1]), b"500", "bad-request"),
        ([*GOOD, KEY], b"500", "bad-request"),
        (GOOD[:6], b"500", "bad-request"),
        (GOOD[:2], b"500", "bad-request"),
        ([], b"500", "bad-request"),
    ],
)
def test_nobody_else_is(frames: list[bytes], status: bytes, why: str) -> None:
    reply, said = answer(frames, [KEY])
    assert len(reply) == 6
    assert (reply[0], reply[2], said) == (b"1.0", status, why)
    assert reply[1] == (b"7" if frames else b"")


def test_an_empty_list_lets_nobody_in() -> None:
    assert answer(GOOD, [])[1] == "unknown-key"


def beat(beats: Heartbeats, now: float, answers: set[bytes]) -> tuple[list[bytes], list[bytes]]:
    beats.heard |= answers
    return beats.handle_timer((b"a", b"b"), now)


def test_silence_ends_one_peer_and_not_the_other() -> None:
    beats = Heartbeats(0.0)
    assert beats.handle_timer((b"a", b"b"), INTERVAL / 2) == ([], [])
    for count in range(1, MISSES):
        assert beat(beats, count * INTERVAL, {b"a"}) == ([b"a", b"b"], [])
    assert beat(beats, MISSES * INTERVAL, {b"a"}) == ([b"a"], [b"b"])


def test_one_answer_is_enough() -> None:
    beats = Heartbeats(0.0)
    for count in range(1, 5 * MISSES):
        late = {b"b"} if count % (MISSES - 1) == 0 else set()
        assert beat(beats, count * INTERVAL, {b"a", *late})[1] == []


def test_a_twentieth_of_the_answers_lost_costs_nothing() -> None:
    """A day of them."""
    chance = random.Random(5)
    beats = Heartbeats(0.0)
    for count in range(1, int(86400 / INTERVAL)):
        answers = {peer for peer in (b"a", b"b") if chance.random() >= 0.05}
        assert beat(beats, count * INTERVAL, answers)[1] == []


def test_to_ask_sooner_counts_nothing() -> None:
    """Whoever connects and goes again cannot make another's time pass."""
    beats = Heartbeats(0.0)
    for count in range(1, 10 * MISSES):
        beats.ask_at(count / 1000)
        assert beats.poll_at() == count / 1000
        assert beats.handle_timer((b"a",), count / 1000) == ([b"a"], [])
    assert beats.poll_at() == INTERVAL


def test_an_interval_that_was_slept_through_is_one() -> None:
    beats = Heartbeats(0.0)
    assert beats.handle_timer((b"a",), 1e6) == ([b"a"], [])
    assert beats.poll_at() == 1e6 + INTERVAL
