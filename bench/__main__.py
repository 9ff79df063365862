# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmark's command line.

python -m bench --rounds 5 --json out.json --md out.md
python -m bench --tool native,avne,pasta --metric throughput,connect
python -m bench --add 'two=avne run --workers 2 --upstream socks5://{socks} --' --tool native,two
python -m bench --list
python -m bench --render out.json --to hev
python -m bench --tool native,avne --metric flat --plot flat.svg
python -m bench --compare bench/recorded.json --rounds 3
python -m bench --soak 3600
python -m bench --workers 1,2,4,8 --rounds 3
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from bench import gate, workers
from bench.flame import record_flames
from bench.flatness import plot
from bench.lab import Lab, in_private_mounts
from bench.metrics import BY_NAME_ONLY, METRICS
from bench.processes import become_subreaper
from bench.report import render
from bench.rounds import new_result, run
from bench.rows import known_tools
from bench.soak import soak
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
    option(
        "--metric",
        default="all",
        help=f"of {', '.join(METRICS)}, by commas (default: all but {', '.join(BY_NAME_ONLY)})",
    )
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
    option("--small-ms", type=int, default=1000, help="how long receivers with small buffers read")
    option("--flat", type=_counts, default="10,100,1000,9000", help="open connections, ascending")
    option("--flat-ms", type=int, default=700, help="each of the measurements beside them")
    option("--list", action="store_true", help="list the tools, and which are missing")
    option("--to", default="native", metavar="TOOL", help="what the ratios are to")
    option("--plot", type=Path, metavar="SVG", help="where the picture of the metric flat goes")
    option("--record", type=Path, metavar="JSON", help="where avne's ratios to the others go")
    option("--compare", type=Path, metavar="JSON", help="fail if one is 15 %% worse than recorded there")
    option("--flame", type=Path, metavar="DIR", help="where flame graphs of avne go (needs py-spy)")
    option("--soak", type=float, metavar="SECONDS", help="mixed traffic: does avne's memory stay flat?")
    option(
        "--workers",
        type=_counts,
        metavar="N,...",
        help="avne with so many workers, local and remote: throughput and connects",
    )
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


def _many_descriptors(most_idle: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and most_idle * 2 + 100 > hard:
        raise SystemExit(
            f"bench: --idle {most_idle} needs twice as many descriptors in the SOCKS5 server,"
            f" and {hard} is the most here"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def measured_metrics(names: str) -> list[str]:
    """The metrics that an option lists."""
    metrics = chosen(names, METRICS, "metric")
    return [name for name in metrics if name not in BY_NAME_ONLY] if names == "all" else metrics


def report(options: argparse.Namespace, result: dict[str, Any], more: str = "") -> None:
    """The tables, and the files that are made of a result, to where they are wanted."""
    text = render(result, options.to) + more
    if options.md:
        options.md.write_text(text)
    else:
        print(text)
    if options.plot:
        options.plot.write_text(plot(result["samples"], gate.SUBJECT))
    if options.record:
        options.record.write_text(json.dumps(gate.record(result), indent=1) + "\n")


def compared(options: argparse.Namespace, known: list[Tool], metrics: list[str]) -> int:
    """The run of ``--compare``; 1 if a ratio is worse.

    What seems worse is measured once more, and what counts are the rounds of both."""
    recorded = json.loads(options.compare.read_text())
    for name in gate.SETTINGS:
        setattr(options, name, recorded["settings"][name])
    names = [gate.SUBJECT, *recorded["peers"]] if options.tool == "all" else options.tool.split(",")
    tools = present([tool for tool in known if tool.name in names], "all")
    result = new_result(options, tools, metrics)
    with Lab() as lab:
        run(lab, result, options, tools)
        verdicts = gate.compare(recorded, result["samples"], metrics)
        if worse := gate.failures(verdicts):
            again = sorted({gate.FIGURES[verdict.measure].metric for verdict in worse})
            print("Measured again:", ", ".join(again), file=sys.stderr)
            result["meta"]["metrics"] = again
            run(lab, result, options, tools)
            verdicts = gate.compare(recorded, result["samples"], metrics)
    report(options, result, "\n" + "\n".join(gate.table(verdicts)))
    if not any(verdict.now for verdict in verdicts):
        print("bench: nothing was compared: no peer of the record could be measured", file=sys.stderr)
        return 1
    return int(bool(gate.failures(verdicts)))


def main() -> int:
    options = arguments(sys.argv[1:])
    if options.render:
        report(options, json.loads(options.render.read_text()))
        return 0
    os.environ["PATH"] = os.pathsep.join(filter(None, [options.path, os.environ["PATH"]]))
    known = known_tools(options.add)
    if options.list:
        for tool in known:
            print(f"{tool.name:24}{tool.kind:10}{tool.missing() or ''}")
        return 0
    in_private_mounts()
    metrics = measured_metrics(options.metric)
    become_subreaper()
    _many_descriptors(max(options.idle + options.flat))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if options.flame:
        subject = next(tool for tool in known if tool.name == gate.SUBJECT)
        print(*record_flames(subject, options.flame), sep="\n")
        return 0
    if options.soak:
        subject = next(tool for tool in known if tool.name == gate.SUBJECT)
        table, flat = soak(subject, options.soak)
        print(*table, sep="\n")
        return 0 if flat else 1
    if options.compare:
        return compared(options, known, metrics)
    tools = present(known, options.tool)
    if options.workers:
        tools, metrics = workers.rows(options.workers), workers.METRICS.split(",")
        options.to = tools[0].name
    result = new_result(options, tools, metrics)
    with Lab() as lab:
        run(lab, result, options, tools)
    report(options, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
