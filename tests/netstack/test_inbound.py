# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections from outside to a program inside: the socket is one of a real pair, the program the test."""

from __future__ import annotations

import contextlib
import random
import socket as sockets
import struct

import pytest
from guest import V4, Socket
from test_sockets import LARGE, LocalNet, at_once

from avne.limits import CREDIT_FIRST, CREDIT_MAX, CREDIT_MIN, MAX_FLOWS, TUN_MTU
from avne.netstack import addresses, inbound
from avne.netstack.tcp import state
from avne.netstack.wire import tcp

GATEWAY = addresses.GATEWAY[0]
PORT = 80
LINGER_ZERO = struct.pack("ii", 1, 0)
_FAILING_SECONDS = 200  # 183 of them, tcp/timers.py


class Listener(Socket):
    """The program's end of the connection that has come last."""

    def __init__(self, net: LocalNet) -> None:
        (self.connection,) = (c for c in net.stack.connections.values() if c.state is state.SYN_SENT)
        key = self.connection.key
        assert key[:8] == V4 + GATEWAY
        local, port = (int.from_bytes(key[at : at + 2], "big") for at in (8, 10))
        super().__init__(net, GATEWAY, port, local)

    def segments(self) -> list[tcp.Segment]:
        got, self.inbox = self.inbox, []
        return got

    def accept(self) -> Listener:
        """SYN-ACK: the kernel does so before accept(2)."""
        self.rcv_nxt = (self.connection.iss + 1) & 0xFFFFFFFF
        self.snd_nxt = (self.isn + 1) & 0xFFFFFFFF
        options = tcp.syn_options(1460, 7, True)
        self.net.frame(self.raw(tcp.SYN | tcp.ACK, self.isn, self.rcv_nxt, options=options))
        return self

    def refuse(self) -> None:
        self.net.frame(self.raw(tcp.RST | tcp.ACK, 0, self.connection.iss + 1))


@pytest.fixture
def net():
    net = LocalNet()
    yield net
    net.close()


@pytest.fixture
def tcp_ends():
    """Two ends of a TCP connection on loopback; the second is to be taken."""
    with sockets.create_server(("127.0.0.1", 0)) as server:
        theirs = sockets.create_connection(server.getsockname())
        ours, _ = server.accept()
    with theirs:
        yield theirs, ours


def comes(
    net: LocalNet, port: int = PORT, ends: tuple[sockets.socket, sockets.socket] | None = None
) -> tuple[Listener, sockets.socket]:
    """Somebody connects: the program's end, and theirs."""
    theirs, ours = ends or sockets.socketpair()
    theirs.settimeout(10)
    net.stack.inbound.take([ours.detach()], port, net.now)
    listener = Listener(net)
    net.turn()
    return listener, theirs


def connected(net: LocalNet) -> tuple[Listener, sockets.socket]:
    listener, theirs = comes(net)
    listener.accept().segments()
    return listener, theirs


def gone(net: LocalNet) -> None:
    """Nothing is left of it, and the supervisor hears."""
    net.wait(2)  # TIME-WAIT
    net.settle()
    assert not net.stack.connections
    assert not len(net.streams)
    assert net.stack.upstreams.budget.held == 0
    assert net.stack.inbound.news()[1] == 1


# ---- the opening (RFC 9293 §3.10.1, §3.10.7.3) ---------------------------------------------------


@pytest.mark.rfc("9293", "MUST-67")
def test_a_syn_from_the_gateway_and_the_ack_of_its_answer(net):
    listener, theirs = comes(net, 8080)
    with theirs:
        (syn,) = listener.segments()
        assert (syn.flags, syn.ack, syn.wnd) == (tcp.SYN, 0, 0xFFFF)
        assert listener.local == 8080
        assert listener.port >= 32768
        assert syn.options == tcp.Options(TUN_MTU - 40, 8, True)
        listener.accept()
        (ack,) = listener.segments()
        assert (ack.flags, ack.ack, ack.wnd << 8) == (tcp.ACK, listener.isn + 1, CREDIT_FIRST)
        assert net.stack.counters["inbound-opened"] == 1
        assert net.stack.inbound.news() == (1, 0)


def test_a_port_that_the_program_does_not_listen_on(net):
    listener, theirs = comes(net)
    with theirs:
        theirs.send(b"GET / HTTP/1.0\r\n\r\n")
        net.turn()
        listener.refuse()
        net.settle()
        assert theirs.recv(1) == b""  # a unix socket knows no reset
        gone(net)
        assert net.stack.counters["inbound-refused"] == 1


@pytest.mark.rfc("9293", "MUST-23")
def test_a_port_that_does_not_answer(net):
    listener, theirs = comes(net)
    with theirs:
        net.wait(_FAILING_SECONDS)
        syns = listener.segments()
        assert len(syns) == 8
        assert all(syn.flags == tcp.SYN and syn.seq == syns[0].seq for syn in syns)
        assert theirs.recv(1) == b""
        gone(net)


