# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers that give their flows' sockets away: what the guest's socket sees of the server, and the other way.

The stack is driven as its process does, with real socket pairs in place of connections to a proxy.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket as sockets
import struct
from typing import Any

import pytest
from guest import FAMILIES, SERVER_V4, Net, Socket, parked

from avne.errors import Malformed
from avne.ipc import messages
from avne.ipc.messages import Capability, Code, encode
from avne.ipc.relay import QUIET
from avne.ipc.streams import DRAIN_LINGER, TICK, Streams
from avne.ipc.verdict import Verdict
from avne.limits import (
    COPY_BELOW,
    CREDIT_FIRST,
    CREDIT_MAX,
    CREDIT_MIN,
    EARLY_MAX,
    EARLY_PIECE,
    LEAST_READ,
    LOCAL_BUFFER,
    MAX_BURST,
    POOL_BYTES,
    POOL_CHUNK,
)
from avne.netstack.wire import split, tcp

LARGE = COPY_BELOW
TOR = Capability.RESOLVE | Capability.PROOF
# Of a SOCKET: when it was opened, by which upstream, what that can do, and its rate.
ABOUT = (5, 7, int(Capability.HALF_CLOSE), 0, 0)


class LocalNet(Net):
    """A `Net` whose worker has a lane; frames are read, and turns taken, as the process does."""

    def __init__(self, kind: str = "socks5", capabilities: int = Capability.HALF_CLOSE) -> None:
        super().__init__()
        self.capabilities = capabilities
        self.epoll = select.epoll()
        self.logs: list[tuple[Any, ...]] = []
        self.streams = Streams(
            self.epoll, lambda *event: self.logs.append(event), self.stack.pool, LEAST_READ
        )
        self.stack.upstreams.streams = self.streams
        self.stack.upstreams.lanes.add(b"w0")
        self.join(b"w0", kind, capabilities)

    def close(self) -> None:
        for stream in list(self.streams._by_fd.values()):
            self.streams.reset(stream)
        self.streams.take_turn()
        self.epoll.close()

    def frame(self, frame: bytes) -> None:
        self.arrives(frame)
        self.turn()

    def arrives(self, frame: bytes) -> None:
        size = split.HEAD_V6 if frame[10] >> 4 == 6 else split.HEAD_V4
        room = self.stack.pool.room(65536 + 100)
        if room is None or len(frame) < size:
            self.stack.receive(frame, self.now)
            return
        text = frame[size:]
        room[: len(text)] = text
        self.stack.receive_text(bytearray(frame[:size]), room[: len(text)], self.now)
        again = self.stack.pool.room(1)
        if again is not None:
            again[:70_000] = bytes(min(70_000, len(again)))  # the next packet is read to there

    def turn(self) -> None:
        streams = self.streams
        streams.now = self.now
        for fd, mask in self.epoll.poll(0):
            streams.on_event(fd, mask)
        self.stack.push(self.now)
        streams.take_turn()
        streams.handle_timer()
        super().turn()

    def settle(self) -> None:
        """Turns until nothing is due."""
        self.turn()
        while self.streams.poll_at() <= self.now:
            self.turn()

    def give(self, flow: int, opened: int = 5, early: int = 0) -> sockets.socket:
        """The worker gives the flow's socket; the server's end."""
        ours, server = sockets.socketpair()
        server.settimeout(10)
        self.stack.handle(
            b"w0", encode(messages.SOCKET, flow, opened, 7, int(self.capabilities), 0, early), ours, self.now
        )
        self.turn()
        return server

    def connected(self, server: bytes = SERVER_V4, **how: Any) -> tuple[Socket, sockets.socket, int]:
        socket, flow = parked(self, server, **how)
        end = self.give(flow)
        socket.send()
        socket.segments()
        assert not self.told()
        return socket, end, flow

    def download(self, socket: Socket, size: int) -> bytes:
        """What comes down, acknowledged as it comes."""
        while len(socket.data) < size:
            before = len(socket.data)
            self.turn()
            socket.send()
            assert len(socket.data) > before or self.streams.poll_at() <= self.now
        return bytes(socket.data)


@pytest.fixture
def net():
    net = LocalNet()
    yield net
    net.close()


