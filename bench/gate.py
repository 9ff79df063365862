# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate: avne's ratios to its peers, written down once and compared with those of a later run.

Only ratios to a peer in the same run are compared, as they alone outlive the machine and its
other work.  Not among them are the 99th percentiles and the longest waits, which one
interruption by other work makes: they would fail for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from bench.flatness import shown
from bench.report import summarize

SUBJECT = "avne"
WORST = 0.15  # how much worse a ratio may be
SETTINGS = ("mib", "cap_ms", "pings", "idle", "idle_cap_ms", "small_ms")  # both runs have the same


class Figure(NamedTuple):
    metric: str  # of bench.metrics, to measure it again
    more_is_better: bool


FIGURES = {
    **{f"{way}{streams}.mb_s": Figure("throughput", True) for way in ("down", "up") for streams in (1, 8)},
    **{f"{way}256.mb_s": Figure("crowd", True) for way in ("down", "up")},
    **{f"{way}1.tool_cpu_s_per_gb": Figure("throughput", False) for way in ("down", "up")},
    "conn_seq.per_s": Figure("connect", True),
    "conn_par32.per_s": Figure("connect", True),
    "conn_par32.tool_cpu_us": Figure("connect", False),
    "ping.p50_us": Figure("ping", False),
    "small8k.mb_s": Figure("small", True),
    "small64k.mb_s": Figure("small", True),
    "idle9000.open": Figure("memory", True),
    "idle1000.tool_kib_each": Figure("memory", False),
    "idle9000.tool_kib_each": Figure("memory", False),
    "start.ms": Figure("start", False),
}


class Verdict(NamedTuple):
    """One figure and peer; a ratio is None if it could not be had."""

    measure: str
    peer: str
    recorded: float
    now: float | None
    failed: bool

    @property
    def words(self) -> str:
        if self.now is None:
            return f"**{SUBJECT} has no figure**" if self.failed else "the peer has no figure"
        change = self.now / self.recorded - 1
        better = change > 0 if FIGURES[self.measure].more_is_better else change < 0
        size = f"{abs(change) * 100:.0f} %"
        return f"**{size} worse**" if self.failed else f"{size} {'better' if better else 'worse'}"


def ratios(samples: list[dict[str, Any]], peers: Iterable[str]) -> dict[str, dict[str, float]]:
    """Measure → peer → the median over the rounds of the ratio to that peer in the same round."""
    found: dict[str, dict[str, float]] = {}
    for peer in peers:
        for measure, row in summarize(samples, peer).get(SUBJECT, {}).items():
            if measure in FIGURES and "ratio" in row:
                found.setdefault(measure, {})[peer] = round(row["ratio"], 4)
    return found


def record(result: dict[str, Any]) -> dict[str, Any]:
    """What `compare` needs of a run.  `ValueError` if there is no ratio in it."""
    meta = result["meta"]
    peers = [tool for tool in meta["tools"] if tool != SUBJECT]
    found = ratios(result["samples"], peers)
    if not found:
        raise ValueError(f"no figure of {SUBJECT} and another tool in the same round")
    facts = {name: meta[name] for name in ("began", "rounds_done", "kernel", "cpus")}
    settings = {name: meta["options"][name] for name in SETTINGS}
    return {**facts, "settings": settings, "peers": peers, "ratios": found}


def compare(recorded: dict[str, Any], samples: list[dict[str, Any]], metrics: list[str]) -> list[Verdict]:
    """What became of each recorded ratio whose metric is among the measured `metrics`."""
    now = ratios(samples, recorded["peers"])
    measured = {(sample["tool"], sample["measure"]) for sample in samples}
    verdicts = []
    for measure, by_peer in recorded["ratios"].items():
        if FIGURES[measure].metric in metrics:
            for peer, then in by_peer.items():
                ratio = now.get(measure, {}).get(peer)
                if ratio is None:
                    failed = (peer, measure) in measured and (SUBJECT, measure) not in measured
                else:
                    failed = is_worse(measure, then, ratio)
                verdicts.append(Verdict(measure, peer, then, ratio, failed))
    return verdicts


def is_worse(measure: str, recorded: float, now: float) -> bool:
    """By more than `WORST` of what was recorded?"""
    if FIGURES[measure].more_is_better:
        return now < recorded * (1 - WORST)
    return now > recorded * (1 + WORST)


def failures(verdicts: list[Verdict]) -> list[Verdict]:
    return [verdict for verdict in verdicts if verdict.failed]


def table(verdicts: list[Verdict]) -> Iterator[str]:
    """Lines of Markdown: what was compared, the failures first, and what it comes to."""
    listed = [verdict for verdict in verdicts if verdict.failed or verdict.now is not None]
    yield from ("### Ratios against the recorded ones", "")
    yield from ("| figure | to | recorded | now | |", "|---|---|---|---|---|")
    for verdict in sorted(listed, key=lambda verdict: not verdict.failed):
        now = "–" if verdict.now is None else f"×{shown(verdict.now)}"
        row = (verdict.measure, verdict.peer, f"×{shown(verdict.recorded)}", now, verdict.words)
        yield f"| {' | '.join(row)} |"
    yield ""
    if others := sorted(f"{v.measure} to {v.peer}" for v in verdicts if v not in listed):
        yield from (f"Not compared, as the peer has no figure: {', '.join(others)}.", "")
    yield from (
        f"{len(failures(verdicts))} of {len(listed)} ratios are worse by more than {WORST:.0%}.",
        "",
    )
