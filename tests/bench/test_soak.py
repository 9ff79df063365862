# SPDX-License-Identifier: GPL-3.0-or-later
"""The soak: its arithmetic, and a short one; `python -m bench --soak 3600` is the long one."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bench.processes import BenchError
from bench.soak import Look, row


def looks(*kib, descriptors=7):
    return [Look(float(at), size, descriptors) for at, size in enumerate(kib)]


def test_the_warm_up_does_not_count():
    text, good = row("avne", looks(10, 500, 1000, 1000, 1000, 1000, 1000, 1010, 1010, 1010), 10.0)
    assert good
    assert "| 1000 | 1010 | 1.010 |" in text


def test_what_grows_is_told():
    text, good = row("avne", looks(*range(1000, 1400, 40)), 10.0)
    assert not good
    assert "**grows**" in text


def test_so_are_descriptors():
    found = looks(*[1000] * 10)
    found[-1] = found[-1]._replace(descriptors=8)
    assert row("avne", found, 10.0) == ("| avne | 1000 | 1000 | 1.000 | 7 → 8 | **grows** |", False)


def test_too_few_looks_prove_nothing():
    with pytest.raises(BenchError, match="too few"):
        row("avne", looks(1, 2, 3), 3.0)


def test_a_few_pages_are_no_growth():
    assert row("avne-helper", looks(*[372] * 7, 388, 388, 388), 10.0)[1]


def test_a_minute():
    """Too short for the bar of memory, which still warms up; nothing may be lost or wrong in it."""
    words = [sys.executable, "-m", "bench", "--soak", "60"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=170)
    rows = [line.split("|")[1:-1] for line in done.stdout.splitlines() if line.startswith("| avne")]
    assert [cells[0].strip() for cells in rows][:2] == ["avne", "avne [net]"], done.stderr
    for cells in rows:
        before, after = cells[4].strip().split(" → ")
        assert int(after) <= int(before), cells
        assert float(cells[3]) < 1.15, cells
