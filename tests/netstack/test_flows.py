# SPDX-License-Identifier: GPL-3.0-or-later
"""The relay: what the guest's socket sees of its flow, and what the worker sees of the guest."""

from __future__ import annotations

import ipaddress

import pytest
from guest import FAMILIES, SERVER_V6, Net, Socket, connected, parked

from avne.ipc import messages
from avne.ipc.messages import Code
from avne.ipc.verdict import Verdict
from avne.limits import CREDIT_MAX, CREDIT_MIN, MAX_PAYLOAD
from avne.netstack import addresses
from avne.netstack.flows import SILENCE_SECONDS
from avne.netstack.tcp.connection import RESET_GRACE
from avne.netstack.wire import tcp

ICMP = {  # (ICMPv4 type, code), (ICMPv6 type, code)
    Verdict.NETWORK_UNREACHABLE: ((3, 0), (1, 0)),
    Verdict.HOST_UNREACHABLE: ((3, 1), (1, 3)),
    Verdict.PROHIBITED: ((3, 13), (1, 1)),
}


# ---- connect truth -------------------------------------------------------------------


@pytest.mark.parametrize("server", FAMILIES, ids=["v4", "v6"])
def test_a_syn_waits_for_its_upstream_and_is_answered_by_it(server):
    net = Net("tor")
    socket = Socket(net, server).syn()
    (opening,) = net.told()
    assert opening[:2] == (b"w0", "OPEN")
    assert opening.fields == [str(ipaddress.ip_address(server)), 80, CREDIT_MIN, ""]
    net.wait(60)
    assert not socket.inbox
    net.say(messages.OPENED, opening.flow, 50_000)
    (answer,) = socket.segments()
    assert (answer.flags, answer.ack, answer.wnd) == (tcp.SYN | tcp.ACK, socket.isn + 1, 50_000)
    assert net.stack.half_open == 0


@pytest.mark.parametrize("server", FAMILIES, ids=["v4", "v6"])
@pytest.mark.parametrize("code", [0x05, 0xF3, 0x1403])
@pytest.mark.parametrize("what", Verdict)
def test_connect_reports_what_the_worker_says(what, code, server):
    net = Net("tor")
    socket, flow = parked(net, server)
    syn = socket.raw(tcp.SYN, socket.isn, options=tcp.syn_options(1460, 0, True))
    net.say(messages.REFUSED, flow, code, int(what), "why")
    errors = net.unreachable()
    if what is Verdict.REFUSED:
        (answer,) = socket.segments()
        assert (answer.flags, answer.seq, answer.ack) == (tcp.RST | tcp.ACK, 0, socket.isn + 1)
        assert not errors
    elif what is Verdict.SILENCE:
        assert not errors
    else:
        ((*found, quote),) = errors
        assert tuple(found) == ICMP[what][server == SERVER_V6]
        assert syn[10:].startswith(quote)
        assert len(quote) >= 28
    assert not socket.inbox
    assert net.stack.half_open == 0
    assert not net.told()
    assert net.stack.counters[f"refused-{code:#04x}"] == 1


def test_silence_stays_silent_until_the_guest_has_given_up():
    net = Net("socks5")
    socket, flow = parked(net)
    net.say(messages.REFUSED, flow, Code.TTL_EXPIRED, 4, "")
    for pause in (1, 2, 4, 8, 16, 32, 64):
        net.wait(pause)
        socket.syn()
    assert not socket.inbox
    assert not net.told()
    net.wait(SILENCE_SECONDS)
    assert not net.stack.connections
    socket.syn()
    assert net.names() == ["OPEN"]


def test_a_repeated_syn_costs_one_open():
    net = Net("tor")
    socket, flow = parked(net)
    for pause in (1, 2, 4, 8):
        net.wait(pause)
        socket.syn()
    assert not net.told()
    assert net.stack.half_open == 1
    net.say(messages.OPENED, flow, 1000)
    assert len(socket.inbox) == 1


def test_a_port_used_again_while_parked_gives_the_first_up():
    net = Net("tor")
    _, flow = parked(net)
    again = Socket(net, isn=99_999).syn()
    reset, opening = net.told()
    assert (reset.name, reset.flow) == ("RESET", flow)
    assert opening.name == "OPEN"
    assert opening.flow != flow
    assert net.stack.half_open == 1
    net.say(messages.OPENED, flow, 1000)  # it crossed the RESET
    assert not again.inbox
    net.say(messages.OPENED, opening.flow, 1000)
    assert [s.ack for s in again.segments()] == [100_000]


