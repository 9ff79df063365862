# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m tests.fuzz [--inputs N] [--jobs N] [--keep] [--atheris] [HARNESS …]``: see ``--help``."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import time
from collections import defaultdict

from . import engine
from .engine import HARNESSES, Run

_SHARE = 10_000  # inputs of one process at a time


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make fuzz ARGS=…", description="Hostile inputs to every surface.")
    parser.add_argument("--inputs", type=int, default=100_000, help="in all (default: 100,000)")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes at a time")
    parser.add_argument("--seed", type=int, default=time.time_ns() >> 20, help="of the mutations")
    parser.add_argument(
        "--keep", action="store_true", help="put inputs that show something new into the corpus"
    )
    parser.add_argument(
        "--atheris", action="store_true", help="guided by coverage, one harness, until ^C or N"
    )
    parser.add_argument("harness", nargs="*", help=f"of {', '.join(HARNESSES)} (default: all)")
    arguments = parser.parse_args()
    arguments.harness = arguments.harness or list(HARNESSES)
    if unknown := set(arguments.harness) - set(HARNESSES):
        parser.error(f"no such harness: {', '.join(unknown)}")
    return arguments


def _share(share: tuple[str, int, int]) -> Run:
    return engine.run(*share)


def main() -> int:
    arguments = _arguments()
    if arguments.atheris:
        # A process of its own: the code is instrumented as it is imported.
        guided = ["-m", "tests.fuzz.guided", arguments.harness[0], str(arguments.inputs)]
        os.execv(sys.executable, [sys.executable, *guided])
    print(f"seed {arguments.seed}", flush=True)
    weights = {name: engine.WEIGHTS[name] for name in arguments.harness}
    shares = []
    for name, weight in weights.items():
        inputs = max(1, -(-arguments.inputs * weight // sum(weights.values())))
        shares += [(name, min(_SHARE, inputs - at), arguments.seed + at) for at in range(0, inputs, _SHARE)]
    random.Random(arguments.seed).shuffle(shares)
    totals: defaultdict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    findings, features = [], defaultdict(dict)
    began = time.monotonic()
    with multiprocessing.Pool(arguments.jobs) as pool:
        for n, run in enumerate(pool.imap_unordered(_share, shares), 1):
            if n % max(1, len(shares) // 10) == 0:
                print(f"{n} of {len(shares)} shares, {time.monotonic() - began:.0f} s", flush=True)
            totals[run.harness][0] += run.inputs
            totals[run.harness][1] += run.seconds
            findings += run.findings
            for feature, data in run.features.items():
                first = features[run.harness].setdefault(feature, data)
                if len(data) < len(first):
                    features[run.harness][feature] = data
            for finding in run.findings:
                print(f"\n{finding.harness} {finding.data.hex()}\n{finding.error}", flush=True)
    for name, (inputs, seconds) in totals.items():
        print(f"{name:20} {inputs:10,} inputs {seconds:8.0f} s {len(features[name]):4} features")
    total = sum(int(inputs) for inputs, _ in totals.values())
    print(f"{'in all':20} {total:10,} inputs {time.monotonic() - began:8.0f} s, {len(findings)} findings")
    if arguments.keep:
        _keep(features)
    return 1 if findings else 0


def _keep(features: dict[str, dict[str, bytes]]) -> None:
    """A new corpus: few inputs, old or new, that have all the features that any of them has."""
    for name, found in features.items():
        inputs = {*engine.corpus(name), *found.values()}
        shown = {data: engine.examine(name, data)[0] for data in inputs}
        missing = set().union(*shown.values())
        engine.clear(name)
        while missing:
            best = max(inputs, key=lambda data: (len(shown[data] & missing), -len(data), data))
            missing -= shown[best]
            engine.keep(name, best)


if __name__ == "__main__":
    sys.exit(main())
