# SPDX-License-Identifier: GPL-3.0-or-later
"""DNS at the edge: datagrams and streams of the guest, RESOLVE and the stream to a server."""

from __future__ import annotations

import pytest
from dnslib import QTYPE, RR, A, DNSHeader, DNSQuestion, DNSRecord
from guest import FAMILIES, Net, Socket, dns_stream

from avne.ipc import messages
from avne.ipc.messages import Code
from avne.limits import DNS_MAX_UDP
from avne.netstack import addresses
from avne.netstack.dns.framing import Framing, frame_reply
from avne.netstack.wire import ip, udp

SERVER = ("192.0.2.53", 53)


def _query(name: str = "example.com", number: int = 7, qtype: str = "A") -> bytes:
    return bytes(DNSRecord(DNSHeader(id=number, rd=1), q=DNSQuestion(name, getattr(QTYPE, qtype))).pack())


def _answers(stream: bytes) -> list[DNSRecord]:
    framing = Framing(65535)
    return [DNSRecord.parse(wire) for wire in framing.feed(stream)]


def _replies(net: Net) -> list[DNSRecord]:
    return [DNSRecord.parse(datagram.data) for datagram in net.datagrams()]


# ---- the guest's side ------------------------------------------------------------------


@pytest.mark.parametrize("server", [*addresses.GATEWAY, *FAMILIES])
@pytest.mark.rfc("1122", "3.3.4.2-1")
@pytest.mark.rfc("1122", "4.1.3.5-1")
@pytest.mark.rfc("1122", "4.1.3.6-2")
def test_a_query_to_any_address_is_answered_from_there(server):
    net = Net("tor")
    net.ask(_query(), server, port=1234)
    (resolve,) = net.told()
    assert (resolve.name, resolve.fields) == ("RESOLVE", [0, "example.com", ""])
    net.say(messages.RESOLVED, resolve.flow, 0, ["192.0.2.1"], 60)
    (frame,) = net.other
    assert ip.parse(frame).src == server
    (datagram,) = net.datagrams()
    assert (datagram.src_port, datagram.dst_port) == (53, 1234)
    reply = DNSRecord.parse(datagram.data)
    assert reply.header.id == 7
    assert str(reply.rr[0].rdata) == "192.0.2.1"
    assert net.stack.counters["dns-query"] == 1


def test_a_query_that_is_too_large_is_not_parsed():
    net = Net("tor")
    net.ask(bytes(DNS_MAX_UDP + 1))
    assert not net.other
    assert net.stack.counters["malformed-dns-size"] == 1


def test_a_stream_of_queries_is_answered_on_the_stream():
    net = Net("tor")
    socket, ask = dns_stream(net)
    ask(_query("a.onion", 1))
    socket.send(frame_reply(_query("b.onion", 2))[:5])  # in pieces
    socket.send(frame_reply(_query("b.onion", 2))[5:])
    replies = _answers(bytes(socket.data))
    assert [r.header.id for r in replies] == [1, 2]
    assert not socket.fin


def test_the_window_of_a_stream_stays_open():
    net = Net("tor")
    socket, ask = dns_stream(net)
    for n in range(3000):
        ask(_query("a.onion", n))
        socket.data.clear()
    assert socket.window > 60_000
    assert not socket.reset


def test_a_client_that_has_asked_its_last_gets_its_answers():
    net = Net("tor")
    socket, _ = dns_stream(net)
    socket.send_fin(frame_reply(_query(number=9)))
    (resolve,) = net.told()
    assert not socket.fin
    net.say(messages.RESOLVED, resolve.flow, 0, ["192.0.2.1"], 60)
    assert [r.header.id for r in _answers(bytes(socket.data))] == [9]
    assert socket.fin
    socket.send()
    assert not net.stack.connections


def test_a_client_that_asks_nothing_is_closed_with_it():
    net = Net("tor")
    socket, _ = dns_stream(net)
    socket.send_fin()
    assert socket.fin
    socket.send()
    assert not net.stack.connections


@pytest.mark.parametrize("stream", [b"\0\0", b"\xff\xff" + bytes(10), b"\0\3abc"])
def test_a_stream_that_is_no_dns_is_reset(stream):
    net = Net("tor")
    socket, _ = dns_stream(net)
    socket.send(stream)
    assert socket.reset
    assert sum(n for reason, n in net.stack.counters.items() if reason.startswith("malformed-")) == 1
    assert not net.stack.connections


def test_an_answer_for_a_stream_that_is_gone_is_dropped():
    net = Net("tor")
    socket, ask = dns_stream(net)
    ask(_query())
    (resolve,) = net.told()
    socket.send_reset()
    socket.segments()
    net.say(messages.RESOLVED, resolve.flow, 0, ["192.0.2.1"], 60)
    assert not socket.inbox


def test_a_client_that_reads_none_of_its_answers_is_reset():
    """Otherwise it could fill our memory with them."""
    net = Net("tor")
    socket, ask = dns_stream(net)
    socket.wnd = 0
    for n in range(20_000):
        if socket.reset:
            break
        ask(_query("a.onion", n & 0xFFFF))
    assert socket.reset
    assert net.stack.counters["dns-unread"] == 1
    assert not net.stack.connections


