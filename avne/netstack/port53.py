# SPDX-License-Identifier: GPL-3.0-or-later
"""DNS at the edge of the stack: port 53 of every address is ours, over UDP and over TCP.

This file joins the resolver (dns/resolver.py), which knows questions and answers, to what
carries them: the guest's datagrams and TCP streams on one side; RESOLVE messages and a stream
to the configured DNS server, which is a flow like any other, on the other side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from avne.errors import Malformed
from avne.ipc.messages import Code, ResolveKind
from avne.limits import DNS_MAX_UDP
from avne.netstack.dns import resolver as dns
from avne.netstack.dns.framing import Framing, frame_reply
from avne.netstack.wire import ip, udp

if TYPE_CHECKING:
    from avne.ipc.verdict import Verdict
    from avne.netstack.leases import Lease, Payload
    from avne.netstack.stack import Stack
    from avne.netstack.tcp.connection import Connection

_WINDOW = 64 << 10  # of a guest's TCP stream to port 53
_UNREAD = 256 << 10  # bytes of answers that a guest may leave unread: a stub asks a few at a time


class _Datagram(NamedTuple):
    """Who asked over UDP, and whom: the answer comes from there.

    RFC 1122 §3.3.4.2, §4.1.3.5 and §4.1.3.6.
    """

    src: bytes
    src_port: int
    dst: bytes

    def answer(self, stack: Stack, wire: bytes, now: float) -> None:
        stack.packets.append((udp.build(self.dst, 53, self.src, self.src_port, wire),))


class GuestStream:
    """A guest's TCP connection to port 53 (the `App`)."""

    def __init__(self, port53: Port53) -> None:
        self._port53 = port53
        self._framing = Framing()
        self._asked: set[bytes] = set()  # the IDs of queries that have no answer yet
        self._unread = 0  # bytes of answers that have not been acknowledged
        self._open = True
        self._finished = False
        self._connection: Connection

    def start(self, connection: Connection) -> None:
        self._connection = connection
        connection.accept(_WINDOW)

    def answer(self, stack: Stack, wire: bytes, now: float) -> None:
        if not self._open:
            return
        if self._unread > _UNREAD:
            stack.count("dns-unread")
            self._connection.abort(now)
            return
        reply = frame_reply(wire)
        self._unread += len(reply)
        self._connection.write(memoryview(reply))
        self._asked.discard(wire[:2])
        self._shut_when_answered()

    def established(self, now: float) -> None:
        pass

    def received(self, payload: memoryview, now: float) -> None:
        self._connection.grant(len(payload))
        try:
            for wire in self._framing.feed(bytes(payload)):
                self._asked.add(wire[:2])
                self._port53.ask(wire, self, False, now)
        except Malformed as error:
            self._port53.stack.count(f"malformed-{error.reason}")
            self._connection.abort(now)

    def received_fin(self, now: float) -> None:
        self._finished = True
        self._shut_when_answered()

    def _shut_when_answered(self) -> None:
        """RFC 7766 §6.2.4: a client that has sent its last query still gets its answers."""
        if self._finished and not self._asked:
            self._open = False
            self._connection.shutdown()

    def acked(self, count: int, now: float) -> None:
        self._unread -= count

    def closed(self, reset: bool, now: float) -> None:
        self._open = False


