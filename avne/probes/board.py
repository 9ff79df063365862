# SPDX-License-Identifier: GPL-3.0-or-later
"""What the findings inside and outside mean together, and how that is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from avne.probes.probe import ABSENT, GROUPS, LEAKED, STOPPED, UNKNOWN, Finding, Probe

UNPROVEN: Final = "proves nothing"  # its control shows no leak
LIMIT: Final = "documented limit"  # it gets out, and avne does not say that it stops it
_SENTENCE = 66
_SHOWN: Final = (LEAKED, STOPPED, UNKNOWN, LIMIT)
_ORDER: Final = (LEAKED, UNKNOWN, STOPPED, LIMIT, UNPROVEN, ABSENT)

Paint = Callable[[str, int], str]


class Verdict(NamedTuple):
    """One line of the board: `result` is leaked, stopped, unknown, absent, LIMIT or UNPROVEN; `how`
    says by what."""

    probe: Probe
    result: str
    how: str
    errno: int
    outside: Finding

    def as_dict(self) -> dict[str, Any]:
        probe = self.probe
        return {
            "name": probe.name, "row": probe.row, "group": probe.group, "tries": probe.sentence,
            "result": self.result, "how": self.how, "errno": self.errno, "outside": list(self.outside),
            "known": probe.known, "limit": probe.limit,
        }  # fmt: skip


def judge(probe: Probe, outside: Finding, inside: Finding) -> Verdict:
    """A leak is a leak whatever the control says; a stop counts only where the control has leaked."""
    if inside.kind == LEAKED:
        return Verdict(probe, LIMIT if probe.limit else LEAKED, inside.how, inside.errno, outside)
    for finding in (outside, inside):
        if finding.kind == ABSENT:
            return Verdict(probe, ABSENT, finding.how, 0, outside)
    if outside.kind != LEAKED:
        return Verdict(probe, UNPROVEN, f"outside too: {outside.how}", outside.errno, outside)
    return Verdict(probe, STOPPED if inside.kind == STOPPED else UNKNOWN, inside.how, inside.errno, outside)


def count(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """How many of each result."""
    results = [verdict.result for verdict in verdicts]
    return {result: results.count(result) for result in _ORDER}


def good(verdicts: Iterable[Verdict]) -> bool:
    """Nothing leaks, nothing is in doubt, and something was shown at all."""
    counts = count(verdicts)
    return not counts[LEAKED] and not counts[UNKNOWN] and counts[STOPPED] > 0


def render(verdicts: list[Verdict], paint: Paint, marks: Mapping[str, str]) -> str:
    """The board: what was shown, group by group; what could not be shown, by reason; the sum."""
    lines = []
    width = max(len(verdict.probe.name) for verdict in verdicts)
    for group in GROUPS:
        shown = [v for v in verdicts if v.probe.group == group and v.result in _SHOWN]
        if shown:
            lines.append(f"{group}\n")
            lines += [_line(verdict, width, paint, marks) for verdict in shown]
    for result in (UNPROVEN, ABSENT):
        lines += _reasons([v for v in verdicts if v.result == result], result)
    return "".join(lines) + _sum(count(verdicts), paint)


def _line(verdict: Verdict, width: int, paint: Paint, marks: Mapping[str, str]) -> str:
    probe = verdict.probe
    colour = {LEAKED: 31, STOPPED: 32, UNKNOWN: 33, LIMIT: 33}[verdict.result]
    words = {LEAKED: "LEAKS: ", UNKNOWN: "in doubt: "}.get(verdict.result, "")
    sentence = probe.sentence if len(probe.sentence) <= _SENTENCE else f"{probe.sentence[: _SENTENCE - 1]}…"
    how = f"{words}{verdict.how[:60]}"
    if verdict.result == LEAKED and probe.known:
        how = f"LEAKS, as documented; what stops it: {probe.known}"
    if verdict.result == LIMIT:
        how = f"not stopped, as documented; what stops it: {probe.limit}"
    mark = paint(marks[verdict.result], colour)
    return f"  {mark} {probe.row} {probe.name:{width}}  {sentence:{_SENTENCE}}  {how}\n"


def _reasons(verdicts: list[Verdict], title: str) -> list[str]:
    """One paragraph for each reason why something was not shown."""
    reasons: dict[str, list[str]] = {}
    for verdict in verdicts:
        reasons.setdefault(verdict.how, []).append(verdict.probe.name)
    word = {UNPROVEN: "Proves nothing here", ABSENT: "Not tried"}[title]
    return [f"{word} ({why}): {', '.join(names)}\n" for why, names in reasons.items()]


def _sum(counts: Mapping[str, int], paint: Paint) -> str:
    tried = counts[LEAKED] + counts[STOPPED] + counts[UNKNOWN] + counts[LIMIT]
    left = counts[UNPROVEN] + counts[ABSENT]
    text = f"{tried} ways out that are open outside: {counts[STOPPED]} stopped, {counts[LEAKED]} leak"
    if counts[UNKNOWN]:
        text += f", {counts[UNKNOWN]} in doubt"
    if counts[LIMIT]:
        text += f", {counts[LIMIT]} documented limit{'s' if counts[LIMIT] > 1 else ''}"
    bad = counts[LEAKED] or counts[UNKNOWN]
    return f"{paint(text, 31 if bad else 32)}; {left} could not be shown on this machine\n"
