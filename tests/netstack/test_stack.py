# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole stack: what is refused, counted and bounded, and that nothing a guest sends can raise."""

from __future__ import annotations

import gc
import random

import pytest
from guest import FAMILIES, SERVER_V4, V4, Net, Socket, connected, dns_stream, parked
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_frames import damaged, frame_v4, frame_v6

from avne.errors import Malformed
from avne.ipc import messages
from avne.limits import MAX_HALF_OPEN
from avne.netstack import addresses, stack
from avne.netstack.stack import CHALLENGES_PER_SECOND
from avne.netstack.tcp import state
from avne.netstack.tcp.arrives import TIME_WAIT_SECONDS
from avne.netstack.wire import ip, tcp, udp, vnet

VOUCHED = bytes((vnet.DATA_VALID,)) + bytes(9)


def _ip(dst: bytes, protocol: int, payload: bytes, src: bytes | None = None) -> bytes:
    src = addresses.TUN[len(dst) == 16] if src is None else src
    return VOUCHED + ip.build(protocol, src, dst, len(payload)) + payload


# ---- what is not TCP and not DNS ---------------------------------------------------------


@pytest.mark.rfc("1122", "3.2.2.1-1")
@pytest.mark.rfc("1122", "3.3.8")
@pytest.mark.rfc("1122", "4.1.3.1")
@pytest.mark.rfc("4443", "3.1-1")
@pytest.mark.parametrize("server", FAMILIES, ids=["v4", "v6"])
@pytest.mark.parametrize(("port", "counter"), [(443, "udp-443"), (123, "udp-123"), (9, "udp")])
def test_udp_is_refused_at_once(server, port, counter):
    net = Net("tor")
    frame = udp.build(addresses.TUN[len(server) == 16], 1234, server, port, b"hello")
    net.frame(frame)
    ((kind, code, quote),) = net.unreachable()
    assert (kind, code) == ((3, 3) if len(server) == 4 else (1, 4))
    assert frame[vnet.SIZE :] == quote
    assert net.stack.counters[counter] == 1


def test_other_protocols_are_prohibited_and_counted_by_number():
    net = Net("tor")
    net.frame(_ip(SERVER_V4, 132, b"sctp"))
    assert [e[:2] for e in net.unreachable()] == [(3, 13)]
    assert net.stack.counters["protocol-132"] == 1


@pytest.mark.rfc("9293", "MUST-57")
@pytest.mark.rfc("1122", "3.2.2-6")
@pytest.mark.rfc("1122", "3.3.6-1")
@pytest.mark.rfc("4443", "2.4e3")
@pytest.mark.parametrize(
    "dst",
    [
        bytes((224, 0, 0, 1)),
        b"\xff" * 4,
        bytes((10, 213, 0, 3)),
        bytes((10, 213, 0, 0)),
        bytes.fromhex("ff02" + "00" * 13 + "01"),
    ],
)
def test_multicast_is_dropped_and_counted(dst):
    net = Net("tor")
    src = addresses.TUN[len(dst) == 16]
    net.frame(udp.build(src, 5353, dst, 53, b"mdns"))
    net.frame(udp.build(src, 5353, dst, 9, b"discard"))
    template = tcp.HeaderTemplate(src, 1000, dst, 80)
    for flags in (tcp.SYN, tcp.ACK, tcp.FIN | tcp.ACK):
        net.frame(template.build(1, 1, flags, 100, 0, 0))
    assert not net.other
    assert not net.stray
    assert not net.told()
    assert net.stack.counters == {"multicast-17": 2, "tcp-multicast": 3}


