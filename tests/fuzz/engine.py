# SPDX-License-Identifier: GPL-3.0-or-later
"""Mutation without a dependency: inputs that show something new are mutated further, and the first ones kept.

What is new is said by the features that a harness gives, not by coverage; ``--atheris`` is for that.
"""

from __future__ import annotations

import hashlib
import random
import re
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from . import guests, names, parsers, workers

Harness = Callable[[bytes], set[str]]

HARNESSES: dict[str, Harness] = {
    "frames": guests.frames,
    "segments": guests.segments,
    "dns-queries": names.queries,
    "dns-answers": names.answers,
    "worker-to-netstack": workers.stack,
    "netstack-to-worker": workers.streams,
    "lane": workers.lane,
    "control": workers.control,
    "socks": workers.socks,
    "proxies": workers.proxies,
    "packets": parsers.packets,
    "tcp-options": parsers.options,
    "reassembly": parsers.overlaps,
}
# Shares of the inputs: one of `segments` or `dns-answers` is a whole life, and takes a hundred times as long
# as one of the parsers.
WEIGHTS = {
    "frames": 8, "segments": 3, "dns-queries": 5, "dns-answers": 2, "worker-to-netstack": 4, "lane": 1,
    "netstack-to-worker": 6, "control": 2, "socks": 4, "proxies": 2, "packets": 8, "tcp-options": 4,
    "reassembly": 2,
}  # fmt: skip
CORPUS = Path(__file__).parent / "corpus"
LONGEST = 600  # bytes of an input
SLOWEST = 5.0  # seconds that one may take: more is a hang
_LARGE = re.compile(r"0x[0-9a-f]+|[0-9]{2,}")
_ENOUGH = 3  # findings: most likely they are one
_POOL = 4000  # inputs that are mutated further


class Finding(NamedTuple):
    harness: str
    data: bytes
    error: str


class Run(NamedTuple):
    """What came of one process's share."""

    harness: str
    inputs: int
    seconds: float
    findings: list[Finding]
    features: dict[str, bytes]  # each with the first input that had it


def corpus(harness: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / harness).glob("*"))]


def keep(harness: str, data: bytes) -> Path:
    """Put an input into the corpus."""
    folder = CORPUS / harness
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / hashlib.sha256(data).hexdigest()[:16]
    path.write_bytes(data)
    return path


def clear(harness: str) -> None:
    for path in (CORPUS / harness).glob("*"):
        path.unlink()


def examine(harness: str, data: bytes) -> tuple[set[str], str]:
    """The features of an input, and what was wrong, as a traceback: mostly nothing.

    Codes, ports and protocols are not told apart: there are too many of them.
    """
    began = time.process_time()
    try:
        features = HARNESSES[harness](data)
    except Exception:
        return set(), traceback.format_exc()
    features = {_LARGE.sub("#", feature) for feature in features}
    if time.process_time() - began > SLOWEST:
        return features, f"it took {time.process_time() - began:.1f} s"
    return features, ""


def run(harness: str, inputs: int, seed: int) -> Run:
    """The corpus, and then `inputs` more."""
    rng = random.Random(f"{harness} {seed}")
    pool = corpus(harness) or [b""]
    seen: dict[str, bytes] = {}
    shapes: set[frozenset[str]] = set()
    findings: list[Finding] = []
    began = time.monotonic()
    kept = len(pool)
    for n in range(kept + inputs):
        data = pool[n] if n < kept else mutate(rng, pool)
        features, error = examine(harness, data)
        if error:
            findings.append(Finding(harness, data, error))
            if len(findings) == _ENOUGH:
                inputs = max(0, n + 1 - kept)
                break
        for feature in features:
            seen.setdefault(feature, data)
        shape = frozenset(features)
        if shape not in shapes:
            shapes.add(shape)
            if len(pool) < _POOL:
                pool.append(data)
            else:
                pool[rng.randrange(kept, _POOL)] = data
    return Run(harness, inputs, time.monotonic() - began, findings, seen)


def mutate(rng: random.Random, pool: list[bytes]) -> bytes:
    """An input out of nothing, or one or two others, changed in a few places."""
    if rng.random() < 0.1:
        return rng.randbytes(rng.randrange(LONGEST // 2))
    octets = bytearray(rng.choice(pool))
    if rng.random() < 0.2:
        other = rng.choice(pool)
        octets = octets[: rng.randrange(len(octets) + 1)] + other[rng.randrange(len(other) + 1) :]
    for _ in range(1 << rng.randrange(5)):
        at = rng.randrange(len(octets) + 1)
        kind = rng.randrange(7)
        if kind == 0:
            octets[at : at + 1] = rng.randbytes(1)
        elif kind == 1 and at < len(octets):
            octets[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            octets[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif kind == 3:
            del octets[at : at + rng.randrange(1, 9)]
        elif kind == 4:
            octets[at : at + 1] = bytes((rng.choice((0, 1, 15, 16, 127, 128, 240, 255)),))
        elif kind == 5:
            start = rng.randrange(len(octets) + 1)
            octets[at:at] = octets[start : start + rng.randrange(1, 40)]
        else:
            octets += rng.randbytes(rng.randrange(1, 30))
    return bytes(octets[:LONGEST])
