# SPDX-License-Identifier: GPL-3.0-or-later
"""The stack listens on every address and port (RFC 9293 §3.9.1.1, §3.10.7.2)."""

from __future__ import annotations

import random

import pytest
from guest import FAMILIES, SERVER_V4, Net, Socket, connected, parked
from wire_frames import frame_v4

from avne.ipc import messages
from avne.netstack.dns.resolver import Config
from avne.netstack.stack import Stack
from avne.netstack.tcp import state
from avne.netstack.wire import tcp, vnet


@pytest.mark.rfc("9293", "MUST-41")
@pytest.mark.rfc("9293", "MUST-42")
def test_a_port_goes_on_listening_whatever_state_its_connections_are_in():
    net = Net("tor")
    first, flow = parked(net, local=100)
    second, other = parked(net, local=200)
    net.say(messages.OPENED, flow, 1000)
    third, _ = parked(net, local=300)
    before = dict(net.stack.connections)
    assert [c.state for c in before.values()] == [state.SYN_RECEIVED, state.PARKED, state.PARKED]
    first.send()
    fourth, _ = parked(net, local=400)
    assert {key: net.stack.connections[key] for key in before} == before
    assert len(net.stack.connections) == 4
    net.say(messages.OPENED, other, 1000)
    second.send()
    assert len(first.segments()) == len(second.segments()) == 1
    assert not third.inbox
    assert not fourth.inbox


@pytest.mark.rfc("9293", "MUST-11")
@pytest.mark.parametrize("how", ["reset", "syn"])
def test_after_a_connection_that_was_never_established_the_port_listens_again(how):
    net = Net("tor")
    socket, flow = parked(net)
    net.say(messages.OPENED, flow, 1000)
    if how == "reset":
        socket.send_reset()
    else:
        net.frame(socket.raw(tcp.SYN, socket.snd_nxt + 5))
    assert [(m.name, m.flow) for m in net.told()] == [("RESET", flow)]
    assert not net.stack.connections
    Socket(net).syn()
    assert net.names() == ["OPEN"]


@pytest.mark.rfc("9293", "MUST-45")
@pytest.mark.parametrize("server", FAMILIES, ids=["v4", "v6"])
def test_a_connection_keeps_the_address_that_the_guest_has_called(server):
    """In each kind of segment: SYN-ACK, ACK, data, FIN, and the reset of another connection."""
    net = Net("tor")
    socket, flow = connected(net, server)  # found by its address and port, or `Net` would call it stray
    net.say(messages.DATA, flow, payload=b"data")
    socket.send(b"more")
    net.say(messages.SHUT, flow)
    socket.send_fin()
    other, flow = connected(net, server[:-1] + b"\x09")
    net.say(messages.RESET, flow, 1)
    assert other.reset
    assert socket.fin
    assert not net.stray


@pytest.mark.rfc("9293", "MUST-67")
@pytest.mark.rfc("9293", "SHLD-5")
@pytest.mark.rfc("8200", "8.3")
@pytest.mark.parametrize(("server", "mss"), [(FAMILIES[0], 65520 - 40), (FAMILIES[1], 65520 - 60)])
def test_the_mss_is_what_fits_into_the_mtu(server, mss):
    net = Net("tor")
    socket, flow = parked(net, server)
    net.say(messages.OPENED, flow, 1000)
    (syn_ack,) = socket.segments()
    assert syn_ack.options.mss == mss


@pytest.mark.rfc("9293", "MUST-50")
def test_ip_options_do_not_keep_a_connection_from_being_opened():
    net = Net("tor")
    syn = Socket(net, frame_v4(b"")[vnet.SIZE + 16 :]).raw(tcp.SYN, 5, options=tcp.syn_options(1460, 0, True))
    record_route = bytes((7, 7, 4)) + bytes(5)
    net.frame(frame_v4(syn[vnet.SIZE + 20 :], options=record_route, front=syn[: vnet.SIZE]))
    assert net.names() == ["OPEN"]


@pytest.mark.rfc("9293", "MUST-9")
@pytest.mark.rfc("6528", "3-2")
def test_the_first_number_depends_on_a_secret_of_the_stack():
    """So another flow's, or another environment's at the same time, tells nothing."""

    def first(seed: int, local: int) -> int:
        net = Net("tor")
        net.stack = Stack(Config(), random.Random(seed).randbytes)
        net.join(b"w0")
        socket, flow = parked(net, SERVER_V4, local=local)
        net.say(messages.OPENED, flow, 1000)
        return socket.segments()[0].seq

    assert first(1, 100) == first(1, 100)
    distances = {(first(seed, 200) - first(seed, 100)) & 0xFFFFFFFF for seed in range(8)}
    assert len(distances) == 8
    assert len({first(seed, 100) for seed in range(8)}) == 8
    asked: list[int] = []
    Stack(Config(), lambda n: asked.append(n) or bytes(n))
    assert max(asked) >= 16  # bytes of it
