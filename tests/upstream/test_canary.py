# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest

from avne.upstream.canary import NEARBY, PATIENCE, REFRESH, RETRY, Canary, Command

CONNECT, ASK = Command.CONNECT, Command.ASK
CLOSE_SPARE, CLOSE_ASKED = Command.CLOSE_SPARE, Command.CLOSE_ASKED


class Bird(Canary):
    """Takes its outputs, so that each step shows only its own."""

    def take(self) -> tuple[list[Command], list[tuple[int, bool]]]:
        taken = self.commands, sorted(self.verdicts)
        self.commands, self.verdicts = [], []
        return taken


@pytest.fixture
def bird() -> Bird:
    """With a spare, opened at 0."""
    bird = Bird()
    assert bird.poll_at() <= 0.0
    bird.handle_timer(0.0)
    assert bird.take() == ([CONNECT], [])
    assert bird.poll_at() == float("inf")
    bird.opened(0.0)
    assert bird.take() == ([], [])
    return bird


def test_a_reply_shows_that_ends_were_the_servers(bird: Bird) -> None:
    bird.flow_ended(1, 5.0, 10.0)
    assert bird.take() == ([ASK, CONNECT], [])
    assert bird.poll_at() == 10.0 + PATIENCE
    bird.answered(True, 10.1)
    assert bird.take() == ([CLOSE_ASKED], [(1, True)])
    bird.opened(10.1)
    assert bird.take() == ([], [])
    assert bird.poll_at() == 10.1 + REFRESH


def test_an_end_of_the_asked_connection_is_death(bird: Bird) -> None:
    bird.flow_ended(1, 5.0, 10.0)
    bird.take()
    bird.answered(False, 10.01)
    assert bird.take() == ([CLOSE_ASKED], [(1, False)])
    bird.flow_ended(2, 5.0, 10.01 + NEARBY)
    assert bird.take() == ([], [(2, False)])


def test_silence_is_as_good_as_death(bird: Bird) -> None:
    bird.flow_ended(1, 5.0, 10.0)
    bird.take()
    bird.handle_timer(10.0 + PATIENCE - 0.01)
    assert bird.take() == ([], [])
    bird.handle_timer(10.0 + PATIENCE)
    assert bird.take() == ([CLOSE_ASKED], [(1, False)])


def test_ends_after_the_question_are_asked_about_on_the_next_spare(bird: Bird) -> None:
    bird.flow_ended(1, 5.0, 10.0)
    assert bird.take() == ([ASK, CONNECT], [])
    bird.opened(10.0)
    bird.flow_ended(2, 5.0, 10.1)
    bird.flow_ended(3, 5.0, 10.1)
    assert bird.take() == ([], [])
    bird.answered(True, 10.2)
    assert bird.take() == ([CLOSE_ASKED, ASK, CONNECT], [(1, True)])
    assert bird.poll_at() == 10.2 + PATIENCE
    bird.answered(True, 10.3)
    assert bird.take() == ([CLOSE_ASKED], [(2, True), (3, True)])


def test_death_is_the_death_of_those_that_wait_as_well(bird: Bird) -> None:
    bird.flow_ended(1, 5.0, 10.0)
    bird.opened(10.0)
    bird.flow_ended(2, 5.0, 10.1)
    bird.take()
    bird.answered(False, 10.2)
    assert bird.take() == ([CLOSE_ASKED], [(1, False), (2, False)])


def test_a_spare_that_dies_near_an_end_counts_whichever_comes_first(bird: Bird) -> None:
    bird.spare_died(10.0)
    bird.flow_ended(1, 5.0, 10.0 + NEARBY)
    assert bird.take() == ([], [(1, False)])
    assert bird.poll_at() == 10.0 + RETRY


def test_a_flow_of_tor_s_successor_is_not_judged_by_that_death(bird: Bird) -> None:
    bird.spare_died(10.0)
    bird.flow_ended(1, 10.1, 10.2)
    assert bird.take() == ([CONNECT], [])


def test_a_spare_that_dies_while_ends_wait_for_it(bird: Bird) -> None:
    bird.flow_ended(1, 5.0, 10.0)
    bird.opened(10.0)
    bird.flow_ended(2, 5.0, 10.1)
    bird.take()
    bird.spare_died(10.2)
    assert bird.take() == ([], [(2, False)])
    bird.answered(True, 10.3)  # it was written before
    assert bird.take() == ([CLOSE_ASKED], [(1, True)])


def test_a_spare_that_was_closed_long_ago_says_nothing(bird: Bird) -> None:
    bird.spare_died(10.0)
    bird.flow_ended(1, 5.0, 12.0)
    assert bird.take() == ([CONNECT], []), "a new one is asked"
    assert bird.poll_at() == 12.0 + PATIENCE
    bird.opened(12.1)
    assert bird.take() == ([ASK, CONNECT], [])
    bird.answered(True, 12.2)
    assert bird.take() == ([CLOSE_ASKED], [(1, True)])


def test_an_idle_spare_that_ends_is_reopened(bird: Bird) -> None:
    bird.spare_died(10.0)
    bird.handle_timer(10.0 + RETRY - 0.01)
    assert bird.take() == ([], [])
    bird.handle_timer(10.0 + RETRY)
    assert bird.take() == ([CONNECT], [])


def test_no_new_spare_while_ends_wait_is_death(bird: Bird) -> None:
    bird.spare_died(10.0)
    bird.flow_ended(1, 5.0, 12.0)
    bird.take()
    bird.spare_died(12.1)
    assert bird.take() == ([], [(1, False)])
    bird.flow_ended(2, 5.0, 12.2)
    assert bird.take() == ([CONNECT], []), "a refused connection kills nobody by itself"


def test_a_spare_that_does_not_connect_in_time_is_death(bird: Bird) -> None:
    bird.spare_died(10.0)
    bird.flow_ended(1, 5.0, 12.0)
    bird.flow_ended(2, 5.0, 12.5)
    bird.take()
    bird.handle_timer(12.0 + PATIENCE)
    assert bird.take() == ([], [(1, False), (2, False)])


def test_a_spare_is_replaced_before_tor_would_close_it(bird: Bird) -> None:
    bird.handle_timer(REFRESH)
    assert bird.take() == ([CLOSE_SPARE, CONNECT], [])
    bird.opened(REFRESH)
    assert bird.poll_at() == 2 * REFRESH


def test_a_flow_that_is_gone_gets_no_verdict(bird: Bird) -> None:
    bird.flow_ended(1, 5.0, 10.0)
    bird.opened(10.0)
    bird.flow_ended(2, 5.0, 10.0)
    bird.take()
    bird.flow_gone(1)
    bird.flow_gone(2)
    bird.answered(True, 10.1)
    assert bird.take() == ([CLOSE_ASKED], [])
