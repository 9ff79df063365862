# SPDX-License-Identifier: GPL-3.0-or-later
"""A short storm in each mode; `make chaos` is the long one."""

from __future__ import annotations

from pathlib import Path
from random import Random

from tests.chaos.clocks import Clocks
from tests.chaos.ground import Ground
from tests.chaos.storm import Storm


def test_nothing_breaks(installed, user, bed, any_avne):
    with Clocks(installed.dir, Path(installed.python)) as clocks:
        storm = Storm(any_avne, bed.socks, Random(f"suite {any_avne.mode}"), Ground(clocks, any_avne.place))
        storm.rage(8)
    tally = storm.tally
    assert (tally.faults, tally.packets, tally.wrong, tally.early) == ([], 0, 0, 0)
    assert tally.acts.total() >= 8
    assert tally.verified > 0
