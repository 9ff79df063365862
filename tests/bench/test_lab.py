# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmark itself runs: its world, its load generator, and all metrics that need no peer.

How fast anything is proves nothing here; that every figure is there and nothing failed does.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
BRIEF = ["--rounds", "1", "--mib", "4", "--cap-ms", "400", "--pings", "50", "--small-ms", "150",
         "--flat", "5,20", "--flat-ms", "100", "--idle", "20"]  # fmt: skip


@pytest.mark.e2e
def test_a_brief_run_has_every_figure(tmp_path):
    out, picture, record = (tmp_path / name for name in ("out.json", "flat.svg", "record.json"))
    argv = [sys.executable, "-m", "bench", "--add", "avne=env", "--tool", "native,socks5,avne",
            "--metric", "throughput,connect,ping,small,crowd,memory,flat", *BRIEF,
            "--json", out, "--plot", picture, "--record", record]  # fmt: skip
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    # env(1) stands in for avne: it leads to nothing, and that it goes past the SOCKS5 server is noticed.
    assert found["troubles"] == ["avne, round 0: it went past the SOCKS5 server"]
    measured = {(one["tool"], one["measure"]): one["value"] for one in found["samples"]}
    for tool in ("native", "socks5"):
        for way in ("down", "up"):
            for streams in (1, 8, 256):
                assert measured[tool, f"{way}{streams}.mb_s"] > 0
            assert measured[tool, f"{way}256.drops"] == 0
            assert measured[tool, f"{way}256.percent_of_8"] > 0
            assert measured[tool, f"flat20_{way}.mb_s"] > 0
        for size in ("8k", "64k"):
            assert measured[tool, f"small{size}.mb_s"] > 0
            assert 0 < measured[tool, f"small{size}_beside.gap_ms"] < 1000
            assert measured[tool, f"small{size}_beside_others.mb_s"] > 0
        assert measured[tool, "conn_par32.errors"] == 0
        assert measured[tool, "idle20.open"] == 20
    assert "<svg" in picture.read_text()
    assert "native" in json.loads(record.read_text())["ratios"]["conn_seq.per_s"]
