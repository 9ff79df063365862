# SPDX-License-Identifier: GPL-3.0-or-later
"""Hostile guests: every segment at every state, packets of every length, floods of one kind."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest
import strict
from beside import Beside, memory_within, resident, the_connection
from guest import FAMILIES, SERVER_V4, SERVER_V6, V4, V6, Net, Socket, connected, parked
from wire_frames import frame_v4, frame_v6

from avne.ipc import messages
from avne.limits import MAX_FLOWS
from avne.netstack.tcp import state
from avne.netstack.tcp.connection import Connection
from avne.netstack.wire import ip, tcp, udp


@pytest.mark.parametrize("extra", [tcp.RST, tcp.ACK, tcp.FIN])
def test_only_a_syn_alone_takes_a_connections_place(extra):
    """Any other with the SYN flag is a segment of the old connection (RFC 9293 §3.10.7.4)."""
    net = Net("tor")
    socket, _ = parked(net)
    net.frame(socket.raw(tcp.SYN | extra, socket.isn + 5000))
    assert the_connection(net).state is state.PARKED
    assert not net.told()
    net, socket = _in_state(state.TIME_WAIT)
    net.told()
    net.frame(socket.raw(tcp.SYN | extra, socket.snd_nxt + 5000, socket.rcv_nxt))
    assert the_connection(net).state is state.TIME_WAIT
    assert not net.told()


# ---- segments at every state, packets of every length ---------------------------------------------


def _in_state(wanted: state.State) -> tuple[Net, Socket]:
    net = Net("tor")
    if wanted is state.PARKED:
        return net, parked(net)[0]
    if wanted is state.SYN_RECEIVED:
        socket, flow = parked(net)
        net.say(messages.OPENED, flow, 30_000)
        return net, socket
    socket, flow = connected(net, credit=30_000)
    if wanted in (state.CLOSE_WAIT, state.LAST_ACK):
        socket.send_fin()
    if wanted in (state.FIN_WAIT_1, state.FIN_WAIT_2, state.CLOSING, state.TIME_WAIT, state.LAST_ACK):
        before = socket.rcv_nxt
        net.say(messages.SHUT, flow)
        after, socket.rcv_nxt = socket.rcv_nxt, before
        if wanted is state.FIN_WAIT_2:
            socket.rcv_nxt = after
            socket.send()
        elif wanted is state.CLOSING:
            socket.send_fin()
        elif wanted is state.TIME_WAIT:
            socket.rcv_nxt = after
            socket.send_fin()
    elif wanted is state.CLOSED:
        socket.send_reset()
    return net, socket


# All but SYN-SENT, which only a connection from outside is in: test_inbound.py.
STATES = [s for s in state.State if s is not state.SYN_SENT]


@pytest.mark.parametrize("wanted", STATES, ids=lambda s: s.value)
def test_every_segment_at_every_state(wanted):
    """64 flags × where it begins × what it acknowledges × how long it is."""
    net, socket = _in_state(wanted)
    before = net.stack.connections.copy()
    starts = (-1, 0, 1, 29_999, 30_000, 1 << 31)
    acks = (-1 << 20, -1, 0, 1)
    sizes = (0, 1, 1448)
    fresh = True
    for flags, start, ack, size in itertools.product(range(64), starts, acks, sizes):
        if not fresh:
            net, socket = _in_state(wanted)
            before = net.stack.connections.copy()
        assert [c.state for c in before.values()] == [wanted] * (wanted is not state.CLOSED)
        was = [_numbers(c) for c in before.values()]
        net.stack.receive(
            socket.raw(flags, socket.snd_nxt + start, socket.rcv_nxt + ack, bytes(size)), net.now
        )
        net.stack.flush(net.now)
        sent = [b"".join(p) for p in net.stack.packets]
        net.stack.packets.clear()
        assert len(sent) <= 2, "an answer, and an ACK for what came out of order"
        for frame in sent:
            strict.check(frame)
        told = net.stack.upstreams.messages
        fresh = not told and [_numbers(c) for c in net.stack.connections.values()] == was


def _numbers(c: Connection) -> tuple[object, ...]:
    return (c.key, c.state, c.snd_una, c.snd_nxt, c.rcv_nxt, c.snd_wnd, c.reassembly, c.timer)


LENGTHS = [*range(2001), 4095, 4096, 4097, 9000, 16384, 32767, 32768, 65479, 65480, 65519, 65520, 65535]


def _of_length(length: int) -> list[bytes]:
    """Frames whose datagrams, or what they say of themselves, are `length` bytes."""
    rng = random.Random(length)
    noise = rng.randbytes(length)
    text = noise[: max(0, min(length, 65520) - 60)]
    udp_text = noise[: max(0, min(length, 65520) - 48)]
    good = [
        tcp.HeaderTemplate(V4, 40000, SERVER_V4, 80).build(101, 1, tcp.ACK, 500, len(text), 0) + text,
        tcp.HeaderTemplate(V6, 40000, SERVER_V6, 80).build(7, 0, tcp.SYN, 500, len(text), 0) + text,
        udp.build(V4, 1000, SERVER_V4, 53, udp_text),
        udp.build(V6, 1000, SERVER_V6, 443, udp_text),
    ]
    cut = [frame[: 10 + length] for frame in good]
    v4, v6 = frame_v4(text), frame_v6(text)
    lying = [v4[:12] + length.to_bytes(2, "big") + v4[14:], v6[:14] + length.to_bytes(2, "big") + v6[16:]]
    raw = [noise, bytes(length), b"\x45" * length, bytes(10) + b"\x60" * length]
    icmp = [frame_v4(noise[:65000], ip.ICMP), frame_v6(noise[:65000], ip.ICMPV6), frame_v4(text, 132)]
    return good + cut + lying + raw + icmp


def test_packets_of_every_length():
    net = Net("tor", resolver=("192.0.2.53", 53))
    beside = Beside(net)
    connected(net)
    received = 0
    before = resident()
    for length in LENGTHS:
        for frame in _of_length(length):
            net.stack.receive(frame, net.now)
            received += 1
        net.stack.flush(net.now)
        for packet in net.stack.packets:
            strict.check(b"".join(packet))
        net.stack.packets.clear()
        net.stack.upstreams.messages.clear()
        if length % 500 == 0:
            net.wait(1.0)
            beside.goes_on()
    assert resident() - before < 32
    assert received == 17 * len(LENGTHS)
    beside.goes_on()


FLOODS: dict[str, Callable[[Net, Socket, int], bytes]] = {
    "resets in the window": lambda net, s, n: s.raw(tcp.RST, s.snd_nxt + 1 + n % 60_000),
    "SYNs on the connection": lambda net, s, n: s.raw(tcp.SYN, s.snd_nxt + n * 7),
    "the oldest ACKs": lambda net, s, n: s.raw(tcp.ACK, s.snd_nxt, s.rcv_nxt - (1 << 25) - n),
    "data beyond the window": lambda net, s, n: s.raw(tcp.ACK, s.snd_nxt + (1 << 20) + n, s.rcv_nxt, b"x"),
    "duplicate ACKs": lambda net, s, n: s.raw(tcp.ACK, s.snd_nxt, s.rcv_nxt - 3),
    "FINs ahead of their turn": lambda net, s, n: s.raw(tcp.FIN | tcp.ACK, s.snd_nxt + 1 + n % 50, s.rcv_nxt),
    "no connection at all": lambda net, s, n: tcp.HeaderTemplate(V4, 1000 + n % 50_000, SERVER_V4, 7).build(
        n, n, tcp.ACK, 0, 0, 0
    ),
    "forged sources": lambda net, s, n: tcp.HeaderTemplate(SERVER_V4, n % 60_000, SERVER_V4, 7).build(
        n, n, tcp.SYN, 0, 0, 0
    ),
}


@pytest.mark.parametrize("flood", FLOODS)
@pytest.mark.parametrize("server", FAMILIES, ids=["v4", "v6"])
def test_other_floods(flood, server):
    """1,500 segments: one answer each at most, nothing kept, and the flow beside goes on."""
    net = Net("tor")
    beside = Beside(net)
    socket, flow = connected(net, server)
    net.say(messages.DATA, flow, payload=b"abc")
    socket.inbox.clear()
    with memory_within(1):
        for n in range(1_500):
            net.frame(FLOODS[flood](net, socket, n))
            if n % 100 == 0:
                assert len(socket.inbox) + len(net.stray) <= 101
                socket.inbox.clear()
                net.stray.clear()
                net.now += 0.001
            if n % 500 == 0:
                beside.goes_on()
        socket.inbox.clear()
        net.stray.clear()
    beside.goes_on()
    assert MAX_FLOWS > len(net.stack.connections) >= 1
