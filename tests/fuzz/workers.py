# SPDX-License-Identifier: GPL-3.0-or-later
"""The lines between processes: workers, netstack, the lane, the control line; and a SOCKS server."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
from array import array
from collections.abc import Callable
from typing import Any

import msgpack

from avne.errors import Malformed
from avne.ipc import messages
from avne.ipc.control import Control
from avne.ipc.lane import Lane
from avne.ipc.messages import Capability, Sender, encode
from avne.ipc.pool import Pool
from avne.ipc.streams import Streams
from avne.limits import CREDIT_MAX, MAX_HEADER, MAX_PAYLOAD
from avne.netstack.wire import tcp
from avne.upstream.base import Negotiation, OpenError, Upstream
from avne.upstream.frames import Frames
from avne.upstream.http import Connect
from avne.upstream.proxy import Chain
from avne.upstream.socks4a import Request
from avne.upstream.socks5 import COMMAND_CONNECT, Dialogue
from avne.upstream.spec import UpstreamSpec

from .choices import Choices
from .guests import SERVERS, Peer
from .world import World

ODD: list[Any] = [None, True, -1, 1.5, b"x", "x", [], ["a", 1], {"k": 1}, 1 << 63, "\udcff", "\0", "x" * 300]
_pool = Pool()
WRONG = (ValueError, TypeError, OverflowError, UnicodeEncodeError)


def _number(c: Choices) -> int:
    return c.pick(
        [0, 1, 2, 3, 255, 4096, 65535, 1 << 16, CREDIT_MAX - 1, CREDIT_MAX, CREDIT_MAX + 1, c.number(2)]
    )


def _field(c: Choices, field: messages.Field) -> Any:
    """A value for `field`, mostly of its type."""
    how = c.byte()
    if how < 16:
        return c.pick(ODD)
    if field.kind is int:
        return _number(c)
    if field.kind is bytes:
        return c.some()
    if field.kind is str:
        return c.some().decode("latin-1") if how & 1 else c.pick(["tor", "socks5", "host.example", ""])
    return (
        [c.some().decode("latin-1")[:40] for _ in range(how % 4)]
        if how & 1
        else [c.pick(["192.0.2.1", "::1"])]
    )


def _header(c: Choices, flows: list[int], kinds: list[int]) -> bytes:
    how = c.byte()
    if how < 8:
        return c.some()
    kind = c.pick(kinds) if how > 24 else c.byte()
    row = messages.TABLE.get(kind)
    fields = [_field(c, field) for field in row.fields] if row else []
    if how & 31 == 9:
        fields += [0]
    with contextlib.suppress(*WRONG):
        return encode(kind, c.pick(flows), *fields)
    return b"\x92\xff\xff"


FROM_WORKER = [kind for kind, row in messages.TABLE.items() if row.sender is not Sender.NETSTACK] + [
    messages.OPENED, messages.DATA, messages.CREDIT, messages.SHUT,
]  # fmt: skip


def stack(data: bytes) -> set[str]:
    """Whatever a worker says, it is heeded or cut off, and the guest gets good packets only."""
    c = Choices(data)
    config = c.byte()
    world = World(
        c.pick(["tor", "socks5", "x"]),
        (config & 3) | int(Capability.EARLY) * bool(config & 32),
        bool(config & 4),
        bool(config & 8),
        bool(config & 16),
    )
    peers = [Peer(world, SERVERS[n & 1], 80, 40000 + n, 7) for n in range(3)]
    world.stack.optimistic = frozenset((80,) if config & 32 else ())
    for peer in peers:
        peer.send(tcp.SYN, peer.isn, 0, b"", tcp.syn_options(1460, 7, True))
    if config & 4:
        peers[0].send(tcp.SYN, 1, 0, b"")
    flows = [told.flow for told in world.told if told.kind == messages.OPEN] or [1]
    for _ in range(24):
        if not c.more:
            break
        how = c.byte()
        worker = b"w0" if how < 240 else c.pick([b"w1", b"\xff\x00", b""])
        header = _header(c, [*flows, *flows, 0, 99, 1 << 62], FROM_WORKER)
        payload = None
        if how & 1 or header[1:2] == bytes((messages.DATA,)):
            payload = bytes(c.pick([0, 1, 100, 5000, 65536, MAX_PAYLOAD]))
        if not world.handle(worker, header, payload) and worker == b"w0":
            about = messages.WIRE_VERSION, "tor", 3
            world.handle(b"w0", encode(messages.HELLO, 0, *about))
        for peer in peers:
            peer.take()
            if how & 2 and peer.synced:
                peer.send(tcp.ACK, peer.snd, peer.rcv, bytes(2000 if config & 32 and how & 16 else 0))
        if how & 12 == 12:
            world.wait(0.3)
        world.check()
    return world.end()


# ---- a worker's side ------------------------------------------------------------------------------


class _Uplink:
    def __init__(self) -> None:
        self.sent: list[tuple[bytes, Any]] = []

    def send(self, header: bytes, payload: Any = None) -> None:
        self.sent.append((header, payload))


class _Epoll:
    def __init__(self) -> None:
        self.fds: set[int] = set()

    def register(self, fd: int, mask: int) -> None:
        assert fd not in self.fds
        self.fds.add(fd)

    def modify(self, fd: int, mask: int) -> None:
        assert fd in self.fds

    def unregister(self, fd: int) -> None:
        self.fds.remove(fd)


class _Socket:
    """A socket whose kernel does what the input says."""

    family = 1  # AF_UNIX

    def __init__(self, fd: int, c: Choices) -> None:
        self.fd, self.c = fd, c
        self.closed = self.shut = False
        self.written = 0

    def fileno(self) -> int:
        return self.fd

    def send(self, view: memoryview) -> int:
        if self.shut:
            raise BrokenPipeError  # nobody sends after SHUT, but some after DRAIN
        how = self.c.byte()
        if how < 100:
            raise BlockingIOError
        if how < 110:
            raise OSError(errno.ECONNRESET, "reset")
        count = len(view) if how & 1 else min(len(view), how)
        self.written += count
        return count

    def sendmsg(self, views: list[memoryview]) -> int:
        return min(self.send(view) for view in views[:1])

    def setblocking(self, flag: bool) -> None:
        assert not flag

    def recv_into(self, buffer: memoryview, size: int = 0) -> int:
        how = self.c.byte()
        if how < 60:
            raise BlockingIOError
        if how < 70:
            raise OSError(errno.ECONNRESET, "reset")
        return 0 if how < 90 else min(size or len(buffer), 1 + how * how)

    def shutdown(self, how: int) -> None:
        self.shut = True

    def setsockopt(self, *_: object) -> None:
        pass

    def close(self) -> None:
        assert not self.closed
        self.closed = True


class _HalfClose(Upstream):
    kind = "socks5"
    capabilities = Capability.HALF_CLOSE


class _NoHalfClose(Upstream):
    kind = "socks5"
    capabilities = Capability(0)


FROM_NETSTACK = [messages.DATA, messages.CREDIT, messages.SHUT, messages.RESET, messages.DATA]
EVENTS = [
    select.EPOLLIN,
    select.EPOLLOUT,
    select.EPOLLIN | select.EPOLLRDHUP,
    select.EPOLLHUP | select.EPOLLERR,
]


def streams(data: bytes) -> set[str]:
    """Whatever the netstack says and the sockets do: a worker sends no more than it was granted, its budget
    and its descriptors come back, and only a breach of the protocol ends it."""
    c = Choices(data)
    config = c.byte()
    uplink, epoll = _Uplink(), _Epoll()
    logs: list[str] = []
    upstream = (_HalfClose if config & 1 else _NoHalfClose)(UpstreamSpec("socks5"))

    def log(level: str, event: str, fields: dict[str, Any]) -> None:
        logs.append(event)

    machine = Streams(epoll, log, _pool)  # type: ignore[arg-type]
    frames = Frames(uplink, machine, epoll, [upstream], log)  # type: ignore[arg-type]
    machine.now = 1000.0
    sockets: list[_Socket] = []
    granted: dict[int, int] = {}
    features: set[str] = set()
    for number in (1, 2):
        sock = _Socket(10 + number, c)
        sockets.append(sock)
        credit = granted[number] = c.pick([0, 1, 5000, 1 << 16, CREDIT_MAX])
        frames.adopt(number, sock, credit, 0)  # type: ignore[arg-type]
    try:
        for _ in range(32):
            if not c.more:
                break
            _step(c, machine, frames, sockets, granted)
            _look(uplink, granted, features)
    except Malformed as error:
        features.add(error.reason)
    _finish(machine, sockets, epoll)
    return features | set(logs)


def _step(
    c: Choices, machine: Streams, frames: Frames, sockets: list[_Socket], granted: dict[int, int]
) -> None:
    how = c.byte() % 16
    if how < 7:
        message = messages.decode(_header(c, [1, 2, 3], FROM_NETSTACK), Sender.NETSTACK)
        payload = bytes(c.pick([0, 1, 300, 20_000, MAX_PAYLOAD])) if message[0] == messages.DATA else None
        if message[0] == messages.CREDIT and message[1] in frames:
            granted[message[1]] += message[2]
        frames.handle(message, payload)
    elif how < 12:
        machine.on_event(c.pick(sockets).fd if how < 11 else 99, c.pick(EVENTS))
    elif how == 12:
        machine.now += c.pick([0.1, 1.1, 31.0])
        machine.handle_timer()
    elif how == 13 and c.byte() < 32:
        machine.drain()
    machine.take_turn()


def _look(uplink: _Uplink, granted: dict[int, int], features: set[str]) -> None:
    for header, payload in uplink.sent:
        message = messages.decode(header, Sender.WORKER)
        features.add(f"sent {messages.TABLE[message[0]].name}")
        if message[0] == messages.DATA:
            size = len(payload)
            granted[message[1]] -= size
            assert granted[message[1]] >= 0, "more than was granted"
    uplink.sent.clear()


def _finish(machine: Streams, sockets: list[_Socket], epoll: _Epoll) -> None:
    for stream in list(machine._by_fd.values()):
        assert stream.relay.queued <= CREDIT_MAX
        machine._remove(stream)
    machine.take_turn()
    assert machine._budget.held == 0, "the budget leaks"
    assert not epoll.fds
    assert all(sock.closed for sock in sockets)


# ---- what carries them ------------------------------------------------------------------------------


def lane(data: bytes) -> set[str]:
    """Whatever comes on a lane, it is messages, the end, or malformed; and no descriptor is left."""
    c = Choices(data)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = len(os.listdir("/proc/self/fd"))
    features = set()
    with ours, theirs:
        end = Lane(ours)
        with contextlib.suppress(Malformed):
            while c.more:
                given = [theirs.fileno(), 0][c.byte() & 1]
                fds = array("i", [given] * (c.byte() % 4))
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else []
                theirs.sendmsg([b"".join(_frame(c) for _ in range(1 + c.byte() % 3))], rights)
                try:
                    received = end.receive()
                except Malformed as error:
                    features.add(error.reason)
                    raise
                if received is None:
                    break
                for header, sock in received:
                    assert len(header) <= MAX_HEADER
                    features.add(f"message {len(header).bit_length()} {sock is not None}")
                    if sock is not None:
                        sock.close()
        assert len(os.listdir("/proc/self/fd")) == before
    return features


def _frame(c: Choices) -> bytes:
    how = c.byte()
    if how < 32:
        return c.some() or b"\0"
    header = c.take(how & 7)
    length = len(header) if how < 240 else c.number(2)
    return length.to_bytes(2, "little") + bytes((how >> 4 & 1,)) + header


def control(data: bytes) -> set[str]:
    """Whatever comes on the control line, it is a list or the end of file."""
    c = Choices(data)
    ours, theirs = Control.pair()
    features = set()
    with theirs:
        for _ in range(4):
            if not c.more:
                break
            packet = c.some()
            if c.byte() & 1:
                with contextlib.suppress(*WRONG):
                    packet = msgpack.packb(
                        [c.pick([*ODD, "log", "ready", "worker"]) for _ in range(c.byte() % 5)]
                    )
            theirs.send(packet or b"\x90")
            received = ours.receive()
            assert received is not None
            message, fds = received
            assert type(message) is list
            assert not fds
            features.add(f"list {len(message)}")
            if not message:
                break
        ours.close()
    return features


SPECS = [
    UpstreamSpec("socks5", ("127.0.0.1", 1080)),
    UpstreamSpec("socks5", ("127.0.0.1", 1080), "user", "password"),
    UpstreamSpec("tor", "/run/tor/socks"),
]
HOSTS = ["example.com", "192.0.2.1", "2001:db8::1", "x" * 255, "a", "a" * 128]


def socks(data: bytes) -> set[str]:
    """Whatever a SOCKS server answers, it is a connection or an `OpenError`, and no byte too many is read."""
    c = Choices(data)
    spec, host = c.pick(SPECS), c.pick(HOSTS)
    taken = b""
    try:
        dialogue = Dialogue(spec, COMMAND_CONNECT, host, 80)
        for _ in range(64):
            if dialogue.done:
                break
            piece = c.take(1 + c.byte())
            count = dialogue.receive(piece)
            assert count <= len(piece)
            assert dialogue.done or count == len(piece), "what was left is the destination's"
            taken += piece[:count]
        else:
            raise AssertionError("a dialogue without end")
        again = Dialogue(spec, COMMAND_CONNECT, host, 80)
        for at in range(len(taken)):
            assert not again.done, "less was enough"
            assert again.receive(taken[at : at + 1]) == 1
        assert again.done
    except OpenError as error:
        refusal = error
    else:
        return {"connected"}
    assert len(refusal.detail) <= 200
    return {f"refused {refusal.code}"}


NEGOTIATIONS: list[Callable[[UpstreamSpec, str], Negotiation]] = [
    lambda spec, host: Connect(spec, host, 80),
    lambda spec, host: Request(spec, host, 80),
    lambda spec, host: Chain(Dialogue(spec, COMMAND_CONNECT, "p", 80), Connect(spec, host, 80)),
]
# Which mutations alone would take long to find.
_GOOD = b"HTTP/1.1 200 OK\r\n\r\n", b"\0\x5a" + bytes(6), b"\5\0\5\0\0\1" + bytes(6)


def proxies(data: bytes) -> set[str]:
    """The same of HTTP and SOCKS4 proxies and of chains: what was taken is what it takes a byte at a time."""
    c = Choices(data)
    spec, host, make = c.pick(SPECS), c.pick(HOSTS), c.pick(NEGOTIATIONS)
    answer = b"".join(c.pick(_GOOD) if c.byte() & 1 else c.take(c.byte()) for _ in range(4))
    step = 1 + c.byte()

    def outcome(step: int) -> tuple[int, int]:
        """How much was taken, and the code of a refusal."""
        at = 0
        try:
            negotiation = make(spec, host)
            while not negotiation.done:
                piece = answer[at : at + step]
                taken = negotiation.receive(piece)
                assert 0 < taken <= len(piece)
                at += taken
        except OpenError as refusal:
            return -1, refusal.code
        return at, 0

    assert outcome(step) == outcome(1)
    taken, code = outcome(1)
    return {f"{NEGOTIATIONS.index(make)} {'connected' if taken > 0 else f'refused {code:#x}'}"}
