# SPDX-License-Identifier: GPL-3.0-or-later
"""Hostile guests: bounded memory, no crash, and the well-behaved flow beside them goes on."""

from __future__ import annotations

import random
import time

import pytest
from beside import MIB, Beside, memory_within, resident, the_connection
from guest import SERVER_V4, SERVER_V6, V4, V6, Net, connected, parked

from avne.ipc import messages
from avne.limits import CREDIT_MAX, DNS_MAX_PENDING, DNS_MAX_WAITING, MAX_HALF_OPEN
from avne.netstack import addresses, deadlines, stack
from avne.netstack.tcp import output, reassembly
from avne.netstack.wire import tcp, udp

# ---- floods --------------------------------------------------------------------------------------


def test_a_million_half_open_flows():
    """1,000,000 SYNs, no two alike; 4,096 wait for their upstream, the others are dropped."""
    net = Net("tor")
    beside = Beside(net)
    frames = [
        bytearray(tcp.HeaderTemplate(guest, 1, server, 80).build(7, 0, tcp.SYN, 1000, 0, 0))
        for guest, server in [(V4, SERVER_V4), (V6, SERVER_V6)]
    ]
    at = [30, 50]  # of the ports
    receive = net.stack.receive
    before, began = resident(), time.process_time()
    for n in range(1_000_000):
        frame, port = frames[n & 1], at[n & 1]
        frame[port : port + 4] = (n + (1 << 20)).to_bytes(4, "big")
        receive(bytes(frame), net.now)
        if n % 20_000 == 0:
            net.wait(0.01)
            beside.goes_on()
    beside.goes_on()
    took = time.process_time() - began
    assert net.stack.half_open == MAX_HALF_OPEN
    assert MAX_HALF_OPEN < len(net.stack.connections) < MAX_HALF_OPEN + 20, "port 53 needs no upstream"
    counted = net.stack.counters
    assert counted["syn-dropped"] + counted["tcp-syn"] == 1_000_001
    assert resident() - before < 64
    assert took < 60, "some 10 µs each"


def test_half_open_flows_that_never_answer_our_syn_ack(monkeypatch):
    """The upstream opens them all; the guest is silent.  They are bounded, and end by themselves."""
    bound = 2000
    monkeypatch.setattr(stack, "MAX_FLOWS", bound)
    net = Net("tor")
    beside = Beside(net)
    with memory_within(bound * 4 / 1024):
        for local in range(100, 100 + 2 * bound):
            net.stack.receive(
                tcp.HeaderTemplate(V4, local, SERVER_V4, 80).build(1, 0, tcp.SYN, 1000, 0, 0), net.now
            )
            if local % 500 == 0:
                net.turn()
                for message in net.told("OPEN"):
                    net.say(messages.OPENED, message.flow, 1 << 14)
        net.stray.clear()
        net._told.clear()
    assert len(net.stack.connections) == bound
    assert net.stack.half_open < MAX_HALF_OPEN
    beside.goes_on()
    net.wait(200)
    net.stray.clear()
    assert len(net.stack.connections) == 1
    beside.goes_on()


def test_half_open_connections_to_port_53_are_flows_too(monkeypatch):
    monkeypatch.setattr(stack, "MAX_FLOWS", 1000)
    net = Net("tor")
    beside = Beside(net)
    for local in range(100, 3100):
        template = tcp.HeaderTemplate(V4, local, addresses.GATEWAY[0], 53)
        net.stack.receive(template.build(1, 0, tcp.SYN, 1000, 0, 0), net.now)
    net.turn()
    net.stray.clear()
    assert len(net.stack.connections) == 1000
    beside.goes_on()
    net.wait(200)
    assert len(net.stack.connections) == 1


def test_syns_full_of_data_are_not_kept():
    net = Net("socks5")
    beside = Beside(net)
    with memory_within(24):
        for port in range(100, 100 + MAX_HALF_OPEN):
            frame = tcp.HeaderTemplate(V4, port, SERVER_V4, 80).build(1, 0, tcp.SYN, 1000, 60_000, 0)
            net.stack.receive(frame + bytes(60_000), net.now)
        net.turn()
        flows = [m.flow for m in net.told("OPEN")]
    assert len(flows) == MAX_HALF_OPEN
    net.say(messages.REFUSED, flows[0], messages.Code.HOST_UNREACHABLE, 2, "")
    ((kind, code, quote),) = net.unreachable()
    assert (kind, code, len(quote)) == (3, 1, 548)
    beside.goes_on()


def test_connections_that_come_and_go_leave_no_deadlines():
    """Refused by silence, each would be remembered for 135 s, and reset by the guest it is gone."""
    net = Net("socks5")
    beside = Beside(net)
    for n in range(5000):
        socket, flow = parked(net, local=1000 + n % 1000, isn=n * 1000)
        net.say(messages.REFUSED, flow, messages.Code.TTL_EXPIRED, 4, "")
        socket.send_reset()
        net.now += 0.001
        del net.sockets[SERVER_V4, 80, socket.local]
    assert len(net.stack.connections) == 1
    assert len(net.stack._deadlines) < 1100
    beside.goes_on()


def test_a_deadline_that_was_forgotten_with_others_is_still_met(monkeypatch):
    monkeypatch.setattr(deadlines, "_IDLE_DEADLINES", 0)
    net = Net("tor")
    sockets = [connected(net, local=100 + n) for n in range(20)]
    for _ in range(5):
        for socket, flow in sockets:
            net.say(messages.DATA, flow, payload=b"x")
            socket.send()
            assert len(net.stack._deadlines) <= 2 * len(sockets)
        net.wait(0.05)
    for socket, flow in sockets:
        net.say(messages.DATA, flow, payload=b"lost")
        socket.segments()
    net.wait(0.25)
    assert all([bytes(s.payload) for s in socket.segments()] == [b"lost"] for socket, _ in sockets)


