# SPDX-License-Identifier: GPL-3.0-or-later
"""Negotiations on the loop: against real sockets, with the time of the test's."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from avne.ipc.messages import Code
from avne.upstream.base import OpenError
from avne.upstream.negotiations import Negotiations
from avne.upstream.proxy import CONNECT_TIMEOUT, REPLY_TIMEOUT
from avne.upstream.socks5 import Socks5
from avne.upstream.spec import UpstreamSpec
from tests.upstream.socks_server import SocksServer, reply_bytes

Result = socket.socket | OpenError


class Loop:
    """The worker's loop, as far as negotiations go."""

    def __init__(self, address: str | tuple[str, int], **credentials: str) -> None:
        self.upstream = Socks5(UpstreamSpec("socks5", address, **credentials))
        self.epoll = select.epoll()
        self.closing: list[socket.socket] = []
        self.negotiations = Negotiations(self.epoll, self.upstream, self.closing)
        self.results: list[Result] = []

    def start(self, host: str = "host.test"):
        dialogue = self.upstream.dialogue(host, 80)
        assert dialogue is not None
        return self.negotiations.start(dialogue, self.results.append)

    def result(self) -> Result:
        until = time.monotonic() + 10
        while not self.results:
            assert time.monotonic() < until, "no result"
            for fd, _ in self.epoll.poll(1):
                assert self.negotiations.on_event(fd)
        return self.results.pop(0)

    def error(self) -> OpenError:
        result = self.result()
        assert isinstance(result, OpenError)
        return result

    def close(self) -> None:
        for sock in [*self.closing, *(o.sock for o in self.negotiations._by_fd.values())]:
            sock.close()
        for result in self.results:
            if isinstance(result, socket.socket):
                result.close()
        self.epoll.close()


@pytest.fixture
def server() -> Iterator[SocksServer]:
    with SocksServer() as server:
        yield server


@pytest.fixture
def loop(server: SocksServer) -> Iterator[Loop]:
    with contextlib.closing(Loop(server.address)) as loop:
        yield loop


def echoes(sock: Result) -> bool:
    assert isinstance(sock, socket.socket)
    with sock:
        sock.settimeout(10)
        sock.sendall(b"ping")
        return sock.recv(4) == b"ping"


@pytest.mark.parametrize("split", [False, True])
def test_a_connection(server: SocksServer, loop: Loop, split: bool) -> None:
    server.split = split
    assert loop.start() is not None
    sock = loop.result()
    assert isinstance(sock, socket.socket)
    assert loop.epoll.poll(0) == [], "its descriptor is the caller's now"
    assert echoes(sock)
    assert loop.negotiations.poll_at() == float("inf")


def test_with_credentials_over_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with SocksServer(path) as server, contextlib.closing(Loop(path, username="u", password="p")) as loop:
        server.credentials = b"u", b"p"
        loop.start()
        assert echoes(loop.result())
        assert server.requests[0].username == b"u"
        server.credentials = b"u", b"other"
        loop.start()
        assert loop.error().code == Code.UPSTREAM_AUTH


def test_a_refusal_and_what_is_no_proxy(server: SocksServer, loop: Loop) -> None:
    server.reply = reply_bytes(5)
    loop.start()
    assert loop.error().code == Code.CONNECTION_REFUSED
    assert len(loop.closing) == 1


def silent() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def test_a_proxy_that_does_not_answer() -> None:
    with silent() as listener, contextlib.closing(Loop(listener.getsockname())) as loop:
        opening = loop.start()
        assert opening is not None
        for fd, _ in loop.epoll.poll(10):
            loop.negotiations.on_event(fd)
        assert opening.connected
        loop.negotiations.handle_timer(time.monotonic() + CONNECT_TIMEOUT)
        assert not loop.results
        assert loop.negotiations.poll_at() <= time.monotonic() + REPLY_TIMEOUT
        loop.negotiations.handle_timer(time.monotonic() + REPLY_TIMEOUT + 1)
        assert loop.error().code == Code.UPSTREAM_TIMEOUT
        assert loop.negotiations.poll_at() == float("inf")


def test_a_proxy_that_is_not_there(tmp_path: Path) -> None:
    with contextlib.closing(Loop(str(tmp_path / "nothing"))) as loop:
        with pytest.raises(OpenError) as caught:
            loop.start()
        assert caught.value.code == Code.UPSTREAM_DOWN
    with silent() as listener:
        address = listener.getsockname()
    with contextlib.closing(Loop(address)) as loop:
        loop.start()
        assert loop.error().code == Code.UPSTREAM_DOWN


def test_a_proxy_that_hangs_up() -> None:
    with silent() as listener, contextlib.closing(Loop(listener.getsockname())) as loop:
        loop.start()
        listener.accept()[0].close()
        assert loop.error().code == Code.UPSTREAM_DOWN


def test_a_full_backlog_is_for_a_thread(tmp_path: Path) -> None:
    """connect(2) to a unix socket does not wait in the background as TCP's does."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(0)
        with contextlib.closing(Loop(str(tmp_path / "s"))) as loop:
            while loop.start() is not None:
                pass
            assert not loop.results


def test_one_that_is_cancelled_says_nothing(loop: Loop, server: SocksServer) -> None:
    opening = loop.start()
    assert opening is not None
    opening.cancel()
    assert not loop.negotiations.on_event(opening.sock.fileno())
    loop.negotiations.handle_timer(time.monotonic() + 1000)
    assert not loop.results
    assert loop.closing == [opening.sock]


def test_the_name_of_a_proxy_is_for_a_thread() -> None:
    assert Socks5(UpstreamSpec("socks5", ("localhost", 1))).dialogue("host.test", 80) is None
    assert Socks5(UpstreamSpec("socks5", ("127.0.0.1", 1))).dialogue("host.test", 80) is not None
    assert Socks5(UpstreamSpec("socks5", ("::1", 1))).dialogue("host.test", 80) is not None
