# SPDX-License-Identifier: GPL-3.0-or-later
"""The netstack's lines: who is heard by which, and a whole netstack whose worker is elsewhere."""

from __future__ import annotations

import contextlib
import os
import select
import socket as sockets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from guest import SERVER_V4, Socket
from zmq.utils import z85

from avne.ipc.channel import Dealer, Router
from avne.ipc.control import Control
from avne.ipc.lane import Lane
from avne.netstack.lines import CutOff, Lines, Received
from avne.netstack.wire import ip, tcp
from avne.spawn import child_environment, python, spawn
from avne.upstream.router import table
from avne.upstream.spec import UpstreamSpec
from tests.upstream.socks_server import SocksServer

TIMEOUT = 20


class Ends:
    """`Lines` with a router, its endpoint, and the worker's end of the lane of w1.1."""

    def __init__(self, directory: Path, elsewhere: bool = True) -> None:
        self.endpoint = f"ipc://{directory}/n"
        router = None
        if elsewhere:
            listener = sockets.socket(sockets.AF_UNIX)
            listener.bind(f"{directory}/n")
            listener.listen()
            router = Router(listener.detach(), self.endpoint)
        self.router = router
        self.epoll = select.epoll()
        self.lines = Lines(router, self.epoll)
        ours, theirs = sockets.socketpair(sockets.AF_UNIX, sockets.SOCK_SEQPACKET)
        self.lines.add_lane(b"w1.1", ours.detach())
        self.near = Lane(theirs)
        self.far: list[Dealer] = []

    def dealer(self, identity: bytes) -> Dealer:
        self.far.append(Dealer(self.endpoint, identity))
        return self.far[-1]

    def heard(self) -> list[Received]:
        """What the next messages are, once there are some."""
        heard: list[Received] = []
        until = time.monotonic() + TIMEOUT
        while not heard:
            assert time.monotonic() < until
            for fd, mask in self.epoll.poll(0 if not self.lines.idle() else 1):
                heard += self.lines.on_event(fd, mask)
            if self.lines.check_router:
                heard += self.lines.receive()
        return heard

    def close(self) -> None:
        for sock in self.lines.forget(b"w1.1"):
            sock.close()
        self.near.close()
        for dealer in self.far:
            dealer.close()
        if self.router:
            self.router.close()
        self.epoll.close()


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    ends = Ends(tmp_path)
    yield ends
    ends.close()


def test_each_worker_has_its_own_line(ends: Ends) -> None:
    ends.near.send(b"near")
    ends.near.flush()
    assert ends.heard() == [(b"w1.1", b"near", None)]
    far = ends.dealer(b"r-1")
    far.send(b"far", b"payload")
    assert ends.heard() == [(b"r-1", b"far", b"payload")]
    assert ends.lines.send((b"w1.1", b"to the near one", None))
    assert not ends.lines.idle()
    assert ends.lines.send((b"r-1", b"to the far one", b"x"))
    ends.lines.flush()
    assert ends.near.receive() == [(b"to the near one", None)]
    while (message := far.receive()) is None:
        assert select.select([far], [], [], TIMEOUT)[0]
    assert message == (b"", b"to the far one", b"x")
    assert not ends.lines.send((b"nobody", b"x", None))


def test_nobody_is_heard_under_the_name_of_a_worker_with_a_lane(ends: Ends) -> None:
    """Nor is that worker cut off for what they send."""
    rogue = ends.dealer(b"w1.1")
    rogue.send(b"I am w1.1")
    context = zmq.Context()
    with context.socket(zmq.DEALER) as raw:
        raw.setsockopt(zmq.IDENTITY, b"r-2")
        raw.connect(ends.endpoint)
        raw.send_multipart([b"x"] * 3)
        with pytest.raises(CutOff) as caught:
            ends.heard()
        assert caught.value.worker == b"r-2"
        rogue._socket.send_multipart([b"x"] * 3)
        rogue.send(b"again")
        honest = ends.dealer(b"r-1")
        honest.send(b"hello")
        assert ends.heard() == [(b"r-1", b"hello", None)]
        raw.setsockopt(zmq.LINGER, 0)
    context.term()
    assert ends.lines.send((b"w1.1", b"yours", None))
    ends.lines.flush()
    assert ends.near.receive() == [(b"yours", None)]
    assert rogue.receive() is None


