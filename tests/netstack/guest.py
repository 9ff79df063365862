# SPDX-License-Identifier: GPL-3.0-or-later
"""A stack between a guest and workers, all of them the test: frames on one side, messages on the other.

`Net` is the loop of the process without its I/O.  `Socket` is a minimal client TCP: it counts sequence
numbers, keeps what it is sent in order, and acknowledges only when told to.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

from avne.ipc import messages
from avne.ipc.messages import Sender, encode
from avne.netstack import addresses
from avne.netstack.dns.framing import frame_reply
from avne.netstack.dns.resolver import Config
from avne.netstack.stack import Stack
from avne.netstack.wire import ip, tcp, udp

V4, V6 = addresses.TUN
SERVER_V4, SERVER_V6 = bytes((192, 0, 2, 80)), bytes.fromhex("20010db8000000000000000000000080")
MASK = 0xFFFFFFFF
FAMILIES = [SERVER_V4, SERVER_V6]


class Message(NamedTuple):
    """A message to a worker; `payload` is None where there is no such frame."""

    worker: bytes
    name: str
    flow: int
    fields: list[Any]
    payload: bytes | None


class Net:
    """The stack, the time, and what it has sent that nobody has looked at yet."""

    def __init__(
        self,
        *workers: str,
        resolver: tuple[str, int] | None = None,
        capabilities: int = messages.Capability.RESOLVE,
        mode: str = "resolve",
    ) -> None:
        self.stack = Stack(Config(resolver, mode), random.Random(1).randbytes)
        self.now = 1000.0
        self.sockets: dict[tuple[bytes, int, int], Socket] = {}
        self.other: list[bytes] = []  # frames that are not TCP
        self.stray: list[tcp.Segment] = []  # segments for no socket
        self._told: list[Message] = []
        for n, kind in enumerate(workers):
            self.join(b"w%d" % n, kind, capabilities)

    def join(self, worker: bytes, kind: str = "socks5", capabilities: int = 1) -> None:
        self.say(messages.HELLO, 0, messages.WIRE_VERSION, kind, capabilities, worker=worker)
        assert self.told() == [Message(worker, "READY", 0, [], None)]

    # ---- what happens --------------------------------------------------------------

    def frame(self, frame: bytes) -> None:
        """The guest sends `frame`; a turn of the loop follows."""
        self.stack.receive(frame, self.now)
        self.turn()

    def say(
        self, kind: int, flow: int, *fields: Any, payload: bytes | None = None, worker: bytes = b"w0"
    ) -> None:
        """A worker sends a message; a turn follows."""
        self.stack.handle(worker, encode(kind, flow, *fields), payload, self.now)
        self.turn()

    def gone(self, worker: bytes = b"w0") -> None:
        self.stack.worker_gone(worker, self.now)
        self.turn()

    def wait(self, seconds: float) -> None:
        """Time passes; each deadline is met when it is due."""
        end = self.now + seconds
        while (due := self.stack.poll_at()) is not None and due <= end:
            self.now = max(self.now, due)
            self.turn()
        self.now = end
        self.turn()

    def turn(self) -> None:
        self.stack.handle_timer(self.now)
        self.stack.flush(self.now)
        while self.stack.packets:
            self._deliver(b"".join(self.stack.packets.popleft()))
        while self.stack.upstreams.messages:
            worker, header, payload = self.stack.upstreams.messages.popleft()
            kind, flow, *fields = messages.decode(header, Sender.NETSTACK)
            name = messages.TABLE[kind].name
            body = None if payload is None else bytes(payload)
            self._told.append(Message(worker, name, flow, fields, body))

    def _deliver(self, frame: bytes) -> None:
        datagram = ip.parse(frame)
        assert datagram.dst in addresses.TUN
        if datagram.protocol != ip.TCP:
            self.other.append(frame)
            return
        segment, ports = tcp.parse(frame, datagram), tcp.ports(frame, datagram)
        socket = self.sockets.get((datagram.src, ports.src, ports.dst))
        if socket is None:
            self.stray.append(segment)
        else:
            socket.take(segment)

    # ---- what was sent ----------------------------------------------------------------

    def told(self, name: str | None = None) -> list[Message]:
        """What the workers were told since the last time; with `name`, only those of that name."""
        told, self._told = self._told, []
        return [m for m in told if name in (None, m.name)]

    def names(self) -> list[str]:
        return [m.name for m in self.told()]

    def unreachable(self) -> list[tuple[int, int, bytes]]:
        """The ICMP errors since the last time: type, code, quote."""
        frames, self.other = self.other, []
        parsed = [(ip.parse(f), f) for f in frames]
        return [(f[d.payload], f[d.payload + 1], f[d.payload + 8 : d.end]) for d, f in parsed]

    def datagrams(self) -> list[udp.UdpDatagram]:
        frames, self.other = self.other, []
        return [udp.parse(f, ip.parse(f)) for f in frames]

    def ask(self, wire: bytes, server: bytes = addresses.GATEWAY[0], port: int = 5353) -> None:
        """A DNS query over UDP."""
        self.frame(udp.build(V4 if len(server) == 4 else V6, port, server, 53, wire))


class Socket:
    """A guest's TCP socket, as far as these tests need one."""

    def __init__(
        self, net: Net, server: bytes = SERVER_V4, port: int = 80, local: int = 40000, isn: int = 100
    ):
        self.net = net
        self.guest = V4 if len(server) == 4 else V6
        self.server, self.port, self.local = server, port, local
        self.isn = self.snd_nxt = isn
        self.rcv_nxt = 0
        self.wnd = 65535
        self.window = 0  # what the stack offers
        self.template = tcp.HeaderTemplate(self.guest, local, server, port)
        self.data = bytearray()
        self.inbox: list[tcp.Segment] = []
        self.fin = self.reset = False
        net.sockets[server, port, local] = self

    def raw(self, flags: int, seq: int, ack: int = 0, data: bytes = b"", options: bytes = b"") -> bytes:
        """The frame of any segment."""
        wnd = min(self.wnd, 65535)
        return self.template.build(seq & MASK, ack & MASK, flags, wnd, len(data), 0, options) + data

    def syn(self) -> Socket:
        """A SYN, or once more."""
        self.snd_nxt = (self.isn + 1) & MASK
        self.net.frame(self.raw(tcp.SYN, self.isn, options=tcp.syn_options(1460, 0, True)))
        return self

    def send(self, data: bytes = b"", flags: int = 0) -> Socket:
        """A segment in order, with an ACK of all that has come."""
        start, self.snd_nxt = self.snd_nxt, (self.snd_nxt + len(data) + (flags & tcp.FIN)) & MASK
        self.net.frame(self.raw(tcp.ACK | flags, start, self.rcv_nxt, data))
        return self

    def send_fin(self, data: bytes = b"") -> Socket:
        return self.send(data, tcp.FIN)

    def send_reset(self) -> Socket:
        self.net.frame(self.raw(tcp.RST, self.snd_nxt))
        return self

    def take(self, segment: tcp.Segment) -> None:
        self.inbox.append(segment)
        if segment.flags & tcp.RST:
            self.reset = True
            return
        self.window = segment.wnd << (0 if segment.flags & tcp.SYN else 8)
        if segment.flags & tcp.SYN:
            self.rcv_nxt = (segment.seq + 1) & MASK
        elif segment.seq == self.rcv_nxt:
            self.data += segment.payload
            self.rcv_nxt = (segment.seq + segment.length) & MASK
            self.fin = self.fin or bool(segment.flags & tcp.FIN)

    def segments(self) -> list[tcp.Segment]:
        """What has come since the last time."""
        inbox, self.inbox = self.inbox, []
        return inbox


def parked(net: Net, server: bytes = SERVER_V4, port: int = 80, **how: Any) -> tuple[Socket, int]:
    """A socket that has sent its SYN, and its flow's number."""
    socket = Socket(net, server, port, **how).syn()
    (message,) = net.told("OPEN")
    return socket, message.flow


def connected(net: Net, server: bytes = SERVER_V4, credit: int = 1 << 16, **how: Any) -> tuple[Socket, int]:
    """A connected socket, and its flow's number at worker w0."""
    socket, flow = parked(net, server, **how)
    net.say(messages.OPENED, flow, credit)
    socket.send()
    socket.segments()
    assert not net.told()
    return socket, flow


def dns_stream(net: Net, local: int = 50000) -> tuple[Socket, Callable[[bytes], None]]:
    """A connected socket to port 53, and how to ask on it."""
    socket = Socket(net, addresses.GATEWAY[0], 53, local).syn()
    socket.send()
    socket.segments()
    return socket, lambda wire: socket.send(frame_reply(wire)) and None
