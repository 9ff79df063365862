# SPDX-License-Identifier: GPL-3.0-or-later
"""The account of a run: every byte that came in is somewhere, also where flows end badly."""

from __future__ import annotations

import struct

import hypothesis.strategies as st
import pytest
from dnslib import DNSRecord
from guest import FAMILIES, SERVER_V4, V4, Net, Socket, connected, parked
from hypothesis import given, settings

from avne.ipc import messages
from avne.ipc.messages import Code
from avne.netstack import account
from avne.netstack.account import question_name
from avne.netstack.wire import checksum, ip, tcp, udp, vnet

_HEADER = "!BBHHHBBH4s4s"


class Counting(Net):
    """Counts what the process would: frames, as they are read."""

    def frame(self, frame):
        self.stack.account.frames_in += 1
        self.stack.account.bytes_in += len(frame) - vnet.SIZE
        super().frame(frame)

    def account(self):
        return self.stack.account.sum(self.stack.connections.values(), self.stack.port53.leases())


def check(found):
    """The three sums."""
    assert sum(found["bytes"].values()) == found["tun"]["in"]["bytes"]
    assert sum(found["packets"].values()) == found["tun"]["in"]["packets"]
    up, down = found["up"], found["down"]
    assert up["accepted"] == up["to_upstream"] + up["discarded"]
    assert down["from_upstream"] == down["acknowledged"] + down["lost"]
    assert min(*up.values(), *down.values()) >= 0
    return found


def raw(protocol, dst=SERVER_V4, src=V4, payload=b"x" * 8, fragment=0):
    fields = [0x45, 0, 20 + len(payload), 0, fragment, 64, protocol, 0, src, dst]
    fields[7] = ~checksum.total(struct.pack(_HEADER, *fields)) & 0xFFFF
    return bytes(vnet.SIZE) + struct.pack(_HEADER, *fields) + payload


def test_every_kind_of_packet_has_its_line():
    net = Counting("socks5")
    net.frame(udp.build(V4, 5000, SERVER_V4, 443, b"quic"))
    net.frame(udp.build(V4, 5000, SERVER_V4, 9, b"other"))
    net.frame(udp.build(V4, 5353, bytes((224, 0, 0, 251)), 5353, b"mdns"))
    net.frame(raw(1, payload=bytes((8, 0, 0xF7, 0xFF, 0, 0, 0, 0))))
    net.frame(raw(253))
    net.frame(raw(253, src=bytes((192, 0, 2, 99))))
    net.frame(raw(17, payload=bytes(16), fragment=0x2000))
    net.frame(raw(17, payload=bytes(8), fragment=2))  # the last piece: the whole is no packet of its own
    net.frame(raw(ip.TCP, payload=b"short"))
    net.frame(b"nonsense")
    net.ask(bytes(DNSRecord.question("www.example").pack()))
    connected(net)
    found = check(net.account())
    assert found["packets"] == {
        "tcp": 2, "dns": 1, "udp": 2, "icmp": 1, "multicast": 1, "other": 1, "fragment": 2, "foreign": 1,
        "malformed": 2,
    }  # fmt: skip


@pytest.mark.parametrize("server", FAMILIES, ids=["v4", "v6"])
def test_text_both_ways_of_a_flow_that_is_open_and_then_ends(server):
    net = Counting("socks5")
    socket, flow = connected(net, server)
    socket.send(b"a" * 3000).send(b"b" * 2000)
    net.say(messages.DATA, flow, payload=b"c" * 7000)
    socket.send()
    for over in (False, True):
        if over:
            socket.send_fin()
            net.say(messages.SHUT, flow)
            socket.send()
            net.wait(60)
            assert not net.stack.connections
        found = check(net.account())
        assert found["up"] == {"accepted": 5000, "to_upstream": 5000, "discarded": 0}
        assert found["down"] == {"from_upstream": 7000, "acknowledged": 7000, "lost": 0}


def test_text_that_the_program_has_not_taken_is_lost():
    net = Counting("socks5")
    socket, flow = connected(net)
    net.say(messages.DATA, flow, payload=b"c" * 7000)
    socket.send_reset()
    assert check(net.account())["down"] == {"from_upstream": 7000, "acknowledged": 0, "lost": 7000}


