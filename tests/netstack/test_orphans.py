# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections of a netstack that is gone: what has the guest's kernel speak, and what it then hears."""

from __future__ import annotations

import pytest
from guest import FAMILIES, MASK, V4, V6, Net, connected

from avne.netstack import addresses, orphans
from avne.netstack.tcp import seq
from avne.netstack.wire import tcp

PORTS = (40000).to_bytes(2, "big") + (7).to_bytes(2, "big")


def _key(server, ports=PORTS):
    return (V4 if len(server) == 4 else V6) + server + ports


@pytest.mark.parametrize("server", FAMILIES, ids=["v4", "v6"])
@pytest.mark.parametrize("expected", [0, 1, 1 << 29, 1 << 31, (1 << 31) + 1, MASK])
def test_one_of_the_acks_is_outside_of_any_window(server, expected):
    net = Net("tor")
    orphans.provoke(net.stack, [_key(server)])
    net.turn()
    segments = net.stray
    assert [(s.flags, s.length) for s in segments] == [(tcp.ACK, 0)] * 2
    assert not all(seq.within(s.seq, expected, 1 << 30) for s in segments)
    assert net.stack.counters["tcp-orphan"] == 1


@pytest.mark.parametrize("server", FAMILIES, ids=["v4", "v6"])
def test_the_answer_is_reset_with_its_own_number(server):
    net = Net("tor")
    src = V4 if len(server) == 4 else V6
    template = tcp.HeaderTemplate(src, 40000, server, 7)
    net.frame(template.build(1234, 987654, tcp.ACK, 100, 0, 0))
    (reset,) = net.stray
    assert (reset.flags, reset.seq) == (tcp.RST, 987654)


def test_what_is_not_an_orphan():
    net = Net("tor")
    socket, _ = connected(net)
    (key,) = net.stack.connections
    others = [
        V4 + V4 + PORTS,
        bytes((127, 0, 0, 1)) * 2 + PORTS,
        V6 + addresses.TUN[1] + PORTS,
        b"",
        b"x" * 20,
    ]
    orphans.provoke(net.stack, [key, *others])
    net.turn()
    assert not net.stray
    assert not socket.segments()
