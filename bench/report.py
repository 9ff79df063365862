# SPDX-License-Identifier: GPL-3.0-or-later
"""From samples to tables: medians, spreads, and ratios to a base of the same round."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any, NamedTuple

from bench.flatness import flat_table, shown

Summary = dict[str, dict[str, dict[str, float]]]  # tool → measure → median, min, max, n, ratio
_PROCESS = "idle0.process_pss_mib "
_WORST = (".errors", ".drops", ".timeouts", ".retransmits")  # the worst round is told, not the median


class Table(NamedTuple):
    title: str
    spread: bool  # with (min–max) and the ratio?
    columns: list[tuple[str, str]]  # heading, measure


TABLES = [
    Table(
        "Throughput, MB/s: median (min–max) ×base",
        True,
        [("down, 1 stream", "down1.mb_s"), ("down, 8", "down8.mb_s"), ("up, 1", "up1.mb_s"),
         ("up, 8", "up8.mb_s"), ("curl, 1 down", "curl.mb_s")],
    ),
    Table(
        "CPU seconds per GB, median: the tool's processes / those, the client and all servers",
        False,
        [(f"{way}, {streams}: {who}", f"{way}{streams}.{who}_cpu_s_per_gb")
         for way in ("down", "up") for streams in (1, 8) for who in ("tool", "all")],
    ),
    Table(
        "256 streams: MB/s, the share of the speed with 8, CPU seconds per GB of the tool's processes, the"
        " longest time that a stream waited",
        True,
        [(f"{way}: {heading}", f"{way}256.{measure}") for way in ("down", "up")
         for heading, measure in (("MB/s", "mb_s"), ("% of 8", "percent_of_8"),
                                  ("CPU", "tool_cpu_s_per_gb"), ("wait, ms", "gap_ms"))],
    ),
    Table(
        "The kernel's counters where the program runs, with 256 streams: packets dropped by devices,"
        " TcpExt TCPTimeouts, segments sent again; the worst round",
        False,
        [(f"{way}: {counter}", f"{way}256.{counter}") for way in ("down", "up")
         for counter in ("drops", "timeouts", "retransmits")],
    ),
    Table(
        "Receivers with a small SO_RCVBUF: MB/s, and the longest time between two reads, ms",
        True,
        [(heading, f"small{size}.{measure}") for size in ("8k", "64k")
         for heading, measure in ((f"{size}: MB/s", "mb_s"), ("wait", "gap_ms"))],
    ),
    Table(
        "One such receiver beside seven usual ones: its own figures, and those of the seven together",
        True,
        [(heading, f"small{size}_beside{of}") for size in ("8k", "64k")
         for heading, of in ((f"{size}: MB/s", ".mb_s"), ("wait", ".gap_ms"),
                             ("others: MB/s", "_others.mb_s"), ("others: wait", "_others.gap_ms"))],
    ),
    Table(
        "New connections: per second, errors in all rounds, p99 and the tool's CPU time",
        True,
        [("1 at a time /s", "conn_seq.per_s"), ("errors", "conn_seq.errors"),
         ("32 at a time /s", "conn_par32.per_s"), ("errors", "conn_par32.errors"),
         ("p99 µs of 32", "conn_par32.p99_us"), ("CPU µs each of 32", "conn_par32.tool_cpu_us")],
    ),
    Table(
        "Round trip of one byte, µs; start-up to the end of `true`, and until the environment is gone, ms",
        True,
        [("p50", "ping.p50_us"), ("p99", "ping.p99_us"), ("start", "start.ms"),
         ("start to gone", "cycle.ms")],
    ),
    Table(
        "Memory, PSS: the tool's processes in MiB with idle connections (and how many it came to of the"
        " most), KiB for each of a thousand, and that of the client's process",
        False,
        [("0", "idle0.tool_pss_mib"), ("1,000", "idle1000.tool_pss_mib"),
         ("9,000", "idle9000.tool_pss_mib"), ("open", "idle9000.open"),
         ("10,000", "idle10000.tool_pss_mib"), ("open", "idle10000.open"),
         ("KiB each", "idle1000.tool_kib_each"), ("client's KiB each", "idle1000.agent_kib_each"),
         ("client, 0", "idle0.agent_pss_mib")],
    ),
    Table(
        "DNS lookups per second, 8 threads: the tool's own resolver, the world's by relayed UDP, getaddrinfo",
        True,
        [("own", "dns.per_s"), ("errors", "dns.errors"), ("relayed", "dns_udp.per_s"),
         ("errors", "dns_udp.errors"), ("getaddrinfo", "dns_libc.per_s")],
    ),
]  # fmt: skip


def summarize(samples: list[dict[str, Any]], base: str = "native") -> Summary:
    """By tool and measure: median, min, max, n, and (`ratio`) the median over the rounds of the
    ratio to the tool `base` in the same round."""
    values: dict[tuple[str, str], dict[int, list[float]]] = {}
    for sample in samples:
        rounds = values.setdefault((sample["tool"], sample["measure"]), {})
        rounds.setdefault(sample["round"], []).append(sample["value"])
    summary: Summary = {}
    for (tool, name), rounds in values.items():
        flat = [value for found in rounds.values() for value in found]
        row = {"median": statistics.median(flat), "min": min(flat), "max": max(flat), "n": len(flat)}
        bases = {number: statistics.median(of) for number, of in values.get((base, name), {}).items()}
        if ratios := [
            statistics.median(found) / bases[number] for number, found in rounds.items() if bases.get(number)
        ]:
            row["ratio"] = statistics.median(ratios)
        summary.setdefault(tool, {})[name] = row
    return summary


def _cell(name: str, found: dict[str, float] | None, spread: bool) -> str:
    if not found:
        return "–"
    if name.endswith(_WORST):
        return shown(found["max"])
    cell = shown(found["median"])
    if spread:
        cell += f" ({shown(found['min'])}–{shown(found['max'])})"
        if "ratio" in found:
            cell += f" ×{found['ratio']:.2f}"
    return cell


def _table(table: Table, tools: list[str], summary: Summary) -> Iterator[str]:
    columns = [column for column in table.columns if any(column[1] in row for row in summary.values())]
    if not columns:
        return
    yield from (f"### {table.title}", "")
    yield "| tool | " + " | ".join(heading for heading, _ in columns) + " |"
    yield "|---" * (len(columns) + 1) + "|"
    for tool in tools:
        row = summary.get(tool, {})
        cells = [_cell(name, row.get(name), table.spread) for _, name in columns]
        if any(cell != "–" for cell in cells):
            yield f"| {tool} | " + " | ".join(cells) + " |"
    yield ""


def _processes(tools: list[str], summary: Summary) -> Iterator[str]:
    """The tools of more than one process, at rest."""
    for tool in tools:
        found = {
            name.removeprefix(_PROCESS): row["median"]
            for name, row in summary.get(tool, {}).items()
            if name.startswith(_PROCESS)
        }
        if len(found) > 1:
            yield f"- {tool}: " + ", ".join(f"{name} {shown(mib)}" for name, mib in found.items())


def render(result: dict[str, Any], base: str = "native") -> str:
    """The tables of a run, in Markdown."""
    meta = result["meta"]
    summary = summarize(result["samples"], base)
    head = (
        f"{meta['rounds_done']} rounds on {meta['cpus']} CPUs, Linux {meta['kernel']}; load average"
        f" {meta['load_min']:.2f} to {meta['load_max']:.2f} during the runs;"
        f" {meta['options']['mib']} MiB a transfer;"
        f" × is the ratio to {base} in the same round."
    )
    lines = [head, ""]
    for table in TABLES:
        lines += _table(table, meta["tools"], summary)
    lines += flat_table(result["samples"], meta["tools"])
    if processes := list(_processes(meta["tools"], summary)):
        lines += ["### PSS in MiB by process, without connections", "", *processes, ""]
    if result["troubles"]:
        lines += ["### Troubles", "", *(f"- {text}" for text in result["troubles"]), ""]
    return "\n".join(lines)
