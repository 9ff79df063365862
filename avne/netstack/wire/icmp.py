# SPDX-License-Identifier: GPL-3.0-or-later
"""ICMP (RFC 792, RFC 1122 §3.2.2) and ICMPv6 (RFC 4443): the errors we send, and what we are told."""

from __future__ import annotations

from enum import Enum
from struct import Struct
from typing import Final, NamedTuple

from avne.netstack.wire import checksum, ip, vnet

HEADER: Final = 8

_HEADER: Final = Struct(">BBHI")
_V4_UNREACHABLE, _V6_UNREACHABLE = 3, 1
_V4_QUOTE: Final = 548  # RFC 1812 §4.3.2.3: the error SHOULD NOT exceed 576 bytes
_V6_QUOTE: Final = 1232  # RFC 4443 §2.4 (c): nor the minimum IPv6 MTU of 1280
QUOTED: Final = max(_V4_QUOTE, _V6_QUOTE)  # no more bytes of a datagram are looked at
_V4_ERRORS: Final = frozenset((3, 4, 5, 11, 12))  # RFC 1122 §3.2.2: never answered with an error
_V6_FIRST_INFORMATIONAL: Final = 128
_V4_ECHO, _V6_ECHO = 8, 128
_V4_HARD: Final = frozenset((2, 3))  # codes of "unreachable"; 4 is path MTU discovery's (RFC 1191)
_V6_HARD: Final = frozenset((1, 4))  # RFC 5461 §2.2: the same two for ICMPv6

V4_REASSEMBLY_TIME: Final = (11, 1)  # type and code of "fragment reassembly time exceeded"
V6_REASSEMBLY_TIME: Final = (3, 1)


class Unreachable(Enum):
    """Why a destination cannot be reached: (ICMP code, ICMPv6 code) of "destination unreachable".

    What Linux makes of them in connect(2): ENETUNREACH, EHOSTUNREACH, ECONNREFUSED, and for
    PROHIBITED EHOSTUNREACH (IPv4) or EACCES (IPv6).
    """

    NETWORK = (0, 0)
    HOST = (1, 3)
    PORT = (3, 4)
    PROHIBITED = (13, 1)

    def error(self, v4: bool) -> tuple[int, int]:
        """Type and code of the error."""
        return (_V4_UNREACHABLE, self.value[0]) if v4 else (_V6_UNREACHABLE, self.value[1])


class Kind(Enum):
    """What an ICMP message is to us."""

    ECHO = "icmp-echo"
    # A hint that may be a passing one (RFC 1122 §3.2.2.1, §3.2.2.4, §3.2.2.5; RFC 4443 §3.2, §3.3, §3.4), and
    # any ICMPv6 error of unknown type (RFC 4443 §2.4 (a)).
    SOFT = "icmp-soft-error"
    HARD = "icmp-hard-error"  # RFC 9293 §3.9.2.2
    QUENCH = "icmp-source-quench"  # MUST-55, RFC 1122 §3.2.2.3: discarded
    # Of no use, or of an unknown type: silently discarded (RFC 1122 §3.2.2, RFC 4443 §2.4 (b)).  Among
    # them are requests for information and address masks (RFC 1122 §3.2.2.7, §3.2.2.9).
    OTHER = "icmp-other"


ERRORS: Final = frozenset((Kind.SOFT, Kind.HARD, Kind.QUENCH))  # those that quote a packet


class Quoted(NamedTuple):
    """The segment of ours that an error is about, as far as 8 bytes of it go."""

    src: bytes
    dst: bytes
    ports: bytes  # source, then destination: 4 bytes
    seq: int


def kind(frame: bytes, datagram: ip.Datagram) -> Kind:
    """What the message in `frame` is; one too short for its header is of no use."""
    if datagram.end - datagram.payload < _HEADER.size:
        return Kind.OTHER
    what, code = frame[datagram.payload], frame[datagram.payload + 1]
    if datagram.protocol == ip.ICMPV6:
        if what == _V6_ECHO:
            return Kind.ECHO
        if what >= _V6_FIRST_INFORMATIONAL:
            return Kind.OTHER
        return Kind.HARD if what == _V6_UNREACHABLE and code in _V6_HARD else Kind.SOFT
    if what == _V4_ECHO:
        return Kind.ECHO
    if what not in _V4_ERRORS:
        return Kind.OTHER
    if what == 4:
        return Kind.QUENCH
    return Kind.HARD if what == _V4_UNREACHABLE and code in _V4_HARD else Kind.SOFT


def checksum_ok(frame: bytes, datagram: ip.Datagram) -> bool:
    """Whether the message's own checksum holds (RFC 792; RFC 4443 §2.3)."""
    if datagram.protocol == ip.ICMPV6 or frame[0] & vnet.DATA_VALID:
        return ip.transport_checksum_ok(frame, datagram)
    return checksum.total(frame[datagram.payload : datagram.end]) == 0xFFFF


def quoted(frame: bytes, datagram: ip.Datagram) -> Quoted | None:
    """The TCP segment that the error in `frame` quotes (RFC 4443 §2.4 (d)); None where it is no segment."""
    quote = frame[datagram.payload + _HEADER.size : datagram.end]
    if len(datagram.src) == 4:
        at = (quote[0] & 15) * 4 if quote else 0
        if len(quote) < ip.HEADER_V4 or quote[0] >> 4 != 4 or quote[9] != ip.TCP or at < ip.HEADER_V4:
            return None
        src, dst = quote[12:16], quote[16:20]
    else:
        at = ip.HEADER_V6
        if len(quote) < at or quote[0] >> 4 != 6 or quote[6] != ip.TCP:
            return None
        src, dst = quote[8:24], quote[24:40]
    if len(quote) < at + 8:
        return None
    return Quoted(src, dst, quote[at : at + 4], int.from_bytes(quote[at + 4 : at + 8], "big"))


def error(frame: bytes, datagram: ip.Datagram, what: tuple[int, int], pointer: int, source: bytes) -> bytes:
    """A whole frame for the tun: the error of type and code `what` about `frame`, sent by `source`.

    `pointer` is used by Parameter Problem alone; other errors have zero there (RFC 4443 §3.1).
    """
    v4 = len(datagram.src) == 4
    size = _V4_QUOTE if v4 else _V6_QUOTE
    quote = frame[datagram.start : min(datagram.end, datagram.start + size)]
    rest = pointer << 24 if v4 else pointer
    message = _HEADER.pack(*what, 0, rest) + quote
    sum_ = checksum.total(message)
    protocol = ip.ICMP if v4 else ip.ICMPV6
    if not v4:
        sum_ = checksum.fold(sum_ + checksum.pseudo_header(source, datagram.src, protocol) + len(message))
    message = _HEADER.pack(*what, ~sum_ & 0xFFFF, rest) + quote
    return vnet.PLAIN + ip.build(protocol, source, datagram.src, len(message)) + message