@pytest.fixture
def tor():
    net = LocalNet("tor", TOR)
    yield net
    net.close()


def at_once(end: sockets.socket) -> bytes:
    """What is there to read now."""
    end.setblocking(False)
    data = end.recv(1 << 20)
    end.settimeout(10)
    return data


# ---- before it is open ----------------------------------------------------------------------


@pytest.fixture
def early():
    net = LocalNet("tor", TOR | Capability.EARLY)
    net.stack.optimistic = frozenset((80,))
    yield net
    net.close()


def ahead(net: LocalNet, **how: Any) -> tuple[Socket, int]:
    """A socket that is connected before the upstream has answered."""
    socket, flow = parked(net, **how)
    (answer,) = socket.segments()
    assert (answer.flags, answer.wnd) == (tcp.SYN | tcp.ACK, EARLY_MAX)
    socket.send()
    return socket, flow


def test_early_bytes_go_behind_the_request_and_the_others_behind_the_socket(early):
    socket, flow = ahead(early)
    socket.send(b"GET /")
    assert early.told()[-1][1:4] == ("EARLY", flow, [b"GET /"])
    socket.send(b" HTTP")
    with early.give(flow, early=3) as server:
        socket.send(b"/1.1")
        assert at_once(server) == b" / HTTP/1.1", "what the worker has not written, in its order"
        server.send(b"200")
        assert early.download(socket, 3) == b"200"
    assert early.stack.half_open == 0


def test_a_window_s_worth_is_taken_early_and_then_as_much_as_without(early):
    for written in (0, 1, EARLY_MAX):
        socket, flow = ahead(early, local=41000 + written)
        socket.send(bytes(EARLY_MAX))
        assert all(len(m.fields[0]) <= EARLY_PIECE for m in early.told("EARLY"))
        assert socket.segments()[-1].wnd == 0
        with early.give(flow, early=written) as server:
            early.settle()
            if written < EARLY_MAX:
                assert len(at_once(server)) == EARLY_MAX - written
            granted = socket.window
            assert CREDIT_FIRST - EARLY_MAX <= granted <= CREDIT_FIRST
            while granted:
                size = min(granted, 60000)
                socket.send(bytes(size))
                granted -= size
            assert not socket.reset


def test_a_refusal_is_a_reset(early):
    for code, verdict in ((4, Verdict.HOST_UNREACHABLE), (5, Verdict.REFUSED), (6, Verdict.SILENCE)):
        socket, flow = ahead(early, local=42000 + code)
        socket.send(b"hello")
        early.say(messages.REFUSED, flow, code, int(verdict), "no")
        assert socket.reset
    assert not early.unreachable()
    assert not early.stack.connections
    assert early.stack.half_open == 0


def test_an_end_follows_the_early_bytes(early):
    socket, flow = ahead(early)
    socket.send_fin(b"all of it")
    assert early.stack.owing() == 1, "the environment's end waits for it"
    assert "SHUT" not in early.names()
    with early.give(flow) as server:
        assert at_once(server) == b"all of it"
        server.send(b"answer")
        assert early.download(socket, 6) == b"answer"
    assert early.stack.owing() == 0


def test_a_reset_gives_the_request_up(early):
    socket, _ = ahead(early)
    socket.send(b"x")
    early.told()
    socket.send_reset()
    assert early.names() == ["RESET"]
    assert early.stack.half_open == 0


def test_a_worker_that_has_written_more_than_it_got_is_cut_off(early):
    socket, flow = ahead(early)
    socket.send(b"abc")
    ours, server = sockets.socketpair()
    with server, pytest.raises(Malformed, match="wire-credit"):
        early.stack.handle(b"w0", encode(messages.SOCKET, flow, *ABOUT[:4], 4), ours, early.now)


def test_early_bytes_are_told_to_one_worker_only(early):
    early.stack.upstreams.lanes.add(b"w1")
    early.join(b"w1", "tor", TOR | Capability.EARLY)
    early.stack.upstreams.spread = True
    socket, flow = ahead(early)
    socket.send(b"POST")
    early.told()
    early.say(messages.REFUSED, flow, int(Code.UPSTREAM_DOWN), int(Verdict.REFUSED), "down")
    assert socket.reset
    assert not early.told("OPEN")


