# SPDX-License-Identifier: GPL-3.0-or-later
"""The flows of a netstack elsewhere where time matters: real sockets, a real channel, and a clock of the
test's."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from avne.ipc import messages
from avne.ipc.channel import Dealer, Router
from avne.ipc.messages import Code, Sender, decode
from avne.ipc.pool import Pool
from avne.ipc.relay import QUIET, RESET_GRACE
from avne.ipc.streams import TICK, Streams
from avne.upstream.frames import Frames
from avne.upstream.socks5 import Socks5
from avne.upstream.spec import UpstreamSpec
from avne.upstream.tor import Tor
from avne.upstream.uplink import DealerUplink
from tests.upstream.socks_server import SocksServer


class Bench:
    """The flows of a worker whose turns the test takes."""

    def __init__(self, directory: Path, upstream: Socks5) -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{directory}/n")
        listener.listen()
        self.router = Router(listener.detach(), f"ipc://{directory}/n")
        self.epoll = select.epoll()
        self.uplink = DealerUplink(Dealer(f"ipc://{directory}/n", b"w"), self.epoll)
        self.logs: list[tuple[str, str, dict[str, Any]]] = []
        log = lambda *event: self.logs.append(event)  # noqa: E731
        self.streams = Streams(self.epoll, log, Pool())
        self.frames = Frames(self.uplink, self.streams, self.epoll, [upstream], log)
        self.servers: list[socket.socket] = []

    def close(self) -> None:
        for number in list(self.frames._flows):
            self.frames.handle([messages.RESET, number], None)
        self.streams.take_turn()
        for lookout in self.frames._lookouts:
            self.servers += [sock for sock in (lookout._spare, lookout._asked) if sock]
        self.router.close()
        self.uplink.close()
        self.epoll.close()
        for sock in self.servers:
            sock.close()

    def open(self, number: int, credit: int = 1000) -> socket.socket:
        """A flow; gives the server's end."""
        ours, server = socket.socketpair()
        ours.setblocking(False)
        self.servers.append(server)
        self.frames.adopt(number, ours, credit, 0)
        assert self.receive()[0] == messages.OPENED
        return server

    def turn(self, now: float) -> None:
        self.streams.now = now
        self.events()
        self.streams.take_turn()
        self.streams.handle_timer()
        self.frames.handle_timer()
        while self.streams.poll_at() <= now:
            self.streams.take_turn()

    def events(self) -> None:
        for fd, mask in self.epoll.poll(0):
            if not self.streams.on_event(fd, mask):
                self.frames.on_event(fd, mask)

    def receive(self) -> list[Any]:
        while (received := self.router.receive()) is None:
            assert select.select([self.router], [], [], 10)[0], "no message"
        return decode(received[1], Sender.WORKER)


@pytest.fixture
def tor(tmp_path: Path) -> Iterator[Bench]:
    with SocksServer() as server:
        bench = Bench(tmp_path, Tor(UpstreamSpec("tor", server.address)))
        yield bench
        bench.close()


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path, Socks5(UpstreamSpec("socks5", ("127.0.0.1", 1))))
    yield bench
    bench.close()


def test_a_flow_that_is_quiet_after_the_program_s_end_is_reset(tor: Bench) -> None:
    server = tor.open(1)
    tor.turn(100.0)
    tor.frames.handle([messages.SHUT, 1], None)
    tor.turn(101.0)
    server.send(b"answer")
    tor.turn(105.0)
    assert tor.receive()[0] == messages.DATA
    tor.turn(105.0 + QUIET - 0.1)
    assert len(tor.streams) == 1
    assert tor.streams.poll_at() <= 105.0 + QUIET + TICK
    tor.turn(105.0 + QUIET + TICK)
    assert tor.receive() == [messages.RESET, 1, Code.UPSTREAM_TIMEOUT]
    assert not len(tor.streams)
    assert ("info", "quiet-after-half-close", {"flow": 1}) in tor.logs
    tor.turn(200.0)
    assert server.recv(1) == b""


def test_a_paused_program_is_not_quiet(tor: Bench) -> None:
    server = tor.open(1, credit=3)
    tor.frames.handle([messages.SHUT, 1], None)
    server.send(b"more than that")
    tor.turn(1.0)
    assert tor.receive()[0] == messages.DATA
    tor.turn(1000.0)
    assert len(tor.streams) == 1


