# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole network of an environment, without a socket: packets and messages in, the same out.

Theory of operation
    Every packet that a program inside sends comes to `receive`; nothing is routed.  TCP ends
    here (tcp/), each connection joined to a flow at an upstream worker (flows.py, upstreams.py);
    DNS is answered here (port53.py, dns/).  All else gets an honest ICMP error, or, where none may
    be sent, is dropped; either way it is counted in `counters`, by what it was.

    One turn of the caller's loop: `receive` for each packet, `handle` for each message of a
    worker, `push`, a turn of `upstreams.streams`, `handle_timer`, then `flush`; then it sends `packets` and
    `upstreams.messages`.  `poll_at` says when the next turn is due at the latest.  `now` is in seconds on one
    monotonic clock.
"""

from __future__ import annotations

import socket
from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from avne.errors import Malformed
from avne.ipc import messages
from avne.ipc.messages import Code, Sender
from avne.ipc.pool import Pool
from avne.ipc.verdict import Verdict
from avne.limits import MAX_FLOWS, MAX_HALF_OPEN, TUN_MTU
from avne.netstack import account, addresses, proxy
from avne.netstack.deadlines import Deadlines
from avne.netstack.dns.resolver import Config
from avne.netstack.flows import Flow
from avne.netstack.internet import Internet
from avne.netstack.leases import Attachment
from avne.netstack.owners import Owners
from avne.netstack.port53 import Port53
from avne.netstack.tcp import arrives, isn, output, seq, state
from avne.netstack.tcp.connection import INFINITE, App, Connection, Packet
from avne.netstack.upstreams import Upstreams
from avne.netstack.wire import icmp, ip, split, tcp, udp, vnet
from avne.netstack.wire.fragments import Fragment
from avne.netstack.wire.icmp import Unreachable

if TYPE_CHECKING:
    from avne.netstack.capture import Capture

DNS_PORT = 53
PAGES_PORT = 80  # at the gateway
CHALLENGES_PER_SECOND = 100  # RFC 5961 §7
_OPENING = tcp.SYN | tcp.ACK | tcp.RST | tcp.FIN  # the first alone opens a connection

LogEvent = tuple[str, str, dict[str, Any]]  # level, event, fields


class Stack:
    """`token(n)` gives n random bytes; `names` says how names are answered."""

    def __init__(self, names: Config, token: Callable[[int], bytes]) -> None:
        self.packets: deque[Packet] = deque()
        self.logs: deque[LogEvent] = deque()
        self.counters: Counter[str] = Counter()
        self.account = account.Account()
        self.internet = Internet(self.packets, self.counters)
        self.capture: Capture | None = None  # who wants to hear what the upstream says of a flow
        self.upstreams = Upstreams()
        self.optimistic: frozenset[int] = frozenset()  # ports whose SYNs are answered before the upstream has
        self.connections: dict[bytes, Connection] = {}
        self.half_open = 0
        self.pool = Pool()  # whose room `receive_text` is called with
        self.text: memoryview | None = None  # what it is called with, for as long as that is
        self.port53 = Port53(self, names, token)
        self.owners = Owners(token)
        self._secret = token(16)
        self._reopened = (b"", 0)  # the connection that was replaced last, and its SND.NXT
        self._dirty: dict[Connection, None] = {}
        self.held: dict[Connection, None] = {}  # which owe an ACK that may wait
        self._dirty_flows: dict[Flow, None] = {}
        self._deadlines = Deadlines(self.connections)
        self.schedule = self._deadlines.schedule
        self._challenges = 0
        self._challenge_second = 0

    # ---- packets -------------------------------------------------------------------

    def receive(self, frame: bytes, now: float) -> None:
        """One frame from the tun, its vnet header included.  Never raises for what a guest sends."""
        self.account.take(self._packet(frame, now), len(frame) - vnet.SIZE)

    def _packet(self, frame: bytes, now: float) -> str:
        """Gives what it was."""
        try:
            datagram = ip.parse(frame)
            if datagram.protocol == ip.TCP:
                self._tcp(frame, datagram, now)
                return account.TCP
            return self._other(frame, datagram, now)
        except Malformed as error:
            whole = self.internet.refused(frame, error, now)
            if whole is not None:
                self._packet(whole, now)
            return account.FRAGMENT if isinstance(error, Fragment) else account.MALFORMED

    def receive_text(self, head: bytearray, text: memoryview, now: float) -> None:
        """One frame in two parts (wire/split.py); `text` is the beginning of the room of `pool`.

        A flow that wants it keeps it there.  Text that is ahead of its turn is read again
        as part of a frame of its own, to be kept.
        """
        found = split.parse(head, text)
        if found is not None:
            key, segment = found
            connection = self.connections.get(key)
            if connection is not None:
                is_next = arrives.is_next(connection, segment)
                if is_next or not text or arrives.is_old(connection, segment):
                    self.text = text
                    (arrives.next_segment if is_next else arrives.other_segment)(connection, segment, now)
                    self.text = None
                    self.account.take_text(len(head) + len(text) - vnet.SIZE)
                    return
        self.receive(bytes(head) + text, now)

    def _tcp(self, frame: bytes, datagram: ip.Datagram, now: float) -> None:
        segment = tcp.parse(frame, datagram)
        key = datagram.src + datagram.dst + frame[datagram.payload : datagram.payload + 4]
        connection = self.connections.get(key)
        if connection is not None:
            if segment.flags & _OPENING == tcp.SYN and self._replaces(connection, segment):
                self._reopened = (key, connection.snd_nxt)
                connection.close(True, now)
            else:
                arrives.segment(connection, segment, now)
                return
        if not self._from_guest(datagram):
            return
        if addresses.is_multicast(datagram.dst):
            self.count("tcp-multicast")  # RFC 9293 §3.9.2.3: silently discarded (MUST-57)
        elif segment.flags & _OPENING == tcp.SYN:
            self._syn(frame, datagram, segment, key, now)
        elif reset := arrives.answer_unknown(_template(frame, datagram), segment):
            self.packets.append((reset,))

    @staticmethod
    def _replaces(connection: Connection, syn: tcp.Segment) -> bool:
        """Whether the guest has given the old connection up and uses its port again.

        RFC 9293 §3.10.7.4 (TIME-WAIT, MAY-2): a SYN beyond the old sequence space; and a parked
        SYN's successor, for which nothing has been promised yet.
        """
        if connection.state is state.TIME_WAIT:
            return seq.lt(connection.rcv_nxt, syn.seq)
        return connection.state is state.PARKED and syn.seq != connection.irs

    def _syn(self, frame: bytes, datagram: ip.Datagram, syn: tcp.Segment, key: bytes, now: float) -> None:
        """RFC 9293 §3.10.7.2: the stack listens on every address and port.

        There is no block in LISTEN, so no connection keeps a port from listening or is touched by another
        one's SYN (MUST-41, MUST-42).
        """
        if len(self.connections) >= MAX_FLOWS or self.half_open >= MAX_HALF_OPEN:
            self.count("syn-dropped")
            return
        self.count("tcp-syn")
        ports = tcp.ports(frame, datagram)
        if ports.dst == DNS_PORT:
            stream = self.port53.accept()
            connection = self._connection(stream, frame, datagram, syn, key, now)
            stream.start(connection)
        elif ports.dst in proxy.PORTS and datagram.dst in addresses.GATEWAY:
            flow = proxy.ProxyFlow(self, ports.dst)
            flow.start(self._connection(flow, frame, datagram, syn, key, now))
        else:
            self._open_flow(frame, datagram, syn, key, now)

    def _open_flow(
        self, frame: bytes, datagram: ip.Datagram, syn: tcp.Segment, key: bytes, now: float
    ) -> None:
        mapped = datagram.dst if addresses.is_mapped(datagram.dst) else None
        # No more of it than an ICMP error quotes: it may carry 64 KiB.
        flow = Flow(self, frame[: datagram.start + icmp.QUOTED], mapped)
        self.half_open += 1
        flow.connection = self._connection(flow, frame, datagram, syn, key, now)
        if mapped is not None:
            self.port53.names.hold(mapped)
        port = tcp.ports(frame, datagram).dst
        if datagram.dst in addresses.GATEWAY and port != PAGES_PORT:
            flow.answer(Verdict.REFUSED, now)
            return
        host = self._host(datagram.dst)
        if host is None:
            flow.answer(Verdict.HOST_UNREACHABLE, now)
            return
        flow.open(host, port, now)

    def _host(self, address: bytes) -> str | None:
        """What a worker is asked for; None for an address of the pools that stands for no name."""
        if address in addresses.GATEWAY:
            return addresses.GATEWAY_NAME  # the environment's own pages
        return self.port53.names.name_of(address) if addresses.is_mapped(address) else _text(address)

    def _connection(
        self, app: App, frame: bytes, datagram: ip.Datagram, syn: tcp.Segment, key: bytes, now: float
    ) -> Connection:
        iss = isn.initial(now, key, self._secret)
        if self._reopened[0] == key:
            iss = isn.beyond(iss, self._reopened[1])
            self._reopened = (b"", 0)
        # MUST-67, RFC 8200 §8.3
        mss = TUN_MTU - tcp.HEADER - (ip.HEADER_V4 if len(datagram.src) == 4 else ip.HEADER_V6)
        connection = Connection(self, app, key, _template(frame, datagram), iss, mss)
        connection.open_passive(syn)
        self.connections[key] = connection
        return connection

    def _other(self, frame: bytes, datagram: ip.Datagram, now: float) -> str:
        """Everything that is not TCP: DNS is answered, the rest refused and counted.  Gives what it was."""
        if not self._from_guest(datagram):
            return account.FOREIGN
        if addresses.is_multicast(datagram.dst):
            self.count(f"multicast-{datagram.protocol}")
            return account.MULTICAST
        if datagram.protocol == ip.UDP:
            return self._udp(frame, datagram, now)
        if datagram.protocol in (ip.ICMP, ip.ICMPV6):
            self.internet.receive(frame, datagram, self.connections, now)
            return account.ICMP
        self.count(f"protocol-{datagram.protocol}")
        self.internet.send_unreachable(frame, Unreachable.PROHIBITED, now)
        return account.OTHER

    def _udp(self, frame: bytes, datagram: ip.Datagram, now: float) -> str:
        packet = udp.parse(frame, datagram)
        if packet.dst_port == DNS_PORT:
            self.port53.datagram(datagram, packet, now)
            return account.DNS
        self.count(f"udp-{packet.dst_port}" if packet.dst_port in (123, 443) else "udp")
        self.internet.send_unreachable(frame, Unreachable.PORT, now)
        return account.UDP

    def _from_guest(self, datagram: ip.Datagram) -> bool:
        """Whether the source is the environment's own address; a forged one is dropped.

        RFC 9293 §3.9.2.3 (MUST-63), RFC 1122 §3.2.1.3 and §4.1.3.6.
        """
        if datagram.src in addresses.TUN:
            return True
        self.count("source-foreign")
        return False

    # ---- messages --------------------------------------------------------------------

    def handle(self, worker: bytes, header: bytes, attachment: Attachment, now: float) -> None:
        """One message from a worker.  Raises `Malformed`; the caller then cuts the worker off."""
        message = messages.decode(header, Sender.WORKER)
        kind = message[0]
        row = messages.TABLE[kind]
        if attachment is None:
            good = not row.payload
        elif isinstance(attachment, socket.socket):
            good = row.socket
        else:
            good = row.payload
        if not good:
            raise Malformed("wire-payload")
        if kind == messages.HELLO:
            joined = self.upstreams.join(worker, message)
            self.port53.upstream_changed(now)
            self.logs.append(("info", "worker-joined", {"worker": worker.decode(), "kind": joined.kind}))
            return
        known = self.upstreams.workers.get(worker)
        if known is None:
            raise Malformed("wire-before-hello")
        if kind == messages.RESOLVED:
            _, query, code, answers, ttl = message
            if self.upstreams.resolved(known, query, code):
                self.port53.resolved(query, code, answers, ttl, now)
        elif kind == messages.DRAIN:
            self.upstreams.retire(worker)
        elif kind == messages.PING:
            self.upstreams.messages.append((worker, messages.encode(messages.PONG, 0, message[2]), None))
        elif kind not in (messages.PONG, messages.STATS):
            self.upstreams.receive(known, message, attachment, now)

    def worker_gone(self, worker: bytes, now: float) -> None:
        """A worker has died, or was cut off: its flows get a RST, its queries an error."""
        upstreams = self.upstreams
        if (
            worker in upstreams.workers and worker not in upstreams.lanes
        ):  # the supervisor knows of the others
            self.logs.append(("info", "worker-gone", {"worker": worker.decode()}))
        for query in upstreams.leave(worker, now):
            self.port53.resolved(query, Code.UPSTREAM_DOWN, [], 0, now)
        self.port53.upstream_changed(now)

    # ---- time ------------------------------------------------------------------------

    def poll_at(self) -> float | None:
        """When `handle_timer` is due."""
        dns = self.port53.poll_at()
        pieces = min(self.internet.deadline, self.owners.deadline)
        if pieces != INFINITE:
            dns = pieces if dns is None else min(dns, pieces)
        first = self._deadlines.poll_at()
        if first == INFINITE:
            return dns
        return first if dns is None else min(first, dns)

    def handle_timer(self, now: float) -> None:
        """Everything whose time has come."""
        self._deadlines.handle_timer(now)
        self.port53.handle_timer(now)
        self.owners.handle_timer(now)
        if self.internet.deadline <= now:
            self.internet.handle_timer(now)

    def push(self, now: float) -> None:
        """What the guest has sent is handed to the upstream."""
        while self._dirty_flows:
            flow, _ = self._dirty_flows.popitem()
            flow.flush()
        if self.port53.resolver.commands:
            self.port53.flush(now)

    def flush(self, now: float, hold: bool = False) -> None:
        """The end of a turn: what is left to push; data, windows and ACKs to the guest.

        With `hold` those ACKs that may wait are left in `held`, for a millisecond at most.
        """
        if self._dirty_flows or self.port53.resolver.commands:
            self.push(now)
        dirty, held = self._dirty, self.held
        if held and not hold:
            dirty |= held
            held.clear()
        while dirty:
            connection, _ = dirty.popitem()
            if output.flush(connection, now, hold):
                held[connection] = None

    # ---- what connections and flows call ------------------------------------------------

    def wake(self, connection: Connection) -> None:
        self._dirty[connection] = None

    def wake_flow(self, flow: Flow) -> None:
        self._dirty_flows[flow] = None

    def challenge(self, now: float) -> bool:
        second = int(now)
        if second != self._challenge_second:
            self._challenge_second, self._challenges = second, 0
        self._challenges += 1
        return self._challenges <= CHALLENGES_PER_SECOND

    def forget(self, flow: Flow) -> None:
        """A flow is over."""
        if flow.mapped is not None:
            self.port53.names.release(flow.mapped)
            flow.mapped = None

    def drop(self, connection: Connection) -> None:
        if self.connections.get(connection.key) is connection:
            del self.connections[connection.key]

    def count(self, what: str) -> None:
        self.counters[what] += 1

    # ---- the end -----------------------------------------------------------------------

    def owing(self) -> int:
        """Connections whose guest may still have bytes for the upstream."""
        return sum(1 for c in self.connections.values() if isinstance(c.app, Flow) and c.app.owes)


def _template(frame: bytes, datagram: ip.Datagram) -> tcp.HeaderTemplate:
    """Headers of the answers to `datagram`."""
    ports = tcp.ports(frame, datagram)
    return tcp.HeaderTemplate(datagram.dst, ports.dst, datagram.src, ports.src)


def _text(address: bytes) -> str:
    """The address as people and SOCKS servers write it (RFC 5952)."""
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)