@pytest.mark.parametrize("port", [80, 81])
def test_without_the_setting_or_the_upstream_s_leave_the_syn_waits(early, port):
    if port == 80:
        early.gone()
        early.stack.upstreams.lanes.add(b"w0")
        early.join(b"w0", "socks5", Capability.HALF_CLOSE)
    socket, flow = parked(early, port=port)
    assert not socket.segments()
    with early.give(flow):
        assert socket.segments()


# ---- the opening ----------------------------------------------------------------------------


@pytest.mark.parametrize("server", FAMILIES, ids=["v4", "v6"])
def test_the_syn_is_answered_in_the_turn_that_brings_the_socket(net, server):
    socket, flow = parked(net, server)
    net.wait(60)
    assert not socket.inbox
    with net.give(flow):
        (answer,) = socket.segments()
        assert (answer.flags, answer.ack, answer.wnd) == (tcp.SYN | tcp.ACK, socket.isn + 1, 0xFFFF)
        assert net.stack.half_open == 0


def test_without_a_descriptor_left_the_connection_is_refused(net):
    socket, flow = parked(net)
    net.say(messages.SOCKET, flow, *ABOUT)
    assert socket.reset
    assert net.stack.half_open == 0
    assert not net.stack.connections
    assert net.stack.counters["reset-0x01"] == 1


def test_a_socket_that_crossed_a_reset_is_reset(net):
    socket, flow = parked(net)
    socket.send_reset()
    assert net.names() == ["RESET"]
    with sockets.create_server(("127.0.0.1", 0)) as listener:
        ours = sockets.create_connection(listener.getsockname())
        server, _ = listener.accept()
    net.stack.handle(b"w0", encode(messages.SOCKET, flow, *ABOUT), ours, net.now)
    net.turn()
    server.settimeout(10)
    with server, pytest.raises(ConnectionResetError):
        server.recv(1)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [(messages.OPENED, (1,)), (messages.SHUT, ()), (messages.CREDIT, (1,)), (messages.ALIVE, ())],
)
def test_a_worker_that_gives_sockets_says_nothing_else(net, kind, fields):
    _, flow = parked(net)
    with pytest.raises(Malformed, match="wire-turn"):
        net.say(kind, flow, *fields)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [(messages.SOCKET, ABOUT), (messages.REFUSED, (1, 0, "")), (messages.RESET, (1,)), (messages.ALIVE, ())],
)
def test_nothing_follows_a_socket_unasked(net, kind, fields):
    _, end, flow = net.connected()
    with end, pytest.raises(Malformed, match="wire-turn"):
        net.say(kind, flow, *fields)


def test_a_socket_comes_with_its_message_only(net):
    _, flow = parked(net)
    ours, theirs = sockets.socketpair()
    with ours, theirs, pytest.raises(Malformed, match="wire-payload"):
        net.stack.handle(b"w0", encode(messages.REFUSED, flow, 1, 0, ""), ours, net.now)
    with pytest.raises(Malformed, match="wire-payload"):
        net.stack.handle(b"w0", encode(messages.SOCKET, flow, *ABOUT), b"bytes", net.now)


def test_a_worker_elsewhere_has_none_to_give():
    net = Net("socks5")
    _, flow = parked(net)
    with pytest.raises(Malformed, match="wire-turn"):
        net.say(messages.SOCKET, flow, *ABOUT)


def test_what_cannot_be_watched_is_no_socket(net):
    _, flow = parked(net)
    closed = sockets.socket()
    closed.close()
    with pytest.raises(Malformed, match="wire-socket"):
        net.stack.handle(b"w0", encode(messages.SOCKET, flow, *ABOUT), closed, net.now)


# ---- up -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, LARGE - 1, LARGE, CREDIT_MIN])
@pytest.mark.parametrize("server", FAMILIES, ids=["v4", "v6"])
def test_bytes_go_up_in_the_turn_that_brings_them(net, server, size):
    socket, end, _ = net.connected(server)
    with end:
        data = os.urandom(size)
        socket.send(data)
        assert at_once(end) == data
        assert not net.told()


