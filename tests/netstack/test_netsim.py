# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated link's table is as docs/netsim.md has it."""

from __future__ import annotations

import netsim
import pytest
from netsim import Row

WRITTEN = netsim.read(netsim.PAGE.read_text())
CELLS = [(rtt, buffer) for rtt in netsim.ROUND_TRIPS for buffer in netsim.BUFFERS]


@pytest.mark.parametrize(("rtt", "buffer"), CELLS, ids=str)
def test_the_page_is_true(rtt, buffer):
    """Within what a change of the order of a few frames does; more is to be looked at, then `make netsim`."""
    measured = [netsim.measure(loss, rtt, buffer) for loss in netsim.LOSSES]
    for row, (key, now) in zip(measured, netsim.read(netsim.page(measured)).items(), strict=True):
        goodput, _, _, retransmitted, memory = WRITTEN[key]
        near = 0.3 if row.loss else 0.01
        assert now[0] == pytest.approx(goodput, rel=near), key
        assert now[3] == pytest.approx(retransmitted, rel=near, abs=5 if row.loss else 0), key
        assert now[4] <= memory * 1.05, key
        _check(row)


def _check(row: Row) -> None:
    """What holds whatever the page says."""
    assert row.memory <= 2 * row.buffer, "one buffer at each end"
    if not row.loss:
        assert row.ideal > 0.94  # less the first and the last round trip
        assert row.retransmitted == 0
    # Three directions' worth of chance: a frame is lost, or its ACK, or the repeated one.
    assert row.retransmitted <= row.sent * row.loss * 3
    assert row.goodput > 5_000, "it does not stall"


def test_the_page_has_each_cell_once():
    assert len(WRITTEN) == len(netsim.LOSSES) * len(CELLS)