def test_text_for_an_upstream_that_is_gone_is_discarded():
    """The worker's reset and the guest's text cross: both in one turn."""
    net = Counting("socks5")
    socket, flow = connected(net)
    socket.send(b"a" * 100)
    frame = socket.raw(tcp.ACK, socket.snd_nxt, socket.rcv_nxt, b"b" * 50)
    net.stack.account.frames_in += 1
    net.stack.account.bytes_in += len(frame) - vnet.SIZE
    net.stack.receive(frame, net.now)  # no flush yet
    net.say(messages.RESET, flow, int(Code.GENERAL_FAILURE))
    assert check(net.account())["up"] == {"accepted": 150, "to_upstream": 100, "discarded": 50}


def test_a_flow_that_is_refused_has_no_text():
    net = Counting("socks5")
    _, flow = parked(net)
    net.say(messages.REFUSED, flow, int(Code.CONNECTION_REFUSED), 0, "")
    found = check(net.account())
    assert found["up"]["accepted"] == found["down"]["from_upstream"] == 0


def test_counts_beyond_the_sequence_space():
    """4 GiB and more: the numbers wrap, the account does not."""
    net = Counting("socks5")
    socket, flow = connected(net, isn=0xFFFFFF00)
    socket.send(b"a" * 1000)
    (connection,) = net.stack.connections.values()
    lease = connection.app.lease
    lease.sent += 5 << 32  # as if it had gone on: the numbers are the same again
    lease.received += 3 << 32
    found = check(net.account())
    assert found["up"]["to_upstream"] == (5 << 32) + 1000
    assert found["down"]["acknowledged"] == 3 << 32
    net.gone()
    assert not net.stack.upstreams.workers
    assert flow


WORDS = ["send", "data", "ack", "credit", "again", "ahead", "fin", "shut", "reset", "rst"]
ACTIONS = st.lists(st.tuples(st.sampled_from(WORDS), st.integers(1, 3000)), max_size=25)


@given(ACTIONS, st.sampled_from(FAMILIES))
@settings(max_examples=60)
def test_the_sums_hold_whatever_happens(actions, server):
    net = Counting("socks5")
    socket, flow = connected(net, server, credit=1 << 16)
    last = (socket.snd_nxt, b"")
    for action, size in actions:
        lease = next(iter(net.stack.upstreams.workers[b"w0"].flows.values()), None)
        if action == "send" and not socket.fin:
            last = (socket.snd_nxt, b"u" * size)
            socket.send(last[1])
        elif action == "again":
            net.frame(socket.raw(tcp.ACK, last[0], socket.rcv_nxt, last[1]))
        elif action == "ahead":
            net.frame(socket.raw(tcp.ACK, socket.snd_nxt + 100, socket.rcv_nxt, b"v" * size))
        elif action == "ack":
            net.frame(socket.raw(tcp.ACK, socket.snd_nxt, socket.rcv_nxt))
        elif action == "fin":
            socket.send_fin()
        elif action == "rst":
            socket.send_reset()
        elif lease is not None and action == "data" and not lease._shut_received:
            net.say(messages.DATA, flow, payload=b"d" * min(size, lease.grant))
        elif lease is not None and action == "credit":
            net.say(messages.CREDIT, flow, min(size, messages.CREDIT_MAX - lease.up_credit) or 1)
        elif lease is not None and action == "shut" and not lease._shut_received:
            net.say(messages.SHUT, flow)
        elif lease is not None and action == "reset":
            net.say(messages.RESET, flow, 1)
        check(net.account())
    net.wait(200)
    check(net.account())


def test_names_are_kept_only_where_they_may_be():
    for keep in (False, True):
        net = Counting("socks5")
        net.stack.account.keep_names = keep
        for name in ("one.example", "two.example", "one.example"):
            net.ask(bytes(DNSRecord.question(name).pack()))
        assert check(net.account())["names"] == (["one.example", "two.example"] if keep else None)


def test_kept_names_are_bounded():
    net = Counting("socks5")
    net.stack.account.keep_names = True
    for n in range(account.MAX_NAMES + 10):
        net.stack.account.asked(bytes(DNSRecord.question(f"n{n}.example").pack()))
    assert len(net.account()["names"]) == account.MAX_NAMES


@given(st.binary(max_size=100))
def test_a_question_of_any_bytes_has_a_name_of_sorts(wire):
    assert len(question_name(wire)) <= 255


def test_unconnected_sockets_are_no_flows():
    net = Counting("socks5")
    Socket(net).syn()
    assert check(net.account())["up"]["accepted"] == 0