def test_what_came_before_the_program_took_it_goes_behind_the_handshake(net):
    listener, theirs = comes(net)
    with theirs:
        theirs.send(b"early")
        net.turn()
        net.wait(1.5)
        assert all(segment.flags == tcp.SYN for segment in listener.segments())
        listener.accept().send()
        assert listener.data == b"early"


def test_who_goes_before_the_program_has_answered(net):
    """Its bytes and its end are the program's all the same."""
    listener, theirs = comes(net)
    theirs.send(b"bye")
    theirs.close()
    net.settle()
    listener.accept().send()
    assert (listener.data, listener.fin) == (b"bye", True)
    listener.send_fin()
    gone(net)


def test_more_of_them_have_ports_of_their_own(net):
    ends = [connected(net) for _ in range(50)]
    assert len({listener.port for listener, _ in ends}) == 50
    for number, (listener, theirs) in enumerate(ends):
        theirs.send(b"%d" % number)
        net.turn()
        assert listener.data == b"%d" % number
        theirs.close()


def test_where_every_port_is_taken_it_is_refused(net, monkeypatch):
    monkeypatch.setattr(inbound, "_PORTS", 1)
    _, first = comes(net)
    theirs, ours = sockets.socketpair()
    with first, theirs:
        net.stack.inbound.take([ours.detach()], PORT, net.now)
        net.settle()
        assert theirs.recv(1) == b""
        assert net.stack.inbound.news() == (2, 1)
        assert net.stack.counters["inbound-dropped"] == 1


def test_no_more_than_all_flows_together(net):
    net.stack.connections.update({b"%d" % n: None for n in range(MAX_FLOWS)})
    theirs, ours = sockets.socketpair()
    with theirs:
        net.stack.inbound.open(ours, PORT, net.now)
        net.stack.connections.clear()
        net.settle()
        assert theirs.recv(1) == b""
        assert net.stack.inbound.news()[1] == 1


def test_a_descriptor_that_is_missing_or_no_stream(net, tmp_path):
    net.stack.inbound.take([], PORT, net.now)
    with open(tmp_path / "file", "w") as file, pytest.raises(OSError, match="socket"):
        sockets.socket(fileno=file.fileno())
    assert net.stack.inbound.news() == (1, 1)
    net.settle()
    assert not net.stack.connections


# ---- bytes ---------------------------------------------------------------------------------------


def test_bytes_both_ways_are_whole_and_counted(net):
    listener, theirs = connected(net)
    with theirs:
        up = bytes(range(256)) * 1000
        for at in range(0, len(up), 16000):
            listener.send(up[at : at + 16000])
            net.settle()
            assert theirs.recv(16000, sockets.MSG_WAITALL) == up[at : at + 16000]
        theirs.sendall(up[:100_000])
        assert net.download(listener, 100_000) == up[:100_000]
        account = net.stack.account.sum([], [])
        assert account["inbound"] == {"from_program": len(up), "to_program": 100_000}
        assert account["up"]["accepted"] == account["down"]["from_upstream"] == 0


def test_who_does_not_read_stops_the_program(net):
    """Backpressure: the window closes, and nothing is held beyond what was granted."""
    listener, theirs = connected(net)
    with theirs:
        sent = 0
        for _ in range(400):
            window = (listener.connection.rcv_adv - listener.connection.rcv_nxt) & 0xFFFFFFFF
            if not window:
                break
            listener.send(bytes(min(window, LARGE)))
            sent += min(window, LARGE)
        assert listener.window == 0
        in_kernel = 1 << 20
        assert CREDIT_FIRST <= sent <= CREDIT_MAX + in_kernel
        got = 0
        for _ in range(200):
            with contextlib.suppress(BlockingIOError):
                got += len(at_once(theirs))
            net.settle()
            if got == sent:
                break
        assert got == sent
        assert listener.window > 0


def test_a_program_that_does_not_read_stops_who_came(net):
    listener, theirs = comes(net)
    with theirs:
        listener.wnd = 0
        listener.accept()
        theirs.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            for _ in range(200):
                theirs.send(bytes(65536))
                net.settle()
        assert listener.connection.unsent_bytes <= CREDIT_MIN
        assert not listener.data


# ---- ends ----------------------------------------------------------------------------------------


def test_both_sides_end(net):
    listener, theirs = connected(net)
    with theirs:
        theirs.send(b"question")
        theirs.shutdown(sockets.SHUT_WR)
        net.settle()
        listener.send()
        assert (listener.data, listener.fin) == (b"question", True)
        net.wait(60)  # half-closed for as long as the program likes
        listener.send(b"answer")
        net.settle()
        assert theirs.recv(100) == b"answer"
        listener.send_fin(b"!")
        net.settle()
        assert theirs.recv(100) == b"!"
        assert theirs.recv(100) == b""
        gone(net)


