# SPDX-License-Identifier: GPL-3.0-or-later
"""The rows of `python -m bench --workers`."""

from __future__ import annotations

from bench import workers
from bench.metrics import METRICS


def test_each_number_is_measured_here_and_on_another_machine():
    rows = workers.rows([1, 8])
    assert [row.name for row in rows] == ["local 1", "remote 1", "local 8", "remote 8"]
    here, there = rows[2].words, rows[3].words
    assert here[here.index("--workers") + 1] == "8"
    assert there[there.index("--workers") + 1] == "0"
    assert "--workers-at" in there
    assert "--workers-at" not in here
    assert set(workers.METRICS.split(",")) <= set(METRICS)
