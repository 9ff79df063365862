# SPDX-License-Identifier: GPL-3.0-or-later
"""Which processes the flame graphs are of."""

from __future__ import annotations

import pytest

from bench.flame import processes_by_role
from bench.processes import BenchError

NAMES = {7: "avne", 8: "avne-helper", 9: "avne [net]", 10: "avne [socks5 1]"}


def test_netstack_and_first_worker_are_found():
    assert processes_by_role(NAMES) == {"netstack": 9, "worker": 10}
    assert processes_by_role({**NAMES, 11: "avne [socks5 2]"}) == {"netstack": 9, "worker": 10}
    assert processes_by_role({**NAMES, 10: "avne [tor 1]"})["worker"] == 10


def test_another_environment_would_be_a_mistake():
    with pytest.raises(BenchError, match="2 processes are the netstack"):
        processes_by_role({**NAMES, 12: "avne [net]"})
    with pytest.raises(BenchError, match="0 processes are the worker"):
        processes_by_role({9: "avne [net]"})
