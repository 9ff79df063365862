# SPDX-License-Identifier: GPL-3.0-or-later
"""What the IP layer has to do besides handing datagrams on: pieces, refusals, and ICMP both ways.

All of it is rare.  A whole TCP or UDP datagram without extension headers never comes here.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING

from avne.errors import Malformed
from avne.limits import ICMP_BURST, ICMP_RATE
from avne.netstack import addresses
from avne.netstack.tcp import arrives
from avne.netstack.tcp.connection import INFINITE
from avne.netstack.wire import extensions, icmp, ip, vnet
from avne.netstack.wire.extensions import Refused
from avne.netstack.wire.fragments import Fragment, Reassembler

if TYPE_CHECKING:
    from avne.netstack.tcp.connection import Connection, Packet


class TokenBucket:
    """RFC 4443 §2.4 (f): `burst` at once, and `rate` in each second."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = self._tokens = burst
        self._at = 0.0

    def take(self, now: float) -> bool:
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Internet:
    """`packets` and `counters` are the stack's."""

    def __init__(self, packets: deque[Packet], counters: Counter[str]) -> None:
        self._packets = packets
        self._counters = counters
        self._reassembler = Reassembler()
        self.deadline = INFINITE  # when `handle_timer` is due
        self._bucket = TokenBucket(ICMP_RATE, ICMP_BURST)

    # ---- what did not parse as a datagram -----------------------------------------

    def refused(self, frame: bytes, error: Malformed, now: float) -> bytes | None:
        """Count and answer it; the frame of the whole datagram if it was the last piece of one."""
        try:
            if isinstance(error, Fragment):
                self._counters["fragment"] += 1
                return self._reassembler.add(frame, error, now)
        except Malformed as worse:
            error = worse
        finally:
            self.deadline = self._reassembler.poll_at()
        self._counters[f"malformed-{error.reason}"] += 1
        if isinstance(error, Refused):
            self.send_error(frame, error.error, error.pointer, now, error.even_multicast)
        return None

    # ---- errors that we send ---------------------------------------------------------

    def send_error(
        self, frame: bytes, what: tuple[int, int], pointer: int, now: float, even_multicast: bool = False
    ) -> None:
        """An ICMP error of type and code `what`, where one may be sent at all (RFC 1122 §3.3.8).

        It comes from the gateway, an address of this node (RFC 4443 §2.2).  It is never about an ICMP
        error, about what went to many, or to a source that is not a single host (RFC 1122 §3.2.2,
        RFC 4443 §2.4 (e)).  Our callers never ask for one about a later fragment.
        """
        about = _outline(frame)
        if about.src not in addresses.TUN or (addresses.is_multicast(about.dst) and not even_multicast):
            return
        if about.protocol in (ip.ICMP, ip.ICMPV6) and icmp.kind(frame, about) is not icmp.Kind.ECHO:
            return
        if not self._bucket.take(now):
            self._counters["icmp-limited"] += 1
            return
        gateway = addresses.gateway_for(about.src)
        self._packets.append((icmp.error(frame, about, what, pointer, gateway),))

    def send_unreachable(self, frame: bytes, why: icmp.Unreachable, now: float) -> None:
        """ "Destination unreachable" (RFC 1122 §4.1.3.1, RFC 4443 §3.1), where an error may be sent."""
        self.send_error(frame, why.error(_is_v4(frame)), 0, now)

    # ---- messages for us ---------------------------------------------------------------

    def receive(
        self, frame: bytes, datagram: ip.Datagram, connections: dict[bytes, Connection], now: float
    ) -> None:
        """An ICMP message.  Raises `Malformed`.

        Echo is prohibited, and says so: no message of this kind gets through Tor, and an answer from
        here would tell of a host that was never asked.
        """
        if not icmp.checksum_ok(frame, datagram):
            raise Malformed("icmp-checksum")
        kind = icmp.kind(frame, datagram)
        self._counters[kind.value] += 1
        if kind is icmp.Kind.ECHO:
            self.send_unreachable(frame, icmp.Unreachable.PROHIBITED, now)
        elif kind in (icmp.Kind.SOFT, icmp.Kind.HARD):
            about = icmp.quoted(frame, datagram)
            connection = about and connections.get(about.dst + about.src + about.ports[2:] + about.ports[:2])
            # RFC 9293 §3.9.2.2: directed to the connection that it is about (MUST-54).
            if (
                about
                and connection
                and arrives.icmp_error(connection, about.seq, kind is icmp.Kind.HARD, now)
            ):
                self._counters[f"tcp-{kind.value}"] += 1  # how a soft error is made known (SHLD-25)

    # ---- time ---------------------------------------------------------------------------

    def handle_timer(self, now: float) -> None:
        """RFC 1122 §3.3.2, RFC 8200 §4.5: pieces that stay incomplete are given up, and their sender told."""
        for first in self._reassembler.expire(now):
            what = icmp.V4_REASSEMBLY_TIME if _is_v4(first) else icmp.V6_REASSEMBLY_TIME
            self.send_error(first, what, 0, now)
        self.deadline = self._reassembler.poll_at()


def _is_v4(frame: bytes) -> bool:
    return frame[vnet.SIZE] >> 4 == 4


def _outline(frame: bytes) -> ip.Datagram:
    """A packet as an error needs it, also one that is not a whole datagram or has bad extension headers.

    Its IP header's lengths have been checked.
    """
    start = vnet.SIZE
    if _is_v4(frame):
        payload = start + (frame[start] & 15) * 4
        end = start + int.from_bytes(frame[start + 2 : start + 4], "big")
        src, dst = frame[start + 12 : start + 16], frame[start + 16 : start + 20]
        return ip.Datagram(frame[start + 9], src, dst, start, payload, end)
    protocol, payload = frame[start + 6], start + ip.HEADER_V6
    end = payload + int.from_bytes(frame[start + 4 : start + 6], "big")
    src, dst = frame[start + 8 : start + 24], frame[start + 24 : payload]
    while protocol in extensions.HEADERS and payload + 8 <= end:
        size = 8 if protocol == extensions.FRAGMENT else 8 + frame[payload + 1] * 8
        protocol, payload = frame[payload], payload + size
    return ip.Datagram(protocol, src, dst, start, min(payload, end), end)
