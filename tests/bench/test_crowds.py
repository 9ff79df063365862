# SPDX-License-Identifier: GPL-3.0-or-later
"""What is recorded of many streams and of small receivers, from made-up answers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from bench import crowds
from bench.counters import Counters
from bench.samples import Bench
from bench.tools import Native
from tests.bench.made_up import SETTINGS

ANSWER = {"bytes": 8_000_000, "seconds": 2.0, "bad": 0, "capped": True, "first_bytes": 1_000_000,
          "first_seconds": 1.0, "first_gap_ms": 12.5, "rest_gap_ms": 7.5, "trouble": ""}  # fmt: skip


class Agent:
    """Answers each request with `ANSWER`, and a receive buffer as Linux would make it."""

    def __init__(self, **differently):
        self.cpu = {"tool": 0.004}
        self.requests = []
        self.differently = differently

    def ask(self, request, patience=30):
        self.requests.append(request)
        return {**ANSWER, "first_rcvbuf": 2 * int(request.split()[-1]), **self.differently}


@pytest.fixture
def bench():
    return Bench(SimpleNamespace(), Native("native"), SimpleNamespace(**SETTINGS), 0)


@pytest.fixture
def counted(monkeypatch):
    """The namespace's counters before and after each way."""
    found = [Counters(1, 2, 3), Counters(1, 2, 3), Counters(1, 2, 3), Counters(5, 3, 9)]
    monkeypatch.setattr(crowds, "inside", lambda lab: found.pop(0))


def test_a_crowd_is_told_with_its_counters_and_its_share_of_eight(bench, counted):
    bench.record("down8.mb_s", 5.0)
    agent = Agent()
    crowds.crowd(bench, agent)
    assert [request.split()[0] for request in agent.requests] == ["down", "up"]
    assert all(" 256 " in request for request in agent.requests)
    assert bench.value("down256.mb_s") == 4.0
    assert bench.value("down256.percent_of_8") == 80.0
    assert bench.value("down256.tool_cpu_s_per_gb") == pytest.approx(0.5)
    assert bench.value("down256.gap_ms") == 12.5
    assert bench.value("down256.drops") == 0
    assert bench.value("up256.percent_of_8") is None  # there was no figure with 8
    assert [bench.value(f"up256.{name}") for name in Counters._fields] == [4, 1, 6]


def test_a_crowd_that_failed_has_its_counters_only(bench, counted):
    crowds.crowd(bench, Agent(bad=3, trouble="stream: Connection reset by peer"))
    assert bench.value("up256.drops") == 4
    assert bench.value("up256.mb_s") is None
    assert "up256: 3 bad, stream: Connection reset by peer" in bench.troubles[1]


def test_a_small_receiver_is_told_apart_from_those_beside_it(bench):
    agent = Agent()
    crowds.small(bench, agent)
    assert [request.split()[-3:] for request in agent.requests] == [
        ["1", "100", "8192"], ["8", "100", "8192"], ["1", "100", "65536"], ["8", "100", "65536"]
    ]  # fmt: skip
    assert bench.value("small8k.mb_s") == 1.0
    assert bench.value("small64k_beside.gap_ms") == 12.5
    assert bench.value("small64k_beside_others.mb_s") == 3.5
    assert bench.value("small64k_beside_others.gap_ms") == 7.5
    assert not bench.troubles


def test_a_receiver_whose_buffer_is_not_small_is_no_figure(bench):
    crowds.small(bench, Agent(first_rcvbuf=87380))
    assert not bench.samples
    assert len(bench.troubles) == 4
