# SPDX-License-Identifier: GPL-3.0-or-later
"""A SOCKS5 and an HTTP CONNECT proxy at the gateway's address, for programs that do not look up some names.

curl does so with `.onion` since 8.1 (RFC 7686 §2), unless a proxy looks them up.  A connection to one of the
ports is a flow like others whose destination comes in its first bytes; it goes the same way as what the
program connects to itself, and to nowhere else: not to loopback, and not to this machine.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

from avne.errors import Malformed
from avne.ipc.messages import Capability
from avne.ipc.verdict import Verdict
from avne.netstack import addresses
from avne.netstack.dns import message, special
from avne.netstack.flows import Flow
from avne.netstack.handshake import Connect, Destination, Handshake, Socks5

if TYPE_CHECKING:
    from avne.netstack.stack import Stack
    from avne.netstack.tcp.connection import Connection

# Where programs look for Tor and for proxies.
PORTS: Final[dict[int, type[Handshake]]] = {1080: Socks5, 9050: Socks5, 8080: Connect, 8118: Connect}
_WINDOW: Final = 12 << 10  # for the request and what comes behind it: less than any flow's first credit


class ProxyFlow(Flow):
    """A flow whose destination the client tells."""

    __slots__ = ("_handshake", "_held", "_ours", "_relays")

    def __init__(self, stack: Stack, port: int) -> None:
        super().__init__(stack, None, None)
        self._handshake = PORTS[port]()
        self._held = b""  # what came for the destination before that was open
        self._ours = 0  # bytes of our own that the client has not acknowledged yet
        self._relays = False

    def start(self, connection: Connection) -> None:
        self.connection = connection
        connection.accept(_WINDOW)

    # ---- what the client says ------------------------------------------------------

    def received(self, payload: memoryview, now: float) -> None:
        if self._relays:
            super().received(payload, now)
            return
        self.own_up += len(payload)
        if self.lease is not None or self._waits:
            self._held += payload
        elif not self._handshake.over:
            self._negotiate(bytes(payload), now)

    def received_fin(self, now: float) -> None:
        super().received_fin(now)
        if self.lease is None and not self._waits:
            self.connection.shutdown()  # it has asked for nothing

    def acked(self, count: int, now: float) -> None:
        ours = min(count, self._ours)  # they went before everything else
        self._ours -= ours
        if count > ours:
            super().acked(count - ours, now)

    def flush(self) -> None:
        if self._relays:
            super().flush()

    def _negotiate(self, data: bytes, now: float) -> None:
        handshake = self._handshake
        handshake.receive(data)
        self._say(handshake.output)
        handshake.output = b""
        if handshake.wanted is not None:
            self._held = handshake.rest
            self._open(handshake.wanted, now)
        elif handshake.over:
            self.stack.count("proxy-refused")
            self.connection.shutdown()

    def _say(self, data: bytes) -> None:
        self._ours += len(data)
        self.own_down += len(data)
        self.connection.write(memoryview(data))

    # ---- where it goes ---------------------------------------------------------------

    @property
    def _waits(self) -> bool:
        """It is known where to, but not yet for whom."""
        return self._handshake.wanted is not None and not self._handshake.over

    def _open(self, wanted: Destination, now: float) -> None:
        self.stack.count("proxy-request")
        host = self._host(wanted)
        if host is None:
            self._deny(Verdict.HOST_UNREACHABLE)
            return
        self.open(host, wanted.port, now)

    def _no_worker(self, now: float) -> None:
        self._end(self._handshake.no_way())

    def _host(self, wanted: Destination) -> str | None:
        """What an upstream is told; None for what leads nowhere."""
        address = wanted.address
        if address is None:
            return self._name(wanted.name)
        if addresses.is_mapped(address):
            # The client has looked the name up itself.
            self.stack.port53.names.hold(address)
            self.mapped = address
            return self.stack.port53.names.name_of(address)
        ip = ipaddress.ip_address(address)
        ip = getattr(ip, "ipv4_mapped", None) or ip
        ours = ip.packed in (*addresses.GATEWAY, *addresses.TUN)
        return None if ours or ip.is_loopback or ip.is_unspecified or ip.is_multicast else str(ip)

    def _name(self, name: str) -> str | None:
        """As the resolver has it: names of special use go nowhere, onion names to Tor only."""
        labels = tuple(label.encode("latin-1") for label in name.lower().removesuffix(".").split("."))
        can = self.stack.upstreams.capabilities or Capability(0)
        if special.is_onion(labels) or special.is_elsewhere(labels):
            # The worker's rules may lead there; without any it is Tor's, or nobody's.
            there = Capability.ROUTES in can or (special.is_onion(labels) and Capability.RESOLVE in can)
        else:
            there = special.answer(labels, 0) is None
        if not there:
            return None
        return message.host_of(labels)

    # ---- what the upstream says ------------------------------------------------------

    def opened(self, credit: int, now: float) -> None:
        room = credit - len(self._held) - self.connection.rcv_room
        if room < 0:  # no flow begins with so little
            raise Malformed("wire-credit")
        self._remark("opened")
        self.stack.count("opened")
        self._say(self._handshake.reply(None))
        self._relays = True
        held, self._held = self._held, b""
        self.own_up -= len(held)
        # The client may still send what is left of the first window, and that must be ours to pass on.
        self.connection.grant(room)
        if held:
            super().received(memoryview(held), now)
        self.stack.wake_flow(self)

    def answer(self, what: Verdict, now: float) -> None:
        """The upstream refused: the client is told in its own protocol."""
        self._deny(what)

    def _deny(self, what: Verdict) -> None:
        self._end(self._handshake.reply(what))

    def _end(self, answer: bytes) -> None:
        self._held = b""
        self._handshake.over = True
        self._say(answer)
        self.connection.shutdown()