def test_what_a_turn_brings_is_one_write(net):
    socket, end, _ = net.connected()
    writes: list[int] = []
    (stream,) = net.streams._by_fd.values()

    class Counted:
        def sendmsg(self, parts):
            writes.append(len(parts))
            return real.sendmsg(parts)

        def __getattr__(self, name):
            return getattr(real, name)

    real, stream.sock = stream.sock, Counted()
    with end:
        parts = [os.urandom(LARGE - 200 + 400 * n) for n in range(2)]
        for part in parts:
            net.arrives(socket.raw(tcp.ACK, socket.snd_nxt, socket.rcv_nxt, part))
            socket.snd_nxt += len(part)
        net.turn()
        assert at_once(end) == b"".join(parts)
        assert writes == [2]
        assert len(socket.segments()) == 1


def test_text_out_of_order_is_kept_apart(net):
    """What waits for its turn must not lie where the next packet is read to."""
    socket, end, _ = net.connected()
    with end:
        first, second = os.urandom(LARGE // 2), os.urandom(LARGE // 2)
        net.frame(socket.raw(tcp.ACK, socket.snd_nxt + len(first), socket.rcv_nxt, second))
        socket.send(first)
        assert at_once(end) == first + second


def upload(net: LocalNet, socket: Socket, data: bytes) -> int:
    """As much of it as the window allows, in segments of 60,000 bytes at the most."""
    sent = 0
    while sent < len(data):
        socket.send()
        room = min(socket.window, 60_000, len(data) - sent)
        if not room:
            break
        socket.send(data[sent : sent + room])
        sent += room
    return sent


def test_a_server_that_does_not_read_closes_the_window_and_loses_nothing(net):
    socket, end, _ = net.connected()
    other, other_end, _ = net.connected(local=40001)
    with end, other_end:
        data = os.urandom(8 << 20)
        sent = upload(net, socket, data)
        assert CREDIT_MIN <= sent < 8 << 20
        (stream,) = [s for s in net.streams._by_fd.values() if s.relay.queued]
        assert stream.relay.queued <= CREDIT_MAX
        other.send(b"goes on")
        assert at_once(other_end) == b"goes on"
        came = bytearray()
        while len(came) < len(data):
            end.settimeout(0.05)
            try:
                came += end.recv(1 << 20)
            except TimeoutError:
                net.turn()
                sent += upload(net, socket, data[sent:])
        assert came == data


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_what_a_proxy_of_this_machine_sends_ahead_is_bounded(net, host):
    """It waits there, and not in 6 MiB of the kernel's memory for each flow."""
    family = sockets.AF_INET6 if ":" in host else sockets.AF_INET
    with sockets.create_server((host, 0), family=family) as listener:
        ours = sockets.create_connection(listener.getsockname()[:2])
        with listener.accept()[0] as end:
            socket, flow = parked(net)
            net.stack.handle(b"w0", encode(messages.SOCKET, flow, *ABOUT), ours, net.now)
            net.turn()
            assert ours.getsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF) == 2 * LOCAL_BUFFER  # socket(7)
            end.send(b"at once")
            assert net.download(socket, 7) == b"at once"


def test_a_socket_that_broke_on_its_way_is_a_reset_and_no_fault_of_the_worker(net):
    with sockets.create_server(("127.0.0.1", 0)) as listener:
        ours = sockets.create_connection(listener.getsockname())
        end, _ = listener.accept()
        end.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0))
        end.close()
        socket, flow = parked(net)
        net.stack.handle(b"w0", encode(messages.SOCKET, flow, *ABOUT), ours, net.now)
        net.settle()
        socket.send()
        net.settle()
        assert socket.reset


@pytest.mark.parametrize("server", FAMILIES, ids=["v4", "v6"])
def test_a_probe_of_the_tail_is_answered_and_goes_nowhere(net, server):
    socket, end, _ = net.connected(server)
    with end:
        data = os.urandom(LARGE)
        socket.send(data)
        assert at_once(end) == data
        net.stack.receive = None  # which would copy it
        for again in (data, data[-1448:]):
            socket.segments()
            net.frame(socket.raw(tcp.ACK, socket.snd_nxt - len(again), socket.rcv_nxt, again))
            (answer,) = socket.segments()
            assert (answer.flags, answer.ack, answer.length) == (tcp.ACK, socket.snd_nxt, 0)
        socket.send(b"more")
        assert at_once(end) == b"more"