def test_a_flow_of_a_proxy_that_half_closes_may_be_quiet_for_ever(proxy: Bench) -> None:
    server = proxy.open(1)
    proxy.frames.handle([messages.SHUT, 1], None)
    proxy.turn(0.0)
    assert server.recv(1) == b"", "passed on"
    proxy.turn(10_000.0)
    assert len(proxy.streams) == 1
    assert proxy.streams.poll_at() == float("inf")


def test_while_draining_a_server_that_does_not_end_is_left_after_a_second(proxy: Bench) -> None:
    server = proxy.open(1, credit=0)
    server.send(b"nobody reads this")
    proxy.turn(1.0)
    proxy.streams.drain()
    proxy.turn(1.0)
    assert len(proxy.streams) == 1
    proxy.turn(2.0 + TICK)
    assert not len(proxy.streams)


def test_while_draining_the_server_s_end_is_enough(proxy: Bench) -> None:
    server = proxy.open(1)
    proxy.streams.drain()
    server.close()
    proxy.turn(0.1)
    assert not len(proxy.streams)


def test_a_write_that_fails_resets_after_the_answer(proxy: Bench) -> None:
    server = proxy.open(1)
    server.send(b"early answer")
    server.close()
    proxy.frames.handle([messages.DATA, 1], b"to nobody")
    proxy.turn(0.1)
    assert proxy.receive()[0] == messages.DATA
    proxy.turn(0.2)
    assert proxy.receive()[0] == messages.RESET
    proxy.turn(0.3)
    assert not len(proxy.streams)


def _reset(server: socket.socket, proxy: Bench) -> None:
    """A close with bytes unread: ECONNRESET for the other end."""
    proxy.frames.handle([messages.DATA, 1], b"unread")
    proxy.streams.write()
    server.close()


def test_a_reset_after_the_server_s_end_is_passed_on(proxy: Bench) -> None:
    """Reading goes on to say "end of file" then: only EPOLLERR tells."""
    server = proxy.open(1)
    server.shutdown(socket.SHUT_WR)
    proxy.turn(0.1)
    assert proxy.receive()[0] == messages.SHUT
    _reset(server, proxy)
    proxy.turn(0.2)
    assert proxy.receive()[:2] == [messages.RESET, 1]
    assert not len(proxy.streams)


def test_a_program_that_does_not_read_hears_of_a_reset(proxy: Bench) -> None:
    server = proxy.open(1, credit=4)
    server.send(b"more than that")
    proxy.turn(0.1)
    assert proxy.receive()[0] == messages.DATA
    _reset(server, proxy)
    proxy.turn(0.2)
    assert len(proxy.streams) == 1
    assert proxy.streams.poll_at() <= 0.2 + TICK
    proxy.turn(0.2 + RESET_GRACE + TICK)
    assert proxy.receive() == [messages.RESET, 1, Code.GENERAL_FAILURE]
    assert ("info", "reset-unread", {"flow": 1}) in proxy.logs
    assert not len(proxy.streams)


def test_a_program_that_reads_slowly_gets_everything_before_a_reset(proxy: Bench) -> None:
    server = proxy.open(1, credit=4)
    server.send(b"more than that")
    proxy.turn(0.1)
    assert proxy.receive()[0] == messages.DATA
    _reset(server, proxy)
    for second in range(1, 10):
        proxy.turn(second * 0.7)
        proxy.frames.handle([messages.CREDIT, 1, 2], None)
        proxy.turn(second * 0.7)
        kind, *_ = proxy.receive()
        if kind == messages.RESET:
            break
        assert kind == messages.DATA
    assert second == 6, "five times two bytes, then the reset"


def test_an_end_that_is_read_before_its_event_needs_proof_as_well(tor: Bench) -> None:
    server = tor.open(1)
    server.send(b"x")
    tor.turn(0.1)
    assert tor.receive()[0] == messages.DATA
    server.send(b"y")
    tor.events()
    server.close()
    tor.streams.take_turn()
    assert tor.receive()[0] == messages.DATA
    for now in range(1, 100_000):
        if not tor.frames._flows[1].stream.relay.shut_sent:
            tor.turn(0.2 + now * 1e-6)
        else:
            break
    assert tor.receive()[0] == messages.SHUT