def test_a_guest_that_gives_up_while_parked_resets_the_flow():
    net = Net("tor")
    socket, flow = parked(net)
    socket.send_reset()
    (message,) = net.told()
    assert (message.name, message.flow) == ("RESET", flow)
    assert net.stack.half_open == 0
    assert not net.stack.connections


def test_the_gateway_itself_has_no_services():
    for gateway in addresses.GATEWAY:
        net = Net("tor")
        socket = Socket(net, gateway, 22).syn()
        assert socket.reset
        assert not net.told()
        assert net.stack.half_open == 0


def test_without_a_worker_the_guest_tries_again():
    net = Net()
    socket = Socket(net).syn()
    assert not socket.inbox
    assert net.stack.counters["no-worker"] == 1
    assert net.stack.half_open == 0
    net.join(b"w0", "tor")
    net.wait(1)
    socket.syn()
    assert net.names() == ["OPEN"]


# ---- mapped names ------------------------------------------------------------------------


@pytest.mark.parametrize("family", [0, 1])
def test_a_mapped_address_is_opened_by_name_and_kept_while_the_flow_lives(family):
    net = Net("tor")
    names = net.stack.port53.names
    mapped = names.map("example.onion", 300, net.now)[family]
    assert addresses.is_mapped(mapped)
    socket, flow = parked(net, mapped)
    socket.syn()  # again, and it is held once
    assert list(names._holds.values()) == [1]
    net.say(messages.OPENED, flow, 1000)
    socket.send()
    net.say(messages.RESET, flow, 0)
    assert socket.reset
    assert not names._holds


def test_a_name_is_what_the_worker_opens():
    net = Net("tor")
    mapped = net.stack.port53.names.map("example.onion", 300, net.now)[0]
    Socket(net, mapped, 443).syn()
    (opening,) = net.told()
    assert opening.fields[:2] == ["example.onion", 443]


@pytest.mark.parametrize("family", [0, 1])
def test_a_mapped_address_without_a_name_is_unreachable(family):
    net = Net("tor")
    address = (bytes((198, 18, 7, 7)), bytes.fromhex("fd61766e65000001") + bytes(7) + b"\7")[family]
    Socket(net, address).syn()
    assert not net.stack.port53.names._holds
    assert [e[:2] for e in net.unreachable()] == [ICMP[Verdict.HOST_UNREACHABLE][family]]
    assert not net.told()
    assert not net.stack.connections


# ---- up ------------------------------------------------------------------------------------


def test_bytes_go_up_in_one_message_per_turn_and_the_window_is_the_credit():
    net = Net("tor")
    socket, flow = connected(net, credit=65536)
    for n in range(3):
        frame = socket.raw(tcp.ACK, socket.snd_nxt, socket.rcv_nxt, bytes([n]) * 1000)
        net.stack.receive(frame, net.now)
        socket.snd_nxt += 1000
    net.turn()
    assert net.told() == [(b"w0", "DATA", flow, [], b"\0" * 1000 + b"\1" * 1000 + b"\2" * 1000)]
    assert [s.ack for s in socket.segments()] == [socket.snd_nxt]
    assert socket.window == (65536 - 3000) >> 8 << 8


def test_a_lot_of_bytes_go_up_in_messages_of_bounded_size():
    net = Net("tor")
    socket, _ = connected(net, credit=CREDIT_MAX)
    for _ in range(10):
        net.stack.receive(socket.raw(tcp.ACK, socket.snd_nxt, socket.rcv_nxt, bytes(60_000)), net.now)
        socket.snd_nxt += 60_000
    net.turn()
    sizes = [len(m.payload) for m in net.told("DATA")]
    assert sum(sizes) == 600_000
    assert max(sizes) <= MAX_PAYLOAD


def test_never_more_than_granted_goes_up():
    net = Net("tor")
    socket, flow = connected(net, credit=10_000)
    socket.send(bytes(20_000))
    assert [len(m.payload) for m in net.told("DATA")] == [10_000]
    socket.snd_nxt -= 10_000
    assert socket.window == 0
    assert socket.segments()[-1].ack == socket.snd_nxt
    socket.send(b"more")  # beyond the window: a probe
    assert not net.told()
    assert socket.segments()[-1].wnd == 0
    net.say(messages.CREDIT, flow, 30_000)
    assert socket.window == 30_000 >> 8 << 8