def test_the_window_grows_with_its_use(net):
    socket, end, _ = net.connected()
    with end:
        assert socket.window == CREDIT_FIRST
        sent = 0
        while sent < 8 << 20:
            size = min(socket.window, 60_000)
            socket.send(bytes(size))
            sent += size
            while size:
                size -= len(end.recv(size))
        assert socket.window > CREDIT_MAX // 2


def test_without_room_in_the_pool_everything_goes_on(net):
    kept = []
    while (room := net.stack.pool.room(POOL_CHUNK)) is not None:
        kept.append(net.stack.pool.keep(len(room)))
    assert len(kept) == POOL_BYTES // POOL_CHUNK
    socket, end, _ = net.connected()
    with end:
        data = os.urandom(CREDIT_MIN)
        socket.send(data)
        assert end.recv(1 << 20) == data
        end.send(data)
        assert net.download(socket, len(data)) == data


# ---- down -----------------------------------------------------------------------------------


def test_bytes_come_down_whole_and_the_pool_gets_its_memory_back(net):
    socket, end, _ = net.connected()
    data = os.urandom(8 << 20)
    end.setblocking(False)
    with end:
        at = 0
        while len(socket.data) < len(data):
            with contextlib.suppress(BlockingIOError):
                at += end.send(data[at : at + 200_000])
            net.turn()
            socket.send()
        assert socket.data == data
        assert net.stack.pool.used <= 2


def test_what_comes_down_leaves_no_scraps(net, monkeypatch):
    """What a window is beyond whole super-segments would be a frame of its own, with an ACK for it."""
    monkeypatch.setattr("avne.ipc.credit.CREDIT_MAX", 128 << 10)  # as beside 255 others
    socket, end, _ = net.connected()
    (connection,) = net.stack.connections.values()
    connection.snd_wscale = 8  # so that its window is never what bounds a segment
    with end:
        end.setblocking(False)
        for _ in range(24):
            with contextlib.suppress(BlockingIOError):
                end.send(bytes(1 << 20))  # as much as the socket takes
            net.turn()
            socket.send()
        sizes = [s.length for s in socket.segments() if s.length]
        assert sizes.count(MAX_BURST) > 12
        assert min(sizes) >= LEAST_READ


def test_a_guest_that_does_not_read_stops_the_reading(net):
    socket, end, _ = net.connected()
    socket.wnd = 0
    socket.send()
    end.setblocking(False)
    with end:
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while sent < 64 << 20:
                sent += end.send(bytes(10_000))
                net.turn()
        assert CREDIT_MIN < sent < 64 << 20
        (connection,) = net.stack.connections.values()
        assert CREDIT_MIN - LEAST_READ < connection.unsent_bytes <= CREDIT_MIN
        for _ in range(50):
            net.wait(60)
            socket.send()
        assert CREDIT_MIN - LEAST_READ < connection.unsent_bytes <= CREDIT_MIN
        assert not socket.reset
        socket.wnd = 65535
        socket.send()
        assert len(net.download(socket, sent)) == sent


def test_small_reads_hold_no_chunk(net):
    socket, end, _ = net.connected()
    socket.wnd = 0
    socket.send()
    with end:
        for n in range(500):
            end.send(bytes([n & 255]))
            net.turn()
        assert net.stack.pool.used <= 1
        (connection,) = net.stack.connections.values()
        assert len(connection.unsent) < 100


def test_every_byte_is_in_the_account(net):
    socket, end, _ = net.connected()
    with end:
        socket.send(b"up" * 5000)
        assert len(at_once(end)) == 10_000
        end.send(bytes(3000))
        assert len(net.download(socket, 3000)) == 3000
        account = net.stack.account.sum(net.stack.connections.values(), [])
        assert account["up"] == {"accepted": 10_000, "to_upstream": 10_000, "discarded": 0}
        assert account["down"] == {"from_upstream": 3000, "acknowledged": 3000, "lost": 0}
        socket.send_reset()
        assert net.stack.account.sum([], [])["up"] == account["up"]