@pytest.mark.rfc("9293", "MUST-63")
@pytest.mark.rfc("1122", "3.2.1.3-3")
@pytest.mark.rfc("1122", "3.2.2-9")
@pytest.mark.rfc("1122", "4.1.3.6-1")
@pytest.mark.rfc("4443", "2.4e6")
@pytest.mark.parametrize(
    "src", [bytes((8, 8, 8, 8)), bytes((10, 213, 0, 3)), bytes(16), bytes((224, 0, 0, 1))]
)
def test_a_foreign_source_is_dropped_and_counted(src):
    net = Net("tor")
    dst = FAMILIES[len(src) == 16]
    template = tcp.HeaderTemplate(src, 1000, dst, 80)
    for flags in (tcp.SYN, tcp.ACK):
        net.frame(template.build(1, 1, flags, 100, 0, 0))
    net.frame(udp.build(src, 1, dst, 9, b""))
    net.frame(udp.build(src, 1, dst, 53, b""))
    assert not net.other
    assert not net.stray
    assert net.stack.counters == {"source-foreign": 4}


def test_malformed_packets_are_counted_by_reason():
    net = Net("tor")
    for frame in (b"", frame_v4(b"x", fragment=0x2000), frame_v6(b"", 59), frame_v4(bytes(19))):
        net.frame(frame)
    assert not net.other
    assert net.stack.counters == {
        "malformed-ip-short": 1,
        "fragment": 1,
        "malformed-fragment-length": 1,
        "malformed-ipv6-no-next-header": 1,
        "malformed-tcp-short": 1,
    }


# ---- segments of no connection, ports used again -------------------------------------------


def test_a_segment_of_no_connection_is_reset():
    net = Net("tor")
    socket = Socket(net)
    net.frame(socket.raw(tcp.ACK, 5, 77, b"data"))
    net.frame(socket.raw(tcp.SYN | tcp.FIN, 5))
    net.frame(socket.raw(tcp.SYN | tcp.ACK, 5, 77))
    net.frame(socket.raw(tcp.RST, 5))
    assert [(s.seq, s.ack, s.flags) for s in socket.segments()] == [
        (77, 0, tcp.RST),
        (0, 7, tcp.RST | tcp.ACK),
        (77, 0, tcp.RST),
    ]


def _ended(net: Net) -> Socket:
    """A connection that we closed first: TIME-WAIT is ours."""
    socket, flow = connected(net)
    net.say(messages.SHUT, flow)
    socket.send_fin()
    net.told()
    (connection,) = net.stack.connections.values()
    assert connection.state is state.TIME_WAIT
    return socket


@pytest.mark.rfc("9293", "MAY-2")
def test_a_port_in_time_wait_may_be_used_again():
    net = Net("tor")
    socket = _ended(net)
    again = Socket(net, isn=socket.snd_nxt + 1).syn()
    assert net.names() == ["OPEN"]
    net.wait(TIME_WAIT_SECONDS)
    assert len(net.stack.connections) == 1
    assert not again.inbox


@pytest.mark.rfc("9293", "MAY-2")
def test_a_port_used_again_gets_a_number_beyond_all_that_were_used():
    """More was sent than the clock of the ISN has ticked, so the clock alone would go back."""
    net = Net("tor")
    _, flow = connected(net)
    (connection,) = net.stack.connections.values()
    connection.iss = connection.snd_una = connection.snd_nxt = connection.iss + (1 << 28)  # sent long ago
    net.say(messages.SHUT, flow)
    socket = Socket(net)
    net.frame(socket.raw(tcp.FIN | tcp.ACK, 101, connection.snd_nxt))
    assert connection.state is state.TIME_WAIT
    Socket(net, isn=1000).syn()
    (again,) = net.stack.connections.values()
    assert again is not connection
    assert again.iss == connection.snd_nxt + 1
    net.frame(socket.raw(tcp.RST, 1001))
    assert not net.stack.connections
    Socket(net, isn=2000).syn()
    (third,) = net.stack.connections.values()
    assert third.iss < again.iss  # the clock's again: nobody could tell it from that number


def test_an_old_number_in_time_wait_is_challenged_and_then_the_guest_clears_it():
    net = Net("tor")
    socket = _ended(net)
    again = Socket(net, isn=socket.isn - 1000).syn()
    (challenge,) = again.segments()
    assert challenge.flags == tcp.ACK
    net.frame(again.raw(tcp.RST, challenge.ack))  # as a SYN-SENT socket answers it
    again.syn()
    assert net.names() == ["OPEN"]


