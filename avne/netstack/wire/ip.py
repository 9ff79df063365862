# SPDX-License-Identifier: GPL-3.0-or-later
"""IPv4 (RFC 791) and IPv6 (RFC 8200) headers: what a guest sent, and what we send it.

`parse` takes a whole frame as read from the tun, the vnet header included, and gives
absolute offsets into it, so nothing is copied.  Fragments are refused: with an MTU of
65520 no ordinary program makes one.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from avne.errors import Malformed
from avne.netstack.wire import checksum, vnet

ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17
ICMPV6: Final = 58

HEADER_V4: Final = 20
HEADER_V6: Final = 40
HOP_LIMIT: Final = 64

_V4: Final = Struct(">BBHHHBBH4s4s")
_V6: Final = Struct(">IHBB16s16s")
_DONT_FRAGMENT: Final = 0x4000

# Extension headers that may stand before the upper layer (RFC 8200 §4).
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION, _NO_NEXT = 0, 43, 44, 60, 59
_MAX_EXTENSIONS = 8


class Datagram(NamedTuple):
    """Where things stand in a frame.  Addresses are 4 or 16 bytes."""

    protocol: int
    src: bytes
    dst: bytes
    start: int  # of the IP header
    payload: int  # of the upper-layer header
    end: int  # of the datagram; bytes after it are padding


def parse(frame: bytes) -> Datagram:
    """The datagram in `frame`.  Raises `Malformed`."""
    if len(frame) < vnet.SIZE + HEADER_V4:
        raise Malformed("ip-short")
    version = frame[vnet.SIZE] >> 4
    if version == 4:
        return _parse_v4(frame)
    if version == 6:
        return _parse_v6(frame)
    raise Malformed("ip-version")


def _parse_v4(frame: bytes) -> Datagram:
    start = vnet.SIZE
    first, _, length, _, fragment, _, protocol, _, src, dst = _V4.unpack_from(frame, start)
    header = (first & 15) * 4
    end = start + length
    if header < HEADER_V4 or length < header or end > len(frame):
        raise Malformed("ipv4-length")
    if checksum.total(frame[start : start + header]) != 0xFFFF:
        raise Malformed("ipv4-checksum")
    if fragment & 0x3FFF:  # more fragments, or an offset
        raise Malformed("ipv4-fragment")
    return Datagram(protocol, src, dst, start, start + header, end)


def _parse_v6(frame: bytes) -> Datagram:
    start = vnet.SIZE
    if len(frame) < start + HEADER_V6:
        raise Malformed("ipv6-short")
    _, length, protocol, _, src, dst = _V6.unpack_from(frame, start)
    payload = start + HEADER_V6
    end = payload + length
    if end > len(frame):
        raise Malformed("ipv6-length")
    for _ in range(_MAX_EXTENSIONS):
        if protocol not in (_HOP_BY_HOP, _ROUTING, _DESTINATION):
            break
        if payload + 8 > end:
            raise Malformed("ipv6-extension")
        protocol, payload = frame[payload], payload + 8 + frame[payload + 1] * 8
    if protocol == _FRAGMENT:
        raise Malformed("ipv6-fragment")
    if payload > end or protocol in (_HOP_BY_HOP, _ROUTING, _DESTINATION, _NO_NEXT):
        raise Malformed("ipv6-extension")
    return Datagram(protocol, src, dst, start, payload, end)


def transport_checksum_ok(frame: bytes, datagram: Datagram) -> bool:
    """Whether the TCP, UDP or ICMPv6 checksum holds, where the kernel has not vouched for it.

    RFC 9293 §3.1: "The receiver MUST check it" (MUST-3); a checksum still to be completed
    by hardware (NEEDS_CSUM) covers data that never left this machine's memory.
    """
    if frame[0] & (vnet.NEEDS_CSUM | vnet.DATA_VALID):
        return True
    pseudo = checksum.pseudo_header(datagram.src, datagram.dst, datagram.protocol)
    length = datagram.end - datagram.payload
    data = memoryview(frame)[datagram.payload : datagram.end]
    return checksum.fold(pseudo + length + checksum.total(data)) == 0xFFFF


def build(protocol: int, src: bytes, dst: bytes, length: int) -> bytes:
    """An IP header, without options, for `length` bytes of an upper layer."""
    if len(src) == 16:
        return _V6.pack(6 << 28, length, protocol, HOP_LIMIT, src, dst)
    # RFC 6864 §4.1: the ID of an atomic datagram carries no meaning.
    fields = (0x45, 0, HEADER_V4 + length, 0, _DONT_FRAGMENT, HOP_LIMIT, protocol)
    sum_ = checksum.checksum(_V4.pack(*fields, 0, src, dst))
    return _V4.pack(*fields, sum_, src, dst)
