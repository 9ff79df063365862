# SPDX-License-Identifier: GPL-3.0-or-later
"""The ICMP errors that we send (RFC 792, RFC 1122 §3.2.2, RFC 4443)."""

from __future__ import annotations

from enum import Enum
from struct import Struct
from typing import Final

from avne.netstack.wire import checksum, ip, vnet

HEADER: Final = 8

_HEADER: Final = Struct(">BBHI")
_V4_TYPE: Final = 3
_V6_TYPE: Final = 1
_V4_QUOTE: Final = 548  # RFC 1812 §4.3.2.3: the error SHOULD NOT exceed 576 bytes
_V6_QUOTE: Final = 1232  # RFC 4443 §2.4 (c): nor the minimum IPv6 MTU of 1280
_V4_ERRORS: Final = frozenset((3, 4, 5, 11, 12))  # RFC 1122 §3.2.2: never answered with an error
_V6_FIRST_INFORMATIONAL: Final = 128


class Unreachable(Enum):
    """Why a destination cannot be reached: (ICMP code, ICMPv6 code) of "destination unreachable".

    What Linux makes of them in connect(2): ENETUNREACH, EHOSTUNREACH, ECONNREFUSED, and for
    PROHIBITED EHOSTUNREACH (IPv4) or EACCES (IPv6).
    """

    NETWORK = (0, 0)
    HOST = (1, 3)
    PORT = (3, 4)
    PROHIBITED = (13, 1)


def is_error(frame: bytes, datagram: ip.Datagram) -> bool:
    """Whether the datagram is itself an ICMP error, to which no error may be sent.

    RFC 1122 §3.2.2 and RFC 4443 §2.4 (e.1); one too short to tell counts as an error.
    """
    if datagram.protocol == ip.ICMP:
        return datagram.payload >= datagram.end or frame[datagram.payload] in _V4_ERRORS
    if datagram.protocol == ip.ICMPV6:
        return datagram.payload >= datagram.end or frame[datagram.payload] < _V6_FIRST_INFORMATIONAL
    return False


def unreachable(frame: bytes, datagram: ip.Datagram, why: Unreachable, source: bytes) -> bytes:
    """A whole frame for the tun: "destination unreachable" about `frame`, sent by `source`."""
    v4_code, v6_code = why.value
    if len(datagram.src) == 4:
        quote = frame[datagram.start : min(datagram.end, datagram.start + _V4_QUOTE)]
        message = _HEADER.pack(_V4_TYPE, v4_code, 0, 0) + quote
        sum_ = checksum.checksum(message)
        message = _HEADER.pack(_V4_TYPE, v4_code, sum_, 0) + quote
        return vnet.PLAIN + ip.build(ip.ICMP, source, datagram.src, len(message)) + message
    quote = frame[datagram.start : min(datagram.end, datagram.start + _V6_QUOTE)]
    message = _HEADER.pack(_V6_TYPE, v6_code, 0, 0) + quote
    pseudo = checksum.pseudo_header(source, datagram.src, ip.ICMPV6) + len(message)
    sum_ = ~checksum.fold(pseudo + checksum.total(message)) & 0xFFFF
    message = _HEADER.pack(_V6_TYPE, v6_code, sum_, 0) + quote
    return vnet.PLAIN + ip.build(ip.ICMPV6, source, datagram.src, len(message)) + message