def test_questions_without_end():
    """2,500 different questions over UDP, of which none is answered."""
    net = Net("tor", resolver=("192.0.2.53", 53))
    beside = Beside(net)
    with memory_within(8):
        for n in range(2_500):
            name = b"%d" % n
            wire = (
                n.to_bytes(2, "big") + b"\1\0\0\1" + bytes(6) + bytes((len(name),)) + name + b"\0\0\x10\0\1"
            )
            net.stack.receive(udp.build(V4, 5353, SERVER_V4, 53, wire), net.now)
            net.stack.flush(net.now)
            net.stack.packets.clear()
            net.stack.upstreams.messages.clear()
    resolver = net.stack.port53.resolver
    assert len(resolver._questions) <= DNS_MAX_PENDING
    assert resolver._waiting <= DNS_MAX_WAITING
    assert net.stack.counters["dns-overload"] >= 2_500 - DNS_MAX_PENDING
    beside.goes_on()


# ---- what is held for one connection ---------------------------------------------------------------


@pytest.mark.parametrize("isn", [100, 0xFFFFF000])
def test_overlapping_segments(isn):
    """A stream cut at random, over and over, in any order, across the wrap: delivered once, in order."""
    rng = random.Random(isn)
    net = Net("tor")
    beside = Beside(net)
    socket, _ = connected(net, credit=1 << 16, isn=isn)
    stream = rng.randbytes(40_000)
    cuts = [(at, rng.randint(1, 3000)) for at in range(0, len(stream), 200)] * 3
    rng.shuffle(cuts)
    connection = the_connection(net)
    up = b""
    for at, length in cuts + [(at, 500) for at in range(0, len(stream), 250)]:
        data = stream[at : at + length]
        net.frame(socket.raw(tcp.ACK, socket.isn + 1 + at, socket.rcv_nxt, data))
        if connection.reassembly is not None:
            assert connection.reassembly.held <= 1 << 16
            assert len(connection.reassembly._blocks) <= reassembly.MAX_BLOCKS
        up += b"".join(m.payload for m in net.told("DATA"))
    assert up == stream
    beside.goes_on()


def test_crumbs_ahead_of_their_turn_do_not_keep_whole_frames():
    """Each segment carries 60,000 bytes, of which only one is new."""
    net = Net("tor")
    beside = Beside(net)
    socket, _ = connected(net, credit=CREDIT_MAX)
    with memory_within(2 * CREDIT_MAX / MIB):
        for n in range(300):
            start = socket.snd_nxt + 100 + n * 60_000
            net.frame(socket.raw(tcp.ACK, start, socket.rcv_nxt, bytes(60_000)))
        net.told()
        socket.inbox.clear()
    beside.goes_on()


@pytest.mark.parametrize("window", [0, 1, 2, 63])
def test_silly_windows(window):
    """A guest that opens its window by a few bytes gets its data, and not a segment for each turn."""
    net = Net("tor")
    beside = Beside(net)
    socket, flow = connected(net)
    net.say(messages.DATA, flow, payload=bytes(16_000))
    socket.wnd = window
    for n in range(300):
        socket.send()
        net.wait(0.01)
        if n % 100 == 0:
            beside.goes_on()
    assert len(socket.segments()) < 40
    socket.wnd = 65535
    socket.send()
    for _ in range(10):
        net.wait(1.0)
        socket.send()
    assert len(socket.data) == 16_000
    beside.goes_on()


def test_a_guest_that_sends_byte_by_byte():
    """Each is carried; the credit bounds them all the same."""
    net = Net("tor")
    beside = Beside(net)
    socket, _ = connected(net, credit=2000)
    up = 0
    for _ in range(3000):
        net.frame(socket.raw(tcp.ACK, socket.snd_nxt + up, socket.rcv_nxt, b"x"))
        up += sum(len(m.payload) for m in net.told("DATA"))
    assert up == 2000
    beside.goes_on()


def test_what_is_in_flight_costs_no_more_than_what_is_in_it():
    """An upstream that sends byte by byte, and a guest that acknowledges nothing."""
    net = Net("tor")
    beside = Beside(net)
    socket, flow = connected(net)
    header = messages.encode(messages.DATA, flow)
    with memory_within(1):
        for n in range(16_000):
            net.stack.handle(b"w0", header, bytes((n & 255,)), net.now)
            net.stack.flush(net.now)
            net.stack.packets.clear()
    assert len(the_connection(net).inflight) == output.MAX_IN_FLIGHT
    beside.goes_on()
    for _ in range(200):
        net.wait(0.3)
        socket.send()
    # What the guest's window held back while nobody acknowledged follows in order.
    assert bytes(socket.data) == bytes(n & 255 for n in range(16_000))


def test_acks_of_unsent_data():
    net = Net("tor")
    beside = Beside(net)
    socket, flow = connected(net)
    net.say(messages.DATA, flow, payload=b"abc")
    socket.segments()
    for n in range(5000):
        net.frame(socket.raw(tcp.ACK, socket.snd_nxt, socket.rcv_nxt + 1 + n * 400_000))
    answers = socket.segments()
    assert len(answers) <= 5000, "never more than one for each"
    assert all(s.flags == tcp.ACK and not s.payload for s in answers)
    beside.goes_on()
    net.wait(0.3)
    assert b"abc" in [bytes(s.payload) for s in socket.segments()], "it is still unacknowledged"