# ---- ends -----------------------------------------------------------------------------------


def test_a_fin_is_passed_on_behind_the_bytes_and_the_answer_still_comes(net):
    socket, end, _ = net.connected()
    with end:
        socket.send_fin(b"the end")
        assert end.recv(100) == b"the end"
        assert end.recv(100) == b""
        end.send(b"the whole answer")
        end.close()
        net.settle()
        assert bytes(socket.data) == b"the whole answer"
        assert socket.fin
        socket.send()
        assert not net.stack.connections
        assert not len(net.streams)


def test_a_fin_waits_for_what_the_server_has_not_taken(net):
    socket, end, _ = net.connected()
    with end:
        sent = upload(net, socket, bytes(8 << 20))
        socket.send_fin()
        came = 0
        while data := end.recv(1 << 20):
            came += len(data)
            net.turn()
        assert came == sent


def test_the_servers_end_leaves_the_other_direction_open(net):
    socket, end, _ = net.connected()
    with end:
        end.send(b"answer")
        end.shutdown(sockets.SHUT_WR)
        net.settle()
        assert (bytes(socket.data), socket.fin) == (b"answer", True)
        socket.send(b"still going up")
        assert end.recv(100) == b"still going up"
        socket.send_fin()
        assert end.recv(100) == b""
        assert not len(net.streams)
        net.wait(2.0)
        assert not net.stack.connections


def tcp_pair(net: LocalNet, flow: int) -> sockets.socket:
    with sockets.create_server(("127.0.0.1", 0)) as listener:
        ours = sockets.create_connection(listener.getsockname())
        server, _ = listener.accept()
    net.stack.handle(b"w0", encode(messages.SOCKET, flow, *ABOUT), ours, net.now)
    net.turn()
    server.settimeout(10)
    return server


def test_a_reset_of_the_server_resets_the_guest(net):
    socket, flow = parked(net)
    server = tcp_pair(net, flow)
    socket.send()
    server.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    server.close()
    net.settle()
    assert socket.reset
    assert not len(net.streams)
    assert net.stack.counters["reset-0x01"] == 1


def test_a_reset_of_the_guest_resets_the_server(net):
    socket, flow = parked(net)
    with tcp_pair(net, flow) as server:
        socket.send(b"x")
        assert server.recv(1) == b"x"
        socket.send_reset()
        with pytest.raises(ConnectionResetError):
            server.recv(1)
    assert not net.stack.connections
    assert not net.told()


def test_a_write_that_fails_is_a_reset_after_the_answer(net):
    socket, end, _ = net.connected()
    end.send(b"early answer")
    end.close()
    socket.send(b"to nobody")
    net.settle()
    assert bytes(socket.data) == b"early answer"
    assert socket.reset
    assert not socket.fin


def test_the_death_of_the_worker_resets_both_sides(net):
    socket, flow = parked(net)
    with tcp_pair(net, flow) as server:
        socket.send()
        net.gone()
        assert socket.reset
        net.settle()
        with pytest.raises(ConnectionResetError):
            server.recv(1)
    assert not len(net.streams)


def test_a_flow_that_was_over_survives_its_worker(net):
    """Both ends have been said; what the socket has not taken is still written."""
    socket, end, _ = net.connected()
    with end:
        end.shutdown(sockets.SHUT_WR)
        net.settle()
        sent = upload(net, socket, bytes(8 << 20))
        socket.send_fin()
        net.gone()
        assert not socket.reset
        came = 0
        while data := end.recv(1 << 20):
            came += len(data)
            net.turn()
        assert came == sent
        assert not len(net.streams)


# ---- Tor: no half-close, and ends need proof ----------------------------------------------------


def test_an_end_waits_for_its_proof(tor):
    socket, flow = parked(tor)
    end = tor.give(flow, 12_345)
    socket.send()
    end.send(b"whole")
    end.close()
    tor.settle()
    assert tor.told() == [(b"w0", "ENDED", flow, [12_345, 7], None)]
    assert (bytes(socket.data), socket.fin) == (b"whole", False)
    tor.say(messages.ALIVE, flow)
    tor.settle()
    assert socket.fin
    socket.send_fin()
    assert not len(tor.streams)
    assert not tor.told()


