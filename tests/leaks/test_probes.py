# SPDX-License-Identifier: GPL-3.0-or-later
"""The board's judgement, and the list of probes."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from avne.probes import board
from avne.probes.inside import attempt, attempt_apart
from avne.probes.probe import ABSENT, LEAKED, STOPPED, UNKNOWN, Finding, Plan, Probe, load, stopped

PROBE = Probe("x", "L01", "descriptors", "tries x", lambda plan: Finding(STOPPED))
OUT, IN, NONE = Finding(LEAKED, "heard outside"), Finding(STOPPED, "closed", 9), Finding(ABSENT, "no x here")


@pytest.mark.parametrize(
    ("outside", "inside", "result"),
    [
        (OUT, IN, STOPPED),
        (OUT, OUT, LEAKED),
        (IN, OUT, LEAKED),  # whatever the control says
        (IN, IN, board.UNPROVEN),
        (NONE, IN, ABSENT),
        (OUT, NONE, ABSENT),
        (OUT, Finding(UNKNOWN, "no answer"), UNKNOWN),
        (Finding(UNKNOWN, "no answer"), IN, board.UNPROVEN),
    ],
)
def test_a_stop_counts_only_where_the_control_leaks(outside, inside, result):
    assert board.judge(PROBE, outside, inside).result == result


def test_doubt_and_emptiness_are_not_good():
    def good(*pairs):
        return board.good([board.judge(PROBE, *pair) for pair in pairs])

    assert good((OUT, IN), (IN, IN), (NONE, IN))
    assert not good((OUT, IN), (OUT, OUT))
    assert not good((OUT, IN), (OUT, Finding(UNKNOWN, "no answer")))
    assert not good((IN, IN)), "nothing was shown"
    assert not good()


def test_the_board_shows_leaks_and_reasons():
    verdicts = [board.judge(PROBE, *pair) for pair in ((OUT, OUT), (OUT, IN), (IN, IN), (NONE, NONE))]
    text = board.render(verdicts, lambda text, _: text, {STOPPED: "ok", LEAKED: "LEAK", UNKNOWN: "?"})
    lines = text.splitlines()
    assert lines[0] == "descriptors"
    assert lines[1].split() == ["LEAK", "L01", "x", "tries", "x", "LEAKS:", "heard", "outside"]
    assert lines[2].split() == ["ok", "L01", "x", "tries", "x", "closed"]
    assert lines[3:5] == ["Proves nothing here (outside too: closed): x", "Not tried (no x here): x"]
    assert lines[5].startswith("2 ways out that are open outside: 1 stopped, 1 leak; 2 could not")


def test_the_list_covers_the_catalogue():
    probes = load().values()
    assert len(probes) >= 170
    rows = Counter(probe.row for probe in probes)
    # L38 can be shown with a network file system only; L55, L60, L62, L65 and L66 are no probes:
    # docs/threat-model.md says where they are shown, or that they are not covered.
    wanted = {1, 2, 3, 4, 5, 6, 7, *range(10, 26), *range(30, 44), *range(50, 55), 61, 63, 64, 67, 68}
    assert {int(row[1:]) for row in rows} == wanted - {40 + n for n in range(4, 10)}
    assert all(re.fullmatch(r"[a-z0-9-]{3,24}", probe.name) for probe in probes)


def test_an_attempt_s_errors_are_findings():
    def absent(plan):
        return plan["nothing"]

    def refused(plan):
        raise PermissionError(13, "no")

    def broken(plan):
        raise KeyError("x")

    plan = Plan({})
    assert attempt(PROBE._replace(attempt=absent), plan) == (ABSENT, "no nothing on this machine", 0)
    assert attempt(PROBE._replace(attempt=refused), plan) == (STOPPED, "not permitted", 13)
    assert attempt(PROBE._replace(attempt=broken), plan).kind == UNKNOWN


def test_an_attempt_that_is_killed_is_in_doubt_but_by_the_filter():
    import os
    import signal

    def dies_of(number):
        def die(plan):
            os.kill(os.getpid(), number)
            return Finding(LEAKED)

        return attempt_apart(PROBE._replace(attempt=die), {"run": "00"})

    assert dies_of(signal.SIGSYS) == (STOPPED, "killed by the filter", 0)
    assert dies_of(signal.SIGTERM).kind == UNKNOWN


def test_stopped_has_words_for_an_errno():
    assert stopped(OSError(2, "x")) == (STOPPED, "not there", 2)
    assert stopped(5) == (STOPPED, "EIO", 5)
