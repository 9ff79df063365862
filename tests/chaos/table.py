# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/reliability.md: what `make chaos` found."""

from __future__ import annotations

from collections.abc import Mapping

from tests.chaos.acts import ACTS
from tests.chaos.storm import Tally

HEAD = """# Reliability

<!-- Made by `make chaos`. Do not edit. -->

Parts of avne are killed, stopped and starved at random, while a program inside downloads and echoes
over several connections and checks every byte. Whatever happens: no packet leaves the host, no byte is
wrong, no connection ends as if it were complete, a run that lives serves new connections, and one that
ends leaves nothing.

The death of the supervisor, the environment's init, its guard, or the program ends a run. A netstack or a
worker that dies is replaced; the sixth death within a minute ends the run as well. The disk is one of
32 MiB with the log of the run, and sometimes its capture, which fills it. The clocks are those of avne's own
processes: a library adds to them, also in the parts that have locked themselves in (tests/chaos/clock.c);
the wall clock is set forwards or back, and all clocks go forwards as after a suspend. What a killed program
had sent is handed on for 30 s at the most.
"""


def page(tallies: Mapping[str, Tally], seconds: float, seed: int) -> str:
    modes = list(tallies)
    rows = [[act.name, *(str(tallies[mode].acts[act.name]) for mode in modes)] for act in ACTS]
    found = [
        ("acts", lambda t: t.acts.total()),
        ("runs", lambda t: t.runs),
        ("connections opened", lambda t: t.opened),
        ("connections reset or refused", lambda t: t.broken),
        ("bytes verified, MB", lambda t: t.verified // 10**6),
        ("**wrong bytes**", lambda t: t.wrong),
        ("**ends that looked complete and were not**", lambda t: t.early),
        ("**packets on the host's interfaces**", lambda t: t.packets),
        ("**processes, directories, mounts left; runs not served**", lambda t: len(t.faults)),
        (
            "a supervisor's memory at its run's end, × that at the start, at the most",
            lambda t: f"{t.growth:.2f}",
        ),
        ("longest time to a new connection after an act, s", lambda t: f"{t.slowest:.1f}"),
    ]
    sums = [[name, *(str(value(tallies[mode])) for mode in modes)] for name, value in found]
    parts = [HEAD, _table(["what was done", *modes], rows), _table(["what came of it", *modes], sums)]
    return "\n".join(parts) + f"\nSeed {seed}, {seconds / 60:.0f} minutes.\n"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