def test_the_program_ends_first(net):
    listener, theirs = connected(net)
    with theirs:
        listener.send_fin(b"hello")
        net.settle()
        assert theirs.recv(100) == b"hello"
        assert theirs.recv(100) == b""
        theirs.send(b"late")
        net.settle()
        assert listener.data == b"late"
        theirs.shutdown(sockets.SHUT_WR)
        net.settle()
        listener.send()
        assert listener.fin
        gone(net)


def test_a_reset_of_the_program_is_one_for_who_came(net, tcp_ends):
    listener, theirs = comes(net, ends=tcp_ends)
    listener.accept().send(b"half").send_reset()
    net.settle()
    assert theirs.recv(100) == b"half"
    with pytest.raises(ConnectionResetError):
        theirs.recv(100)
    gone(net)


def test_a_port_that_refuses_is_a_reset(net, tcp_ends):
    listener, theirs = comes(net, ends=tcp_ends)
    listener.refuse()
    net.settle()
    with pytest.raises(ConnectionResetError):
        theirs.recv(100)
    gone(net)


def test_a_reset_from_outside_is_one_for_the_program(net, tcp_ends):
    listener, theirs = comes(net, ends=tcp_ends)
    listener.accept().send(b"unread")
    net.settle()
    theirs.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, LINGER_ZERO)
    theirs.close()
    net.settle()
    listener.send()
    net.settle()
    assert listener.reset
    gone(net)


def test_a_whole_end_is_a_fin_though_death_would_be_a_reset(net, tcp_ends):
    """The supervisor sets a linger time of 0 (cli/published.py)."""
    tcp_ends[1].setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, LINGER_ZERO)
    listener, theirs = comes(net, ends=tcp_ends)
    listener.accept().send(b"text")
    theirs.shutdown(sockets.SHUT_WR)
    net.settle()
    listener.send_fin()
    gone(net)
    assert theirs.recv(100) == b"text"
    assert theirs.recv(100) == b""
    assert theirs.getsockopt(sockets.SOL_SOCKET, sockets.SO_ERROR) == 0


def test_what_the_program_wrote_is_owed_until_its_end(net):
    listener, theirs = connected(net)
    with theirs:
        assert net.stack.owing() == 1
        listener.send_fin(b"last words")
        assert net.stack.owing() == 0
        net.streams.drain()
        net.settle()
        assert theirs.recv(100) == b"last words"


def test_one_that_waits_for_the_program_is_owed_nothing(net):
    _, theirs = comes(net)
    with theirs:
        assert net.stack.owing() == 0


# ---- a hostile program -----------------------------------------------------------------------------


def test_a_program_reaches_nothing_by_the_gateways_ports(net):
    """A connection of its own to a port that one from outside comes from is refused as any other."""
    listener, theirs = connected(net)
    with theirs:
        guess = Socket(net, GATEWAY, listener.port, local=listener.local + 1).syn()
        assert guess.reset
        assert not net.told("OPEN")


def test_a_simultaneous_open_is_a_connection_like_others(net):
    """RFC 9293 §3.5: the program's SYN meets ours."""
    listener, theirs = comes(net)
    with theirs:
        listener.syn()
        listener.rcv_nxt = (listener.connection.iss + 1) & 0xFFFFFFFF
        listener.send(b"met")
        net.settle()
        assert theirs.recv(100) == b"met"
        assert not net.told("OPEN")


FLAGS = [
    tcp.ACK,
    tcp.ACK,
    tcp.ACK | tcp.PSH,
    tcp.SYN | tcp.ACK,
    tcp.SYN,
    tcp.FIN | tcp.ACK,
    tcp.RST,
    tcp.RST | tcp.ACK,
]


@pytest.mark.parametrize("seed", range(40))
def test_whatever_the_program_sends(net, seed):
    """Segments near the connection's numbers, in every state: no worker hears, all is given back."""
    rng = random.Random(seed)
    listener, theirs = comes(net)
    with theirs:
        theirs.send(bytes(1000))
        for _ in range(150):
            c = listener.connection
            flags = rng.choice(FLAGS) if rng.random() < 0.9 else rng.randrange(64)
            start = (c.rcv_nxt if c.state is not state.SYN_SENT else listener.isn) + rng.choice(
                (0, 0, 0, 1, -1, 9)
            )
            ack = c.snd_nxt + rng.choice((0, 0, 0, 0, -1, 1, -1000))
            listener.wnd = rng.choice((0, 1, 65535))
            net.arrives(listener.raw(flags, start, ack, bytes(rng.choice((0, 0, 1, 1448, 9000)))))
            net.now += rng.choice((0, 0, 0.3))
            net.settle()
            with contextlib.suppress(OSError):
                at_once(theirs)
        assert not net.told()
        assert net.stack.upstreams.budget.held >= 0
    for connection in list(net.stack.connections.values()):
        connection.abort(net.now)
    gone(net)
