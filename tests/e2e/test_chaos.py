# SPDX-License-Identifier: GPL-3.0-or-later
"""A short storm in each mode; `make chaos` is the long one."""

from __future__ import annotations

import pytest

from tests.chaos.storm import MODES, storm


@pytest.mark.parametrize("mode", MODES)
def test_nothing_breaks(installed, user, bed, mode):
    with storm(mode, installed, user, bed.socks, "suite") as one:
        one.rage(8)
    tally = one.tally
    assert (tally.faults, tally.packets, tally.wrong, tally.early) == ([], 0, 0, 0)
    assert tally.acts.total() >= 8
    assert tally.verified > 0
