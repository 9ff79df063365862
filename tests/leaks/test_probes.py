# SPDX-License-Identifier: GPL-3.0-or-later
"""The board's judgement, and the list of probes."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from avne.probes import board
from avne.probes.inside import attempt, attempt_apart
from avne.probes.probe import ABSENT, LEAKED, STOPPED, UNKNOWN, Finding, Plan, Probe, load, stopped
from avne.probes.runner import not_in_session

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
    # L38 can be shown with a network file system only.  L60, the netstack's death, ends the program that
    # would tell of it: tests/e2e/test_death.py.
    wanted = {*range(1, 8), *range(10, 26), *range(30, 44), *range(50, 56), *range(61, 69)}
    assert {int(row[1:]) for row in rows} == wanted
    assert all(re.fullmatch(r"[a-z0-9-]{3,24}", probe.name) for probe in probes)


def test_a_documented_limit_is_no_pass_and_no_failure():
    """It is shown as what it is, with what stops it; where it is stopped it is an ordinary stop."""
    limited = PROBE._replace(limit="--private-home")
    assert board.judge(limited, OUT, IN).result == STOPPED
    verdicts = [board.judge(limited, OUT, OUT), board.judge(PROBE, OUT, IN)]
    assert verdicts[0].result == board.LIMIT
    assert board.good(verdicts)
    assert not board.good(verdicts[:1]), "nothing was stopped"
    marks = {STOPPED: "ok", LEAKED: "LEAK", UNKNOWN: "?", board.LIMIT: "!"}
    lines = board.render(verdicts, lambda text, _: text, marks).splitlines()
    assert "not stopped, as documented; what stops it: --private-home" in lines[1]
    assert lines[1].split()[0] == "!"
    assert lines[-1].startswith("2 ways out that are open outside: 1 stopped, 0 leak, 1 documented limit;")


def test_what_cannot_be_tried_in_an_environment_that_runs_has_its_reason():
    reasons = {name: not_in_session(probe) for name, probe in load().items()}
    assert "upstream" in reasons["tcp4"]
    assert "upstream" in reasons["host-address"]
    assert "start" in reasons["unix-home"]
    assert "goes on" in reasons["orphan"]
    tried = [name for name, reason in reasons.items() if not reason]
    assert len(tried) >= 120
    assert {"fd-tcp", "stdin-tcp", "unix-home-late", "proc-net-tcp", "loopback-tcp4"} <= {*tried}


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