def test_tors_death_is_a_reset_after_the_last_byte(tor):
    socket, flow = parked(tor)
    end = tor.give(flow)
    socket.wnd = 0
    socket.send()
    size = 3 * CREDIT_MIN
    end.send(bytes(size))
    end.close()
    tor.settle()
    assert tor.names() == ["ENDED"]
    tor.say(messages.RESET, flow, Code.UPSTREAM_DOWN)
    tor.settle()
    assert not socket.reset, "it has not read what came before"
    socket.wnd = 65535
    socket.send()
    while not socket.reset:
        tor.settle()
        socket.send()
    assert not socket.fin
    assert tor.stack.counters["reset-0x100"] == 1


def test_a_guest_that_has_gone_needs_no_proof(tor):
    socket, end, flow = tor.connected()
    end.close()
    tor.settle()
    assert tor.names() == ["ENDED"]
    socket.send_reset()
    tor.say(messages.ALIVE, flow)
    assert not tor.told()


def test_an_end_of_the_program_is_kept_from_tor(tor):
    socket, end, flow = tor.connected()
    with end:
        socket.send_fin(b"question")
        assert end.recv(100) == b"question"
        tor.settle()
        end.setblocking(False)
        with pytest.raises(BlockingIOError):
            end.recv(1)
        end.settimeout(10)
        end.send(b"answer")
        tor.now += 10
        tor.settle()
        assert bytes(socket.data) == b"answer"
        socket.send()
        tor.now += QUIET - 1
        tor.settle()
        assert not socket.reset
        tor.now += 1 + TICK
        tor.turn()
        tor.settle()
        assert socket.reset
        assert tor.stack.counters["reset-0x101"] == 1
        assert tor.logs == [("info", "quiet-after-half-close", {"flow": flow})]
        assert end.recv(1) == b""


# ---- the resolver's stream ------------------------------------------------------------------------


def test_the_resolvers_stream_goes_by_its_socket(tor):
    tor.stack.port53._open(7, "192.0.2.53", 53, tor.now)
    tor.turn()
    (opening,) = tor.told("OPEN")
    stream = tor.stack.port53.streams[7]
    with tor.give(opening.flow) as end:
        stream.send(b"query")
        tor.settle()
        assert end.recv(100) == b"query"
        for _ in range(3):
            end.send(bytes(CREDIT_MIN))
            tor.settle()
        stream.close()
        tor.settle()
        assert not len(tor.streams)


# ---- the end of the environment ---------------------------------------------------------------------


def test_at_the_end_what_waits_is_written_and_the_server_may_end(net):
    socket, end, _ = net.connected()
    quiet, quiet_end, _ = net.connected(local=40001)
    with end, quiet_end:
        sent = upload(net, socket, bytes(8 << 20))
        socket.send_fin()
        quiet.send_fin()
        assert net.stack.owing() == 0
        net.streams.drain()
        net.turn()
        assert len(net.streams) == 2
        end.send(bytes(1000))  # nobody reads it any more
        came = 0
        while data := end.recv(1 << 20):
            came += len(data)
            net.turn()
        assert came == sent
        end.close()
        net.settle()
        assert len(net.streams) == 1, "it has had no time to end"
        net.now += DRAIN_LINGER + TICK
        net.turn()
        assert not len(net.streams)


def test_at_the_end_a_server_that_has_ended_its_side_still_gets_everything(net):
    socket, end, _ = net.connected()
    with end:
        end.shutdown(sockets.SHUT_WR)
        net.settle()
        sent = upload(net, socket, bytes(8 << 20))
        socket.send_fin()
        net.streams.drain()
        net.turn()
        came = 0
        while data := end.recv(1 << 20):
            came += len(data)
            net.turn()
        assert came == sent
        assert not len(net.streams)


def test_nothing_of_a_flow_is_left_when_it_is_over(net):
    """No cycle: the collector is off while the process runs."""
    socket, end, _ = net.connected()
    (stream,) = net.streams._by_fd.values()
    end.close()
    net.settle()
    socket.send_fin()
    net.wait(3)
    assert not net.stack.connections
    assert not hasattr(stream, "peer")