class ServerStream:
    """The stream to the configured DNS server (the `Session` of a flow at a worker)."""

    def __init__(self, port53: Port53, number: int) -> None:
        self._port53 = port53
        self._number = number
        self._unsent: list[bytes] = []
        self.lease: Lease | None = None

    def send(self, data: bytes) -> None:
        self._unsent.append(data)
        self._push()

    def close(self) -> None:
        if self.lease is not None:
            self.lease.reset()
        self._account()

    def _account(self) -> None:
        if self.lease is not None:
            self._port53.stack.account.resolver_ended(self.lease)
            self.lease = None

    def _push(self) -> None:
        data = b"".join(self._unsent)
        if self.lease is not None and data:
            count = min(len(data), self.lease.up_credit)
            if count:
                self.lease.send([memoryview(data)[:count]])
            self._unsent = [data[count:]]

    def opened(self, credit: int, now: float) -> None:
        self._port53.resolver.stream_opened(self._number, now)
        self._push()

    def refused(self, verdict: Verdict, code: int, detail: str, now: float) -> None:
        self._ended(code, now)

    def data(self, payload: Payload, now: float) -> None:
        if self.lease is not None:
            self.lease.consumed(len(payload), now)
        self._port53.resolver.stream_data(self._number, bytes(payload), now)

    def credit(self, count: int, now: float) -> None:
        self._push()

    def shut(self, now: float) -> None:
        self.close()
        self._ended(Code.SUCCEEDED, now)

    def reset(self, code: int, now: float) -> None:
        self._ended(code, now)

    def _ended(self, code: int, now: float) -> None:
        self._account()
        self._port53.streams.pop(self._number, None)
        self._port53.resolver.stream_closed(self._number, code, now)


class Port53:
    """All of DNS, for a stack."""

    def __init__(self, stack: Stack, config: dns.Config, token: Callable[[int], bytes]) -> None:
        self.stack = stack
        self.resolver = dns.Resolver(config, token)
        self.resolver.counters = stack.counters
        self.names = self.resolver.names
        self.streams: dict[int, ServerStream] = {}

    def accept(self) -> GuestStream:
        """The app of a new TCP connection to port 53."""
        return GuestStream(self)

    def datagram(self, datagram: ip.Datagram, packet: udp.UdpDatagram, now: float) -> None:
        """A query over UDP.  Raises `Malformed`."""
        if len(packet.data) > DNS_MAX_UDP:
            raise Malformed("dns-size")
        client = _Datagram(datagram.src, packet.src_port, datagram.dst)
        self.ask(packet.data, client, True, now)

    def ask(self, wire: bytes, client: _Datagram | GuestStream, over_udp: bool, now: float) -> None:
        """A query.  Raises `Malformed`."""
        self.stack.count("dns-query")
        self.stack.account.asked(wire)
        self.resolver.query(wire, client, over_udp, now)

    def leases(self) -> Iterator[Lease]:
        """Of the streams to the configured DNS server that are open."""
        for stream in self.streams.values():
            if stream.lease is not None:
                yield stream.lease

    def upstream_changed(self, now: float) -> None:
        self.resolver.upstream_changed(self.stack.upstreams.capabilities)

    def resolved(self, query: int, code: int, answers: list[str], ttl: int, now: float) -> None:
        self.resolver.resolved(query, code, answers, ttl, now)

    def poll_at(self) -> float | None:
        return self.resolver.poll_at()

    def handle_timer(self, now: float) -> None:
        self.resolver.handle_timer(now)

    def flush(self, now: float) -> None:
        """Carry out what the resolver has decided."""
        commands = self.resolver.commands
        while commands:
            self._carry_out(commands.popleft(), now)

    def _carry_out(self, command: dns.Command, now: float) -> None:
        match command:
            case dns.Answer(client, wire):
                assert isinstance(client, _Datagram | GuestStream)
                client.answer(self.stack, wire, now)
            case dns.Resolve(query, kind, what):
                if not self.stack.upstreams.resolve(query, ResolveKind(kind), what):
                    self.resolver.resolved(query, Code.UPSTREAM_DOWN, [], 0, now)
            case dns.OpenStream(number, host, port):
                self._open(number, host, port, now)
            case dns.SendStream(number, data):
                if number in self.streams:
                    self.streams[number].send(data)
            case dns.CloseStream(number):
                stream = self.streams.pop(number, None)
                if stream is not None:
                    stream.close()
            case dns.Log(level, event, fields):
                self.stack.logs.append((level, event, fields))

    def _open(self, number: int, host: str, port: int, now: float) -> None:
        stream = ServerStream(self, number)
        stream.lease = self.stack.upstreams.open(stream, host, port)
        if stream.lease is None:
            self.resolver.stream_closed(number, Code.UPSTREAM_DOWN, now)
        else:
            self.streams[number] = stream
