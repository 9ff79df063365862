# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/reliability.md: what `make chaos` found."""

from __future__ import annotations

from collections.abc import Mapping

from tests.chaos.acts import ACTS
from tests.chaos.storm import Tally

HEAD = """# Reliability

<!-- Made by `make chaos`. Do not edit. -->

Parts of avne are killed, stopped and starved at random, their clocks jump and their disk gets full, while a
program inside downloads and echoes over several connections and checks every byte. Whatever happens: no
packet leaves the host, no byte is wrong, no connection ends as if it were complete, a run that lives serves
new connections, and one that ends leaves nothing.

The death of the supervisor, the environment's init, its guard, or the program ends a run. A netstack or a
worker that dies is replaced; the sixth death within a minute ends the run as well. A stop lasts up to 3 s.
What a killed program had sent is handed on for 30 s at the most.

All that avne writes (the session's log, and by chance a capture, a receipt, the log of connections) goes to
a disk of 256 KiB in a mount namespace of the test's own, which is full now and then: ENOSPC. A capture
fills it within a moment. The clocks of the supervisor, the netstack and the workers jump by a library that
only the test's installation loads (`tests/chaos/clocks.c`): it is mapped before a part locks itself in, and
each run is checked for it. The machine's own clock is not touched; what the kernel waits for (epoll,
timers) is not moved. In the mode *netstack --listen* the netstack is the child of a service of root's, as
another user.
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
        ("**processes, directories left; runs not served**", lambda t: len(t.faults)),
        ("longest time to a new connection after an act, s", lambda t: f"{t.slowest:.1f}"),
    ]
    sums = [[name, *(str(value(tallies[mode])) for mode in modes)] for name, value in found]
    parts = [HEAD, _table(["what was done", *modes], rows), _table(["what came of it", *modes], sums)]
    return "\n".join(parts) + f"\nSeed {seed}, {seconds / 60:.0f} minutes.\n"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
