# SPDX-License-Identifier: GPL-3.0-or-later
"""The rounds of a run: every tool once in each, in an order of its own."""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import time
from typing import Any

from bench.lab import Lab
from bench.metrics import measure
from bench.report import summarize
from bench.samples import Bench
from bench.tools import Tool


def new_result(options: argparse.Namespace, tools: list[Tool], metrics: list[str]) -> dict[str, Any]:
    """A result without samples."""
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
    return {"meta": meta, "samples": [], "troubles": []}


def run(lab: Lab, result: dict[str, Any], options: argparse.Namespace, tools: list[Tool]) -> None:
    """So many more rounds of the result's metrics; it is written to `options.json` after each."""
    meta = result["meta"]
    first = meta["rounds_done"]
    for number in range(first, first + options.rounds):
        order = list(tools)
        random.Random(number).shuffle(order)
        for tool in order:
            _measure_one(Bench(lab, tool, options, number), result)
        meta["rounds_done"] = number + 1
        meta["ended"] = time.strftime("%Y-%m-%d %H:%M:%S")
        if options.json:
            result["summary"] = summarize(result["samples"])
            options.json.write_text(json.dumps(result) + "\n")


def _measure_one(bench: Bench, result: dict[str, Any]) -> None:
    meta, begin = result["meta"], time.monotonic()
    measure(bench, meta["metrics"])
    load = os.getloadavg()[0]
    result["samples"] += bench.samples
    result["troubles"] += bench.troubles
    meta["load_min"] = min(meta["load_min"], load)
    meta["load_max"] = max(meta["load_max"], load)
    seconds = time.monotonic() - begin
    print(f"round {bench.round + 1} {bench.tool.name}: {seconds:.1f} s, load {load:.2f}", *bench.troubles,
          sep="\n    ", file=sys.stderr, flush=True)  # fmt: skip
