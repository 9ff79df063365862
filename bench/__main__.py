# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmark's command line.

python -m bench --rounds 5 --json out.json --md out.md
python -m bench --tool native,avne,pasta --metric throughput,connect
python -m bench --add 'two=avne run --workers 2 --upstream socks5://{socks} --' --tool native,two
python -m bench --list
python -m bench --render out.json --to hev
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

from bench.lab import Lab, in_private_mounts
from bench.metrics import METRICS, Bench, measure
from bench.processes import become_subreaper
from bench.report import render, summarize
from bench.rows import known_tools
from bench.tools import Tool


def arguments(argv: list[str]) -> argparse.Namespace:
    """The options; `idle` is a list of ascending numbers."""
    examples = (__doc__ or "").partition("\n\n")[2]
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure avne and its peers side by side.  Needs root.",
        epilog=f"Examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = parser.add_argument
    option("--tool", default="all", help="names, by commas (default: all found)")
    option("--metric", default="all", help=f"of {', '.join(METRICS)}, by commas")
    option("--json", type=Path, help="where the samples go")
    option("--md", type=Path, help="where the tables go (default: standard output)")
    option(
        "--add",
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="a tool that is a command prefix; may hold {socks}, {socks_ip}, {socks_port}, {tmp}",
    )
    option("--path", default="", help="directories to search for tools before $PATH")
    option("--rounds", type=int, default=5)
    option("--mib", type=int, default=512, help="MiB of each bulk transfer")
    option("--cap-ms", type=int, default=4000, help="the longest one measurement takes")
    option("--pings", type=int, default=3000)
    option("--lookups", type=int, default=3000)
    option("--starts", type=int, default=4, help="starts of each tool in each round")
    option("--idle", type=_counts, default="1000,9000", help="idle connections, ascending")
    option("--idle-rounds", type=int, default=2, help="rounds with more than the first")
    option("--idle-cap-ms", type=int, default=25000)
    option("--list", action="store_true", help="list the tools, and which are missing")
    option("--to", default="native", metavar="TOOL", help="what the ratios are to")
    option("--render", type=Path, metavar="JSON", help="print the tables of an earlier run")
    return parser.parse_args(argv)  # fmt: skip


def _counts(text: str) -> list[int]:
    counts = [int(count) for count in text.split(",")]
    if counts != sorted(counts):
        raise ValueError(text)
    return counts


def chosen(names: str, known: list[str], what: str) -> list[str]:
    """The names that an option lists, or all of the `known`; ends the program at another."""
    if names == "all":
        return known
    for name in names.split(","):
        if name not in known:
            raise SystemExit(f"bench: no {what} {name!r}; there are {', '.join(known)}")
    return names.split(",")


def present(known: list[Tool], names: str) -> list[Tool]:
    """The chosen tools; a missing one is left out of "all", and said."""
    wanted = chosen(names, [tool.name for tool in known], "tool")
    tools = []
    for tool in known:
        reason = tool.missing()
        if tool.name not in wanted:
            continue
        if not reason:
            tools.append(tool)
        elif names != "all":
            raise SystemExit(f"bench: {tool.name}: {reason}")
        else:
            print(f"without {tool.name}: {reason}", file=sys.stderr)
    return tools


def run(options: argparse.Namespace, tools: list[Tool], metrics: list[str]) -> dict[str, Any]:
    """All rounds; the result is written to `options.json` after each."""
    meta: dict[str, Any] = {
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "rounds_done": 0,
        "began": time.strftime("%Y-%m-%d %H:%M:%S"),
        "load_min": 1e9,
        "load_max": 0.0,
        "tools": [tool.name for tool in tools],
        "metrics": metrics,
        "options": {k: v if isinstance(v, (int, list)) else str(v) for k, v in vars(options).items()},
    }
    result: dict[str, Any] = {"meta": meta, "samples": [], "troubles": []}
    with Lab() as lab:
        for number in range(options.rounds):
            order = list(tools)
            random.Random(number).shuffle(order)
            for tool in order:
                _measure_one(Bench(lab, tool, options, number), metrics, result)
            meta["rounds_done"] = number + 1
            meta["ended"] = time.strftime("%Y-%m-%d %H:%M:%S")
            if options.json:
                result["summary"] = summarize(result["samples"])
                options.json.write_text(json.dumps(result) + "\n")
    return result


def _measure_one(bench: Bench, metrics: list[str], result: dict[str, Any]) -> None:
    begin = time.monotonic()
    measure(bench, metrics)
    result["samples"] += bench.samples
    result["troubles"] += bench.troubles
    meta, load = result["meta"], os.getloadavg()[0]
    meta["load_min"] = min(meta["load_min"], load)
    meta["load_max"] = max(meta["load_max"], load)
    head = f"round {bench.round + 1}/{bench.options.rounds} {bench.tool.name}"
    seconds = time.monotonic() - begin
    print(f"{head}: {seconds:.1f} s, load {load:.2f}", *bench.troubles,
          sep="\n    ", file=sys.stderr, flush=True)  # fmt: skip


def _many_descriptors(most_idle: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and most_idle * 2 + 100 > hard:
        raise SystemExit(
            f"bench: --idle {most_idle} needs twice as many descriptors in the SOCKS5 server,"
            f" and {hard} is the most here"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> int:
    options = arguments(sys.argv[1:])
    if options.render:
        print(render(json.loads(options.render.read_text()), options.to))
        return 0
    os.environ["PATH"] = os.pathsep.join(filter(None, [options.path, os.environ["PATH"]]))
    known = known_tools(options.add)
    if options.list:
        for tool in known:
            print(f"{tool.name:24}{tool.kind:10}{tool.missing() or ''}")
        return 0
    in_private_mounts()
    metrics = chosen(options.metric, METRICS, "metric")
    tools = present(known, options.tool)
    become_subreaper()
    _many_descriptors(max(options.idle))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    text = render(run(options, tools, metrics), options.to)
    if options.md:
        options.md.write_text(text)
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
