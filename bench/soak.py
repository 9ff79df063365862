# SPDX-License-Identifier: GPL-3.0-or-later
"""Mixed traffic for as long as one likes: does avne's memory, or the number of its descriptors, grow?

Each cycle sends bulk both ways, opens connections one at a time and 32 at once, and asks for names; then the
parts are looked at, at rest.  The first fifth of the time is not counted: buffers and pools fill.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bench.agent import Agent
from bench.lab import DATA_PORT, ECHO_PORT, WORLD_IP, Lab
from bench.processes import BenchError, memory_kib
from bench.tools import Tool

GROWTH = 1.02  # of the last quarter's median to the first one's after the warm-up
_FLOOR = 64  # KiB: so much a share of a library moves when another process maps it, or unmaps it
_WARM_UP = 0.2
_CYCLE = (
    f"down {WORLD_IP} {DATA_PORT} {64 << 20} 8 700",
    f"up {WORLD_IP} {DATA_PORT} {64 << 20} 8 700",
    f"vdown {WORLD_IP} {DATA_PORT} {4 << 20} 2 5000",
    f"vup {WORLD_IP} {DATA_PORT} {4 << 20} 2 5000",
    f"connect {WORLD_IP} {ECHO_PORT} 300 1 700",
    f"connect {WORLD_IP} {ECHO_PORT} 1000 32 700",
    f"ping {WORLD_IP} {ECHO_PORT} 500 1 500",
)
_REST = 0.3  # seconds in which closed connections leave TIME-WAIT's queue and the kernel settles


class Look(NamedTuple):
    """One part at one time."""

    at: float
    kib: int  # resident, private and shared
    descriptors: int


def soak(tool: Tool, seconds: float) -> tuple[list[str], bool]:
    """A table of Markdown, and whether it is flat.  Raises `BenchError` where a byte was wrong."""
    looks: dict[str, list[Look]] = {}
    began = time.monotonic()
    cycles = 0
    with Lab() as lab, tool.environment(lab) as prefix:
        agent = Agent(lab, tool, prefix)
        try:
            while (at := time.monotonic() - began) < seconds:
                for request in _CYCLE:
                    answer = agent.ask(request)
                    if answer["bad"]:
                        raise BenchError(f"{request}: {answer}")
                time.sleep(_REST)
                cycles += 1
                for name, look in _looks(lab, at):
                    looks.setdefault(name, []).append(look)
        finally:
            agent.close()
    rows = [row(name, found, seconds) for name, found in sorted(looks.items())]
    head = ["| part | KiB after warm-up | KiB at the end | × | descriptors | |", "|---|---|---|---|---|---|"]
    tail = f"\n{cycles} cycles in {seconds:.0f} s."
    return [*head, *(text for text, _ in rows), tail], all(good for _, good in rows)


def _looks(lab: Lab, at: float) -> Iterator[tuple[str, Look]]:
    for process in lab.roles()["tool"]:
        if process.name.startswith("avne"):
            with contextlib.suppress(OSError):
                count = len(os.listdir(f"/proc/{process.pid}/fd"))
                yield process.name, Look(at, memory_kib(process.pid) or _rss(process.pid), count)


def _rss(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def row(name: str, looks: list[Look], seconds: float) -> tuple[str, bool]:
    """A line of the table, and whether it is flat.  Raises `BenchError` for too short a time."""
    counted = [look for look in looks if look.at >= seconds * _WARM_UP]
    if len(counted) < 4:
        raise BenchError(f"{seconds:.0f} s are too few: only {len(counted)} looks at {name}")
    quarter = max(1, len(counted) // 4)
    first, last = counted[:quarter], counted[-quarter:]
    before, after = (statistics.median(look.kib for look in part) for part in (first, last))
    descriptors = [max(look.descriptors for look in part) for part in (first, last)]
    good = after <= max(before * GROWTH, before + _FLOOR) and descriptors[1] <= descriptors[0]
    cells = [name, f"{before:.0f}", f"{after:.0f}", f"{after / before:.3f}", "{} → {}".format(*descriptors)]
    return f"| {' | '.join(cells)} | {'flat' if good else '**grows**'} |", good