@pytest.mark.rfc("5961", "7-1")
def test_challenges_are_limited_in_each_second():
    net = Net("tor")
    socket, _ = connected(net)
    for _ in range(CHALLENGES_PER_SECOND + 50):
        net.stack.receive(socket.raw(tcp.SYN, socket.snd_nxt + 5), net.now)
    net.turn()
    assert len(socket.segments()) == CHALLENGES_PER_SECOND
    net.wait(1.0)
    net.frame(socket.raw(tcp.SYN, socket.snd_nxt + 5))
    assert len(socket.segments()) == 1


# ---- bounds ----------------------------------------------------------------------------------


def test_a_flood_of_syns_is_bounded():
    net = Net("tor")
    template = [tcp.HeaderTemplate(V4, port, SERVER_V4, 80) for port in range(MAX_HALF_OPEN + 100)]
    for each in template:
        net.stack.receive(each.build(1, 0, tcp.SYN, 1000, 0, 0), net.now)
    net.turn()
    assert net.stack.half_open == len(net.stack.connections) == MAX_HALF_OPEN
    assert net.stack.counters["syn-dropped"] == 100
    flows = [m.flow for m in net.told("OPEN")]
    assert len(flows) == MAX_HALF_OPEN
    for flow in flows:
        net.stack.handle(b"w0", messages.encode(messages.REFUSED, flow, 5, 0, ""), None, net.now)
    net.turn()
    assert net.stack.half_open == 0
    assert not net.stack.connections
    assert Socket(net, local=9).syn()
    assert net.names() == ["OPEN"]


def test_flows_are_bounded(monkeypatch):
    monkeypatch.setattr(stack, "MAX_FLOWS", 3)
    net = Net("tor")
    for n in range(3):
        connected(net, local=100 + n)
    refused = Socket(net, local=200).syn()
    query = Socket(net, addresses.GATEWAY[0], 53).syn()
    assert not refused.inbox
    assert not query.inbox
    assert net.stack.counters["syn-dropped"] == 2


def test_deadlines_of_the_dead_are_forgotten():
    net = Net("tor")
    for n in range(50):
        socket, _ = connected(net, local=100 + n)
        socket.send_reset()
    net.wait(5)
    assert net.stack.poll_at() is None
    assert not net.stack._deadlines


# ---- time --------------------------------------------------------------------------------------


def test_deadlines_that_were_put_off_are_met_later():
    net = Net("tor")
    socket, flow = connected(net)
    net.say(messages.DATA, flow, payload=b"one")
    first = net.stack.poll_at()
    socket.segments()
    net.wait(0.15)
    net.say(messages.DATA, flow, payload=b"two")
    socket.snd_nxt, socket.rcv_nxt = socket.snd_nxt, socket.rcv_nxt - 3
    socket.send()  # acknowledges the first only
    socket.segments()
    net.wait(first - net.now)
    assert not socket.segments()
    net.wait(0.2)
    assert [bytes(s.payload) for s in socket.segments()] == [b"two"]


def test_poll_at_is_the_earlier_of_tcp_and_dns():
    net = Net("tor")
    assert net.stack.poll_at() is None
    query = b"\0\1\1\0\0\1\0\0\0\0\0\0\7example\3com\0\0\1\0\1"
    net.ask(query)
    dns = net.stack.poll_at()
    assert dns > net.now
    _, flow = connected(net)
    net.say(messages.DATA, flow, payload=b"x")
    assert net.now < net.stack.poll_at() < dns


# ---- anything at all ----------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.lists(damaged() | st.binary(max_size=90), max_size=6))
def test_no_frame_raises(frames):
    """No matter what a guest sends, it is answered, or dropped and counted."""
    net = Net("tor")
    connected(net)
    for frame in frames:
        net.frame(frame)
    net.wait(3.0)


SEGMENT = st.tuples(
    st.sampled_from([0, tcp.ACK, tcp.ACK | tcp.FIN, tcp.SYN, tcp.RST, tcp.ACK | tcp.PSH, 63]),
    st.integers(-3, 12) | st.integers(4000, 5010) | st.integers(-(1 << 31), 1 << 31),  # seq
    st.integers(-3, 12) | st.integers(-(1 << 31), 1 << 31),  # ack
    st.binary(max_size=8) | st.integers(0, 6000).map(bytes),
)
EVENT = SEGMENT | st.sampled_from(["wait", "data", "shut", "credit"])