# ---- RESOLVE -----------------------------------------------------------------------------


def test_without_a_worker_there_is_an_answer_all_the_same():
    net = Net()
    net.ask(_query())
    assert [r.header.rcode for r in _replies(net)] == [2]


def test_a_worker_that_dies_leaves_no_query_without_answer():
    net = Net("tor", "tor")
    net.ask(_query())
    (resolve,) = net.told("RESOLVE")
    net.gone(resolve.worker)
    assert [r.header.rcode for r in _replies(net)] == [2]
    other = b"w0" if resolve.worker == b"w1" else b"w1"
    net.say(messages.RESOLVED, resolve.flow, 0, ["192.0.2.1"], 60, worker=other)  # was not asked
    assert not net.other


def test_the_last_worker_goes_between_the_question_and_the_turn():
    net = Net("tor")
    net.stack.receive(udp.build(addresses.TUN[0], 1, addresses.GATEWAY[0], 53, _query()), net.now)
    net.stack.upstreams.workers.clear()
    net.turn()
    assert [r.header.rcode for r in _replies(net)] == [2]


def test_a_query_that_nobody_answers_times_out():
    net = Net("tor")
    net.ask(_query())
    net.wait(60)
    assert [r.header.rcode for r in _replies(net)] == [2]


# ---- the stream to a server -----------------------------------------------------------------


def _asked(net: Net) -> tuple[int, DNSRecord]:
    """A question that only the server can answer has been asked: its flow, and what it carries."""
    net.ask(_query(qtype="MX"))
    (opening,) = net.told("OPEN")
    assert opening.fields[:2] == list(SERVER)
    net.say(messages.OPENED, opening.flow, 1000)
    ((_, _, flow, _, payload),) = net.told("DATA")
    assert flow == opening.flow
    (question,) = _answers(payload)
    return flow, question


def _reply(question: DNSRecord) -> bytes:
    reply = question.reply()
    reply.add_answer(RR("example.com", QTYPE.A, rdata=A("192.0.2.9"), ttl=5))
    reply.header.ra = 1
    return frame_reply(bytes(reply.pack()))


def test_a_server_is_asked_over_a_flow_of_our_own():
    net = Net("tor", resolver=SERVER)
    flow, question = _asked(net)
    wire = _reply(question)
    net.say(messages.DATA, flow, payload=wire[:10])
    net.say(messages.DATA, flow, payload=wire[10:])
    assert [r.header.rcode for r in _replies(net)] == [0]


def test_no_more_is_sent_to_a_server_than_it_has_granted():
    net = Net("tor", resolver=SERVER)
    net.ask(_query(qtype="MX"))
    (opening,) = net.told("OPEN")
    net.say(messages.OPENED, opening.flow, 5)
    sent = b"".join(m.payload for m in net.told("DATA"))
    assert len(sent) == 5
    net.say(messages.CREDIT, opening.flow, 3)
    sent += b"".join(m.payload for m in net.told("DATA"))
    assert len(sent) == 8
    net.say(messages.CREDIT, opening.flow, 1000)
    sent += b"".join(m.payload for m in net.told("DATA"))
    assert len(_answers(sent)) == 1


def test_a_server_that_cannot_be_reached_is_reported():
    net = Net("tor", resolver=SERVER)
    net.stack.logs.clear()
    net.ask(_query(qtype="MX"))
    _refuse_all(net)
    assert [r.header.rcode for r in _replies(net)] == [2]
    assert [event for _, event, _ in net.stack.logs] == ["dns-resolver-unreachable"]
    assert not net.stack.port53.streams


@pytest.mark.parametrize("end", ["shut", "reset", "gone"])
def test_a_server_stream_that_ends_leaves_no_query_without_answer(end):
    net = Net("tor", resolver=SERVER)
    flow, _ = _asked(net)
    if end == "shut":
        net.say(messages.SHUT, flow)
    elif end == "reset":
        net.say(messages.RESET, flow, Code.GENERAL_FAILURE)
    else:
        net.gone()
    _refuse_all(net)
    net.wait(60)
    assert {r.header.rcode for r in _replies(net)} == {2}
    assert not net.stack.port53.streams
    assert net.stack.upstreams.flows == 0


def _refuse_all(net: Net) -> None:
    """The server cannot be reached, however often it is tried."""
    while opened := net.told("OPEN"):
        for message in opened:
            net.say(messages.REFUSED, message.flow, Code.HOST_UNREACHABLE, 2, "")


def test_an_idle_server_stream_is_closed():
    net = Net("tor", resolver=SERVER)
    flow, question = _asked(net)
    net.say(messages.DATA, flow, payload=_reply(question))
    net.told()
    net.wait(300)
    ended = [m for m in net.told() if m.name in ("RESET", "SHUT")]
    assert [m.flow for m in ended] == [flow]
    assert not net.stack.port53.streams


def test_guests_may_share_a_port_number_with_the_resolver():
    net = Net("tor")
    socket = Socket(net, FAMILIES[0], 53, local=53).syn()
    assert len(socket.inbox) == 1
    assert not net.told()
