# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole session, before there is one: so that nothing is imported or opened for the first time later.

A stack that is thrown away gets what a guest and a worker of ours send: a connection that carries bytes both
ways and ends, one that is refused, one that is reset; questions and answers; what is not TCP, what is in
pieces and what is broken; a capture of it, where there is one; a traceback.  Some 5 ms.
"""

from __future__ import annotations

import io
import os
import select
import socket
import time
from typing import Any

from avne.confine import runtime
from avne.ipc import messages
from avne.ipc.messages import Capability, encode
from avne.ipc.streams import Streams
from avne.ipc.verdict import Verdict
from avne.netstack import addresses
from avne.netstack.dns.resolver import Config
from avne.netstack.stack import Stack
from avne.netstack.wire import ip, tcp, udp, vnet

_WORKER = b"w0.0"
_CAN = Capability.RESOLVE | Capability.PROOF
_SERVERS = bytes((192, 0, 2, 1)), bytes.fromhex("20010db8") + bytes(12)
_QUERY = b"\0\1\1\0\0\1\0\0\0\0\0\0\7example\3com\0\0%c\0\1"
_A, _PTR, _AAAA = 1, 12, 28


class _Session:
    """The stack, its guest and its worker."""

    def __init__(self, name: str | None) -> None:
        self.now = time.monotonic()
        self.stack = Stack(Config(("192.0.2.53", 53)), os.urandom)
        if name is not None:
            from avne.netstack.capture import Capture

            names = self.stack.port53.names
            self.stack.capture = Capture(io.BytesIO(), name, 0, names.name_of, self.stack.counters)
        self._epoll = select.epoll()
        self._streams = Streams(self._epoll, lambda *_: None, self.stack.pool)
        self.stack.upstreams.streams = self._streams
        self.stack.upstreams.lanes.add(_WORKER)
        self.asked: list[list[Any]] = []
        self._say(messages.HELLO, 0, messages.WIRE_VERSION, "tor", int(_CAN))

    def close(self) -> None:
        self.stack.worker_gone(_WORKER, self.now)
        self.turn()
        self._epoll.close()

    def frame(self, frame: bytes) -> None:
        """The guest sends it; once in one piece and once as the tun is read."""
        if self.stack.capture:
            self.stack.capture.guest_sent((frame,), self.now)
        self.stack.receive(frame, self.now)
        self.turn()

    def turn(self) -> None:
        stack = self.stack
        stack.push(self.now)
        for fd, mask in self._epoll.poll(0):
            self._streams.on_event(fd, mask)
        self._streams.now = self.now
        self._streams.take_turn()
        self._streams.handle_timer()
        stack.handle_timer(self.now)
        stack.flush(self.now)
        if stack.capture:
            for packet in stack.packets:
                stack.capture.guest_receives(packet, self.now)
            stack.capture.flush()
        stack.packets.clear()
        while stack.upstreams.messages:
            _, header, _ = stack.upstreams.messages.popleft()
            self.asked.append(messages.decode(header, messages.Sender.NETSTACK))

    def _say(self, kind: int, flow: int, *fields: Any, sock: socket.socket | None = None) -> None:
        self.stack.handle(_WORKER, encode(kind, flow, *fields), sock, self.now)
        self.turn()

    def answer(self, kind: int, *fields: Any, sock: socket.socket | None = None) -> None:
        """The worker answers what it was asked last."""
        self._say(kind, self.asked[-1][1], *fields, sock=sock)

    def question(self, kind: int) -> None:
        self.frame(udp.build(addresses.TUN[0], 5353, addresses.GATEWAY[0], 53, _QUERY % kind))


class _Guest:
    """One TCP connection of the guest's, which believes whatever it is told."""

    def __init__(self, session: _Session, server: bytes, port: int) -> None:
        self._session = session
        self._template = tcp.HeaderTemplate(addresses.TUN[len(server) == 16], port, server, 80)
        self._seq = 1
        self.send(tcp.SYN, options=tcp.syn_options(1460, 0, True))
        self._seq = 2

    def send(self, flags: int, data: bytes = b"", options: bytes = b"") -> None:
        stack = self._session.stack
        connection = next(reversed(stack.connections.values()), None)
        ack = connection.snd_nxt if connection and flags & tcp.ACK else 0
        frame = self._template.build(self._seq, ack, flags, 60000, len(data), 0, options) + data
        self._session.frame(frame)
        self._seq += len(data) + (1 if flags & tcp.FIN else 0)


def warm_up(name: str | None) -> None:
    """Once, when everything is imported; `name` is the capture's, where there is one."""
    session = _Session(name)
    for kind in (_A, _AAAA, _PTR, 16):
        session.question(kind)
    for asked in [one for one in session.asked if one[0] == messages.RESOLVE]:
        session.asked.append(asked)
        session.answer(messages.RESOLVED, 0, ["192.0.2.1"], 60)
    for port, server in enumerate(_SERVERS, 1000):
        _connection(session, server, port)
        _Guest(session, server, port + 100)
        session.answer(messages.REFUSED, int(messages.Code.CONNECTION_REFUSED), int(Verdict.REFUSED), "no")
        _refusals(session, server)
    session.now += 5
    session.turn()
    session.close()
    runtime.rehearse_fault()


def _connection(session: _Session, server: bytes, port: int) -> None:
    """Bytes both ways, an end each."""
    ours, theirs = socket.socketpair()
    with theirs:
        guest = _Guest(session, server, port)
        session.answer(messages.SOCKET, 0, 0, int(_CAN), 0, 0, sock=ours)
        guest.send(tcp.ACK)
        guest.send(tcp.ACK | tcp.PSH, bytes(3000))
        theirs.recv(4096)
        theirs.send(bytes(9000))
        session.turn()
        guest.send(tcp.ACK)
        theirs.shutdown(socket.SHUT_WR)
        session.turn()
        session.answer(messages.ALIVE)
        guest.send(tcp.ACK | tcp.FIN)
        guest.send(tcp.RST)


def _refusals(session: _Session, server: bytes) -> None:
    """What is not TCP, and what is broken."""
    us = addresses.TUN[len(server) == 16]
    plain = bytes((vnet.DATA_VALID,)) + bytes(9)
    session.frame(udp.build(us, 1, server, 443, b"quic"))
    icmp, echo = (ip.ICMP, b"\x08") if len(server) == 4 else (ip.ICMPV6, b"\x80")
    session.frame(plain + ip.build(icmp, us, server, 8) + echo + bytes(7))
    session.frame(plain + ip.build(132, us, server, 4) + b"sctp")
    whole = plain + ip.build(ip.TCP, us, server, 8) + bytes(8)
    for broken in (whole[:15], whole, whole[:16] + b"\x20" + whole[17:], b""):
        session.frame(broken)
