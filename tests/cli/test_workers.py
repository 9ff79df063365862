# SPDX-License-Identifier: GPL-3.0-or-later
"""When a dead worker gets a successor, and when that is hopeless."""

from __future__ import annotations

from avne.cli.workers import MAX_CRASHES, MAX_DELAY, WINDOW, Restarts


def test_the_first_successor_starts_at_once_and_later_ones_wait_longer():
    restarts = Restarts()
    delays = [restarts.delay(now, failed=False) for now in range(MAX_CRASHES)]
    assert delays[0] == 0.0
    assert delays == sorted(delays)
    assert delays[-1] > 1.0


def test_too_many_crashes_in_a_minute_are_hopeless():
    restarts = Restarts()
    for now in range(MAX_CRASHES):
        assert restarts.delay(now, failed=False) is not None
    assert restarts.delay(WINDOW - 1, failed=False) is None


def test_crashes_of_more_than_a_minute_ago_are_forgotten():
    restarts = Restarts()
    for number in range(3 * MAX_CRASHES):
        assert restarts.delay(number * WINDOW, failed=False) == 0.0


def test_a_proxy_that_does_not_answer_is_tried_for_ever_but_ever_slower():
    restarts = Restarts()
    delays = [restarts.delay(now, failed=True) for now in range(100)]
    assert 0 < delays[0] < 1
    assert delays[-1] == MAX_DELAY
    restarts.succeeded()
    assert restarts.delay(100, failed=True) == delays[0]