@settings(max_examples=300, deadline=None)
@given(st.lists(EVENT, max_size=25), st.booleans())
def test_no_segment_on_a_connection_raises_or_exceeds_the_credit(events, early):
    net = Net("tor")
    socket, flow = parked(net) if early else connected(net, credit=5000)
    granted, up, shut = 5000, 0, early
    if early:
        net.say(messages.OPENED, flow, 5000)
    for event in events:
        if event == "wait":
            net.wait(1.5)
        elif event == "credit":
            net.say(messages.CREDIT, flow, 1000)
            granted += 1000
        elif event in ("data", "shut"):
            if not shut:
                net.say(
                    messages.DATA if event == "data" else messages.SHUT,
                    flow,
                    payload=b"x" if event == "data" else None,
                )
                shut = event == "shut"
        else:
            flags, seq, ack, data = event
            base = socket.rcv_nxt if not early else 0
            net.frame(socket.raw(flags, socket.isn + 1 + seq, base + ack, data))
        up += sum(len(m.payload) for m in net.told("DATA") if m.flow == flow)
        assert up <= granted
        assert net.stack.half_open <= 1 + len(events)


def test_random_segments_of_many_connections_leave_nothing_behind():
    rng = random.Random(5)
    net = Net("tor", "socks5")
    for n in range(400):
        socket = Socket(net, FAMILIES[n % 2], local=1000 + n % 40, isn=rng.getrandbits(32)).syn()
        for _ in range(rng.randrange(4)):
            socket.send(bytes(rng.randrange(50)), rng.choice([0, 0, tcp.FIN, tcp.RST, tcp.SYN]))
        for message in net.told("OPEN"):
            if rng.random() < 0.7:
                net.say(messages.OPENED, message.flow, 5000, worker=message.worker)
    net.gone(b"w0")
    net.gone(b"w1")
    net.wait(300.0)
    assert not net.stack.connections
    assert net.stack.half_open == 0
    assert not net.stack._deadlines


# ---- memory ---------------------------------------------------------------------------------------


def _a_life(net: Net, local: int, how: int) -> None:
    """One connection from its SYN to its end, in one of several ways."""
    if how == 0:
        socket, flow = connected(net, local=local)
        socket.send_fin(b"request")
        net.say(messages.DATA, flow, payload=b"answer")
        net.say(messages.SHUT, flow)
        socket.send()
    elif how == 1:
        connected(net, local=local)[0].send_reset()
    elif how == 2:
        _, flow = parked(net, local=local)
        net.say(messages.REFUSED, flow, 4, 2, "")
    elif how == 3:
        socket, flow = connected(net, local=local)
        net.frame(socket.raw(tcp.ACK, socket.snd_nxt + 10, socket.rcv_nxt, b"ahead"))
        net.say(messages.DATA, flow, payload=b"unread")
        net.say(messages.RESET, flow, 1)
    elif how == 4:
        socket, ask = dns_stream(net, local)
        ask(b"\0\1\1\0\0\1\0\0\0\0\0\0\7example\5onion\0\0\1\0\1")
        ask(b"")
    elif how == 5:
        net.frame(frame_v4(b"x", damage=1))
        with pytest.raises(Malformed):
            net.say(messages.OPENED, 10_000_000, 1)
    else:
        Socket(net, local=local).syn()
        net.gone()
        net.told()
        net.join(b"w0")
    net.told()
    net.sockets.clear()
    net.other.clear()


def test_closed_connections_leave_no_cycles():
    """The process runs without the cycle collector."""
    net = Net("tor", resolver=("192.0.2.53", 53))
    for warm in range(7):
        _a_life(net, 100 + warm, warm)
    net.wait(200)
    gc.collect()
    gc.disable()
    try:
        for n in range(70):
            _a_life(net, 1000 + n, n % 7)
        net.wait(200)
        assert not net.stack.connections
        assert gc.collect() == 0
    finally:
        gc.enable()
