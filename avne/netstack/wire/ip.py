# SPDX-License-Identifier: GPL-3.0-or-later
"""IPv4 (RFC 791) and IPv6 (RFC 8200) headers: what a guest sent, and what we send it.

`parse` takes a whole frame as read from the tun, the vnet header included, and gives
absolute offsets into it, so nothing is copied.  What is no datagram is an exception: a `Fragment`
of one, a packet `Refused` with an ICMP error, or one that is just `Malformed`.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from avne.errors import Malformed
from avne.netstack.wire import checksum, extensions, vnet
from avne.netstack.wire.extensions import Refused
from avne.netstack.wire.fragments import Fragment

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
_MORE_FRAGMENTS: Final = 0x2000
_OFFSET: Final = 0x1FFF  # in units of 8 bytes

# IPv4 options (RFC 791 §3.1), and what is said of one: ICMP type and code.
_END, _NOP, _LOOSE_ROUTE, _STRICT_ROUTE = 0, 1, 131, 137
PARAMETER_PROBLEM: Final = (12, 0)
SOURCE_ROUTE_FAILED: Final = (3, 5)

_SMALLEST: Final = {TCP: 20, UDP: 8, ICMP: 8, ICMPV6: 8}  # bytes of an upper layer's header


class Datagram(NamedTuple):
    """Where things stand in a frame.  Addresses are 4 or 16 bytes.

    The TTL is not among them: what has arrived has arrived (RFC 1122 §3.2.1.7; RFC 8200 §3).
    """

    protocol: int
    src: bytes
    dst: bytes
    start: int  # of the IP header
    payload: int  # of the upper-layer header
    end: int  # of the datagram; bytes after it are padding


def parse(frame: bytes) -> Datagram:
    """The datagram in `frame`.  Raises `Malformed`, `Refused` or `Fragment`."""
    if len(frame) < vnet.SIZE + HEADER_V4:
        raise Malformed("ip-short")
    version = frame[vnet.SIZE] >> 4  # RFC 1122 §3.2.1.1
    if version == 4:
        return _parse_v4(frame)
    if version == 6:
        return _parse_v6(frame)
    raise Malformed("ip-version")


def _parse_v4(frame: bytes) -> Datagram:
    start = vnet.SIZE
    first, _, length, ident, fragment, _, protocol, _, src, dst = _V4.unpack_from(frame, start)
    header = (first & 15) * 4
    end = start + length
    if header < HEADER_V4 or length < header or end > len(frame):
        raise Malformed("ipv4-length")
    if checksum.total(frame[start : start + header]) != 0xFFFF:  # RFC 1122 §3.2.1.2
        raise Malformed("ipv4-checksum")
    if header > HEADER_V4:
        _options_v4(frame, start, start + header, bool(fragment & _OFFSET))
    if fragment & (_MORE_FRAGMENTS | _OFFSET):
        key = src + dst + bytes((protocol,)) + ident.to_bytes(2, "big")
        head = frame[start : start + 6] + b"\0\0" + frame[start + 8 : start + header]
        offset, more = (fragment & _OFFSET) * 8, bool(fragment & _MORE_FRAGMENTS)
        raise Fragment(key, head, offset, more, frame[start + header : end], 6)
    return Datagram(protocol, src, dst, start, start + header, end)


def _options_v4(frame: bytes, start: int, end: int, later: bool) -> None:
    """RFC 1122 §3.2.1.8, §3.2.1.8 (b): options are ignored (MUST-50), but not an unfinished source route.

    Of a `later` fragment nobody is told (RFC 1122 §3.2.2).
    """
    at = start + HEADER_V4
    while at < end and frame[at] != _END:
        if frame[at] == _NOP:
            at += 1
            continue
        length = frame[at + 1] if at + 1 < end else 0
        if length < 2 or at + length > end:  # RFC 1122 §3.2.2.5
            raise Malformed("ipv4-option") if later else Refused("ipv4-option", PARAMETER_PROBLEM, at - start)
        if frame[at] in (_LOOSE_ROUTE, _STRICT_ROUTE) and (length < 3 or frame[at + 2] <= length):
            # RFC 1122 §3.3.5: we are not where it was going, and send nothing on.
            raise Malformed("ipv4-route") if later else Refused("ipv4-route", SOURCE_ROUTE_FAILED, 0)
        at += length


def _parse_v6(frame: bytes) -> Datagram:
    start = vnet.SIZE
    if len(frame) < start + HEADER_V6:
        raise Malformed("ipv6-short")
    _, length, protocol, _, src, dst = _V6.unpack_from(frame, start)
    payload = start + HEADER_V6
    end = payload + length
    if end > len(frame):
        raise Malformed("ipv6-length")
    if protocol in extensions.HEADERS:
        protocol, payload, named_at = extensions.walk(frame, start, protocol, payload, end)
        if protocol == extensions.FRAGMENT:
            raise _fragment_v6(frame, start, payload, end, named_at)
    return Datagram(protocol, src, dst, start, payload, end)


def _fragment_v6(frame: bytes, start: int, at: int, end: int, named_at: int) -> Fragment:
    """RFC 8200 §4.5: the fragment header at `at`; the field at `named_at` names it."""
    protocol = frame[at]
    field = frame[at + 2] << 8 | frame[at + 3]
    head = bytearray(frame[start:at])
    head[named_at - start] = protocol
    offset, more = field & 0xFFF8, bool(field & 1)
    if more and not offset:
        _whole_chain(frame, start, protocol, at + 8, end)
    key = frame[start + 8 : start + HEADER_V6] + frame[at + 4 : at + 8]
    return Fragment(key, bytes(head), offset, more, frame[at + 8 : end], at + 2 - start)


def _whole_chain(frame: bytes, start: int, protocol: int, payload: int, end: int) -> None:
    """RFC 8200 §4.5: the first fragment holds all headers, the upper layer's included."""
    try:
        chain = extensions.walk(frame, start, protocol, payload, end)
        whole = chain.payload + _SMALLEST.get(chain.protocol, 1) <= end
    except Refused:
        raise
    except Malformed:
        whole = False
    if not whole:
        raise Refused("ipv6-first-fragment", extensions.INCOMPLETE_CHAIN, 0)


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
    """An IP header, without options, for `length` bytes of an upper layer.

    The hop limit is never 0 (RFC 1122 §3.2.1.7), the traffic class always (RFC 8200 §7).
    """
    if len(src) == 16:
        return _V6.pack(6 << 28, length, protocol, HOP_LIMIT, src, dst)
    # RFC 6864 §4.1, RFC 1122 §3.2.1.5: the ID of an atomic datagram carries no meaning.
    fields = (0x45, 0, HEADER_V4 + length, 0, _DONT_FRAGMENT, HOP_LIMIT, protocol)
    sum_ = checksum.checksum(_V4.pack(*fields, 0, src, dst))
    return _V4.pack(*fields, sum_, src, dst)
