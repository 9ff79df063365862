# SPDX-License-Identifier: GPL-3.0-or-later
"""Spoilt messages to the helper's own code, compiled under gcc's sanitizers (``make fuzz-helper``).

Two programs: `fuzz_request.c` asks for environments, `fuzz_attach.c` attaches to one.  Their inputs come of
a generator with a seed, so a number of a run is all that has to be kept of it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hatch_build

SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
COUNTED = {
    "attach": {
        "attach.c": ["start_program=counted_start", "kill=counted_kill"],
        "helper.c": ["main=helper_main"],
    },
    "request": {
        "attach.c": ["start_program=counted_start", "kill=counted_kill", "_exit=counted_exit"],
        "helper.c": ["main=helper_main", "_exit=counted_exit"],
        "init.c": ["start_program=counted_start", "kill=counted_kill", "_exit=counted_exit"],
        "paths.c": [
            "mount=counted_mount", "mount_setattr=counted_mount_setattr", "mkdirat=counted_mkdirat",
            "mknodat=counted_mknodat",
        ],
    },
}  # fmt: skip
WORDS = {"attach": ("started", "refused", "signals"), "request": ("accepted", "found", "shown", "started")}
BATCH = 50_000  # a process each: what the helper leaves to its end to free is freed then


def build(name: str, directory: Path) -> str:
    """The path of the program, made in `directory`."""
    common = ["-std=gnu11", "-O1", "-g", "-I", str(hatch_build.PRIVILEGED), "-DAVNE_LAYOUT=1ULL", *SANITIZERS]
    assert {*COUNTED[name]} <= {source.name for source in hatch_build.SOURCES}
    objects = []
    for path in (*hatch_build.SOURCES, Path(__file__).with_name(f"fuzz_{name}.c")):
        objects.append(str(directory / f"{name}-{path.stem}.o"))
        counted = [f"-D{word}" for word in COUNTED[name].get(path.name, [])]
        subprocess.run(
            [*hatch_build.compiler(), *common, *counted, "-c", "-o", objects[-1], str(path)], check=True
        )
    program = str(directory / f"fuzz-{name}")
    subprocess.run([*hatch_build.compiler(), *SANITIZERS, "-o", program, *objects], check=True)
    return program


def run(program: str, rounds: int, seed: int) -> list[int]:
    """What it counted, its rounds first.  Raises `AssertionError` with what a sanitizer said."""
    with tempfile.TemporaryDirectory(prefix="avne-fuzz-") as scratch:
        env = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1"}
        words = [program, str(rounds), str(seed)]
        done = subprocess.run(
            words, cwd=scratch, env=env, capture_output=True, text=True, timeout=600, check=False
        )
    assert (done.returncode, done.stderr) == (0, ""), f"seed {seed}: {done.stderr[-4000:]}"
    return [int(word) for word in done.stdout.split()]


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz-helper", description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="avne-fuzz-") as place:
        for name, words in WORDS.items():
            program = build(name, Path(place))
            seeds = range(options.seed, options.seed + max(1, options.requests // BATCH))
            began = time.monotonic()
            with ThreadPoolExecutor(options.jobs) as pool:
                counts = list(pool.map(lambda seed, program=program: run(program, BATCH, seed), seeds))
            took = time.monotonic() - began
            rounds, *rest = map(sum, zip(*counts, strict=True))
            told = ", ".join(f"{word} {number:,}" for word, number in zip(words, rest, strict=True))
            sys.stdout.write(f"{name}: {rounds:,} in {took:.0f} s, {rounds / took:,.0f}/s: {told}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
