# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel's counters: what is read from its files, and that they count."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from bench.counters import Counters, inside, parse_devices, parse_protocols, read_counters
from bench.processes import BenchError, Process

DEVICES = """Inter-|   Receive                         |  Transmit
 face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls ...
    lo:    100       1    0   50    0     0          0         0    100       1    0   60    0     0 0 0
  tun0: 688649    4655    0    3    0     0          0         0 210318    3197    0    4    0     0 0 0
 up0:9     9    0    0    0     0          0         0   9    9    0    5    0     0       0          0
"""
PROTOCOLS = """TcpExt: SyncookiesSent TCPTimeouts TCPLoss
TcpExt: 1 22 333
IpExt: InNoRoutes OutMcastPkts
IpExt: 4 5
"""


def test_drops_are_those_of_every_device_but_loopback():
    assert parse_devices(DEVICES) == 3 + 4 + 5


def test_protocols_are_pairs_of_lines():
    assert parse_protocols(PROTOCOLS) == {
        "TcpExt.SyncookiesSent": 1,
        "TcpExt.TCPTimeouts": 22,
        "TcpExt.TCPLoss": 333,
        "IpExt.InNoRoutes": 4,
        "IpExt.OutMcastPkts": 5,
    }


def test_pairs_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        parse_protocols("Tcp: A B\nTcp: 1\n")


def test_this_kernel_has_the_counters():
    found = read_counters(os.getpid())
    assert all(value >= 0 for value in found)


def test_what_has_happened_since():
    assert Counters(5, 7, 9).since(Counters(1, 7, 2)) == Counters(4, 0, 7)


def test_the_namespace_is_that_of_the_one_agent():
    def lab(*agents):
        return SimpleNamespace(roles=lambda: {"agent": list(agents)})

    ours = Process(os.getpid(), 1, "pb-agent", 0)
    assert isinstance(inside(lab(ours)), Counters)
    for agents in ((), (ours, ours)):
        with pytest.raises(BenchError, match="pb-agent"):
            inside(lab(*agents))