def test_fin_goes_up_as_shut_behind_the_data():
    net = Net("tor")
    socket, flow = connected(net)
    socket.send_fin(b"the end")
    assert net.told() == [(b"w0", "DATA", flow, [], b"the end"), (b"w0", "SHUT", flow, [], None)]
    net.say(messages.DATA, flow, payload=b"the whole answer")
    net.say(messages.SHUT, flow)
    assert bytes(socket.data) == b"the whole answer"
    assert socket.fin
    socket.send()
    assert not net.stack.connections
    assert not net.told()


def test_reset_goes_up():
    net = Net("tor")
    socket, flow = connected(net)
    socket.send_reset()
    assert net.told() == [(b"w0", "RESET", flow, [0], None)]
    assert not net.stack.connections
    net.say(messages.DATA, flow, payload=b"crossed")
    assert not socket.inbox


def test_what_came_before_a_reset_goes_up_first():
    net = Net("tor")
    socket, flow = connected(net)
    for frame in (
        socket.raw(tcp.ACK, socket.snd_nxt, socket.rcv_nxt, b"never mind"),
        socket.raw(tcp.RST, socket.snd_nxt + 10),
    ):
        net.stack.receive(frame, net.now)
    net.turn()
    assert net.told() == [(b"w0", "DATA", flow, [], b"never mind"), (b"w0", "RESET", flow, [0], None)]


# ---- down ----------------------------------------------------------------------------------


def test_bytes_come_down_and_credit_goes_back_as_the_guest_acknowledges():
    net = Net("tor")
    socket, flow = connected(net)
    socket.wnd = 65535
    allowed = CREDIT_MIN
    sent = 0
    while sent < 4 * CREDIT_MAX:
        size = min(allowed, MAX_PAYLOAD)
        net.say(messages.DATA, flow, payload=bytes(size))
        allowed, sent = allowed - size, sent + size
        told = net.told()
        if not allowed:
            assert not told, "nothing has been acknowledged yet"
            while len(socket.data) < sent or not told:
                socket.send()
                told += net.told()
        for message in told:
            assert (message.name, message.flow) == ("CREDIT", flow)
            allowed += message.fields[0]
    assert allowed <= CREDIT_MAX
    with pytest.raises(messages.Malformed, match="wire-credit"):
        net.say(messages.DATA, flow, payload=bytes(allowed + 1))


def test_a_guest_that_does_not_read_stops_the_flow_of_credit():
    net = Net("tor")
    socket, flow = connected(net)
    socket.wnd = 0
    socket.send()
    net.say(messages.DATA, flow, payload=bytes(CREDIT_MIN))
    for _ in range(50):
        net.wait(60)
        socket.send()
    assert not socket.data
    assert not net.told()
    assert not socket.reset


def test_the_servers_end_is_a_fin_after_the_data():
    net = Net("tor")
    socket, flow = connected(net)
    net.stack.handle(b"w0", messages.encode(messages.DATA, flow), b"answer", net.now)
    net.say(messages.SHUT, flow)
    (segment,) = socket.segments()
    assert (bytes(segment.payload), segment.flags & tcp.FIN) == (b"answer", tcp.FIN)
    socket.send(b"still going up")
    assert net.told() == [(b"w0", "DATA", flow, [], b"still going up")]
    socket.send_fin()
    assert net.names() == ["SHUT"]
    net.wait(2.0)
    assert not net.stack.connections


@pytest.mark.parametrize("code", [Code.SUCCEEDED, Code.GENERAL_FAILURE, Code.UPSTREAM_DOWN])
def test_a_reset_of_the_worker_resets_the_guest(code):
    net = Net("tor")
    socket, flow = connected(net)
    net.say(messages.RESET, flow, code)
    (segment,) = socket.segments()
    assert (segment.flags, segment.seq) == (tcp.RST | tcp.ACK, socket.rcv_nxt)
    assert not net.told()
    assert not net.stack.connections


def _in_one_turn(net, *said):
    for message, payload in said:
        net.stack.handle(b"w0", messages.encode(*message), payload, net.now)
    net.turn()