def test_without_workers_elsewhere_there_is_no_other_line(tmp_path: Path) -> None:
    ends = Ends(tmp_path, elsewhere=False)
    ends.near.send(b"near")
    ends.near.flush()
    assert ends.heard() == [(b"w1.1", b"near", None)]
    assert ends.lines.send((b"w1.1", b"x", None))
    assert not ends.lines.send((b"r-1", b"x", None))
    ends.lines.flush()
    assert ends.lines.idle()
    ends.close()


def test_nothing_of_a_run_imports_zmq() -> None:
    """It takes longer to load than all of ours together."""
    code = (
        "import sys, avne.cli.main, avne.cli.run, avne.netstack.process, avne.upstream.worker\n"
        "print([name for name in sys.modules if name.startswith('zmq')])"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# ---- a netstack and a worker as processes, with TCP between them ------------------------------------------


class Guest:
    """What `guest.Socket` needs of a `Net`, over the other end of the netstack's tun."""

    def __init__(self, tun: sockets.socket) -> None:
        self.tun = tun
        self.sockets: dict[tuple[bytes, int, int], Socket] = {}

    def frame(self, frame: bytes) -> None:
        self.tun.send(frame)

    def take(self) -> None:
        """The next segment that the netstack sends."""
        frame = self.tun.recv(1 << 17)
        datagram = ip.parse(frame)
        segment, ports = tcp.parse(frame, datagram), tcp.ports(frame, datagram)
        self.sockets[datagram.src, ports.src, ports.dst].take(segment)


def _pair() -> tuple[bytes, bytes]:
    secret = zmq.curve_keypair()[1]
    return z85.decode(secret), z85.decode(zmq.curve_public(secret))


class Far:
    """A netstack that workers elsewhere may join, and one that does."""

    def __init__(self, server: SocksServer) -> None:
        listener = sockets.create_server(("127.0.0.1", 0))
        endpoint = "tcp://{}:{}".format(*listener.getsockname())
        self.pids: list[int] = []
        self.netstack = self._start("avne.netstack.process")
        mine, its = _pair(), _pair()
        with listener:
            keys = [*mine, [its[1]]]
            config = {"session": "x", "endpoint": endpoint, "dns": "tcp", "keys": keys}
            self.netstack.send("config", config, fds=(listener.fileno(),))
        tun, self.tun = sockets.socketpair(sockets.AF_UNIX, sockets.SOCK_SEQPACKET)
        self.tun.settimeout(TIMEOUT)
        with tun:
            self.netstack.send("tun", 0, fds=(tun.fileno(),))
        spec = UpstreamSpec("socks5", server.address)
        self.worker = self._start("avne.upstream.worker")
        routing = {"rules": table([], spec).to_config(), "resolver": None, "about": {"upstream": "socks5"}}
        self.worker.send(
            "config", {"endpoint": endpoint, "identity": "r-1", "keys": [*its, [mine[1]]], **routing}
        )

    def _start(self, module: str) -> Control:
        ours, theirs = Control.pair()
        with theirs:
            fds = {3: theirs.fileno()}
            self.pids.append(spawn(python(module, "3"), fds, child_environment(), session=True))
        return ours

    def said(self, control: Control) -> list[Any]:
        """The next message but log events; an empty one where the process has ended."""
        while True:
            assert select.select([control], [], [], TIMEOUT)[0]
            received = control.receive()
            assert received is not None
            if received[0][:1] != ["log"]:
                return received[0]

    def close(self) -> None:
        self.netstack.close()
        self.worker.close()
        self.tun.close()
        for pid in self.pids:
            os.waitpid(pid, 0)


def test_a_worker_elsewhere_carries_a_connection() -> None:
    with SocksServer() as server, contextlib.closing(Far(server)) as far:
        assert far.said(far.netstack) == ["ready"]
        assert far.said(far.netstack) == ["worker", "r-1", "socks5"]
        assert far.said(far.worker) == ["ready"]
        guest = Guest(far.tun)
        socket = Socket(guest, SERVER_V4)  # type: ignore[arg-type]
        socket.syn()
        guest.take()
        assert socket.segments()[0].flags & tcp.SYN
        socket.send(b"there and back")
        while bytes(socket.data) != b"there and back":
            guest.take()
        assert server.requests[0].address == SERVER_V4
        far.netstack.send("gone", "r-1")
        while not socket.reset:
            guest.take()