def test_a_reset_follows_the_data_before_it():
    net = Net("tor")
    socket, flow = connected(net)
    _in_one_turn(net, ((messages.DATA, flow), b"last words"), ((messages.RESET, flow, 1), None))
    data, reset = socket.segments()
    assert bytes(data.payload) == b"last words"
    assert (reset.flags, reset.seq) == (tcp.RST | tcp.ACK, socket.rcv_nxt)
    assert not net.stack.connections


def test_a_reset_follows_the_end_before_it():
    """FIN and then RST: the guest reads an end of file, and its writes fail."""
    net = Net("tor")
    socket, flow = connected(net)
    _in_one_turn(
        net, ((messages.DATA, flow), b"all"), ((messages.SHUT, flow), None), ((messages.RESET, flow, 1), None)
    )
    assert bytes(socket.data) == b"all"
    assert socket.fin
    assert socket.reset


def test_a_reset_waits_for_the_handshake():
    """Else connect(2) fails, and the data before the reset is lost."""
    net = Net("tor")
    socket, flow = parked(net)
    _in_one_turn(
        net,
        ((messages.OPENED, flow, 1000), None),
        ((messages.DATA, flow), b"last words"),
        ((messages.RESET, flow, 1), None),
    )
    assert [segment.flags for segment in socket.segments()] == [tcp.SYN | tcp.ACK]
    socket.send(b"hello")
    assert bytes(socket.data) == b"last words"
    assert socket.reset
    assert net.told() == []


@pytest.mark.parametrize("stalled", [0.0, 300.0])
def test_a_reset_waits_for_a_window_but_not_for_long(stalled):
    """… however rare the probes of a window have become that was closed for long."""
    net = Net("tor")
    socket, flow = connected(net)
    socket.wnd = 0
    socket.send()
    net.say(messages.DATA, flow, payload=b"last words")
    for _ in range(int(stalled)):
        net.wait(1.0)
        socket.send()
    net.say(messages.RESET, flow, 1)
    net.wait(RESET_GRACE - 0.1)
    assert not socket.reset
    net.wait(0.2)
    assert not socket.data
    assert socket.reset
    assert not net.stack.connections


def test_a_guest_that_reads_gets_everything_before_a_reset():
    """Slowly: each time within the grace."""
    net = Net("tor")
    socket, flow = connected(net)
    socket.wnd = 0
    socket.send()
    _in_one_turn(net, ((messages.DATA, flow), bytes(15_000)), ((messages.RESET, flow, 1), None))
    socket.wnd = 3000
    rounds = 0
    while not socket.reset:
        assert rounds < 20
        socket.send()
        net.wait(RESET_GRACE * 0.9)
        rounds += 1
    assert len(socket.data) == 15_000
    assert rounds >= 5


def test_a_reset_before_the_flow_is_open_refuses_it():
    net = Net("tor")
    socket, flow = parked(net)
    net.say(messages.RESET, flow, Code.UPSTREAM_DOWN)
    assert socket.reset
    assert net.stack.half_open == 0


def test_crumbs_of_a_server_cost_no_more_memory_than_what_is_in_them():
    net = Net("tor")
    socket, flow = connected(net)
    socket.wnd = 0
    socket.send()
    for n in range(3000):
        net.say(messages.DATA, flow, payload=bytes([n & 255]))
    (connection,) = net.stack.connections.values()
    assert len(connection.unsent) < 100
    socket.wnd = 5000
    socket.send()
    assert bytes(socket.data) == bytes(n & 255 for n in range(3000))


# ---- the end ---------------------------------------------------------------------------------


def test_a_connection_that_was_never_opened_is_owed_nothing():
    """Its program has ended while a worker still looked for a way: no byte can have been sent."""
    net = Net("tor")
    Socket(net).syn()
    assert net.stack.half_open == 1
    assert net.stack.owing() == 0


def test_what_is_owed_at_the_end():
    net = Net("tor")
    assert net.stack.owing() == 0
    socket, flow = connected(net)
    connected(net, local=40001)
    assert net.stack.owing() == 2
    socket.send_fin(b"last words")
    assert net.stack.owing() == 1
    assert [m.name for m in net.told() if m.flow == flow] == ["DATA", "SHUT"]
    net.stack.upstreams.drain()
    net.turn()
    assert net.told() == [(b"w0", "DRAIN", 0, [], None)]
