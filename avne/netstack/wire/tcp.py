# SPDX-License-Identifier: GPL-3.0-or-later
"""TCP segments on the wire (RFC 9293 §3.1, §3.2): parsing, options, and building headers."""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from avne.errors import Malformed
from avne.netstack.wire import checksum, ip, vnet

FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
PSH: Final = 0x08
ACK: Final = 0x10
URG: Final = 0x20

HEADER: Final = 20
_FIXED: Final = Struct(">IIHHHH")
_CHECKSUM_OFFSET: Final = 16

_END, _NOP, _MSS, _WINDOW_SCALE, _SACK_PERMITTED, _SACK = 0, 1, 2, 3, 4, 5
DEFAULT_MSS_V4: Final = 536  # RFC 9293 §3.7.1 (MUST-15)
DEFAULT_MSS_V6: Final = 1220
MAX_WINDOW_SCALE: Final = 14  # RFC 7323 §2.3


class Options(NamedTuple):
    """The options we understand; any other is skipped by its length (RFC 9293 §3.1, MUST-6).

    Timestamps are not among them: never offered, they are ignored (RFC 7323 §3.2).
    """

    mss: int | None = None
    window_scale: int | None = None
    sack_permitted: bool = False
    sack: tuple[tuple[int, int], ...] = ()  # blocks [left edge, right edge), RFC 2018 §3


NO_OPTIONS: Final = Options()


class Segment(NamedTuple):
    seq: int
    ack: int
    flags: int
    wnd: int  # as on the wire, unscaled: 0 … 65535, never negative (MUST-1)
    payload: memoryview
    options: Options = NO_OPTIONS

    @property
    def length(self) -> int:
        """SEG.LEN: the sequence space it occupies (RFC 9293 §3.3.1)."""
        return len(self.payload) + (self.flags & FIN) + ((self.flags & SYN) >> 1)


class Ports(NamedTuple):
    src: int
    dst: int


def parse(frame: bytes, datagram: ip.Datagram) -> Segment:
    """The segment in `frame`; its payload is a view into it.  Raises `Malformed`.

    Options are read in any segment (MUST-5); bits that are reserved, or ECN's, are ignored.
    """
    start = datagram.payload
    end = datagram.end
    if end - start < HEADER:
        raise Malformed("tcp-short")
    seq, ack, offset_flags, wnd, _, _ = _FIXED.unpack_from(frame, start + 4)
    header = (offset_flags >> 12) * 4
    if header < HEADER or start + header > end:
        raise Malformed("tcp-offset")
    if not ip.transport_checksum_ok(frame, datagram):
        raise Malformed("tcp-checksum")
    options = NO_OPTIONS
    if header > HEADER:
        options = parse_options(frame[start + HEADER : start + header])
    payload = memoryview(frame)[start + header : end]
    return Segment(seq, ack, offset_flags & 0x3F, wnd, payload, options)


def ports(frame: bytes, datagram: ip.Datagram) -> Ports:
    """Source and destination port; the frame has been parsed as TCP before."""
    at = datagram.payload
    return Ports(frame[at] << 8 | frame[at + 1], frame[at + 2] << 8 | frame[at + 3])


def parse_options(data: bytes) -> Options:
    """RFC 9293 §3.2 (MUST-4), at any alignment (MUST-64).

    Raises `Malformed` for a length that cannot be (MUST-7).
    """
    mss: int | None = None
    window_scale: int | None = None
    sack_permitted = False
    sack: list[tuple[int, int]] = []
    at = 0
    while at < len(data):
        kind = data[at]
        if kind == _END:
            break
        if kind == _NOP:
            at += 1
            continue
        length = data[at + 1] if at + 1 < len(data) else 0
        if length < 2 or at + length > len(data):
            raise Malformed("tcp-option-length")
        value = data[at + 2 : at + length]
        if kind == _MSS and len(value) == 2:
            mss = int.from_bytes(value, "big")
        elif kind == _WINDOW_SCALE and len(value) == 1:
            window_scale = min(value[0], MAX_WINDOW_SCALE)
        elif kind == _SACK_PERMITTED and not value:
            sack_permitted = True
        elif kind == _SACK and value and len(value) % 8 == 0:
            for block in range(0, len(value), 8):
                edges = value[block : block + 8]
                sack.append((int.from_bytes(edges[:4], "big"), int.from_bytes(edges[4:], "big")))
        at += length
    return Options(mss, window_scale, sack_permitted, tuple(sack))


def syn_options(mss: int, window_scale: int | None, sack_permitted: bool) -> bytes:
    """The options of our SYN or SYN-ACK, a multiple of 4 bytes.

    The MSS is always there (MUST-14, SHLD-5, MAY-3), and in no other segment (MUST-65).  NOPs align:
    there is no end of the list (MUST-69), and all but they have a length (MUST-68).
    """
    options = bytes((_MSS, 4)) + mss.to_bytes(2, "big")
    if window_scale is not None:
        options += bytes((_NOP, _WINDOW_SCALE, 3, window_scale))
    if sack_permitted:
        options += bytes((_NOP, _NOP, _SACK_PERMITTED, 2))
    return options


def sack_option(blocks: list[tuple[int, int]]) -> bytes:
    """At most 4 blocks fit (RFC 2018 §3); two NOPs align them."""
    blocks = blocks[:4]
    option = bytes((_NOP, _NOP, _SACK, 2 + 8 * len(blocks)))
    for left, right in blocks:
        option += left.to_bytes(4, "big") + right.to_bytes(4, "big")
    return option


class HeaderTemplate:
    """Everything of a flow's headers that never changes, to build each from a few numbers.

    The first bytes of every frame we send: vnet header, IP header, TCP header, options.
    The addresses and ports are the connection's for good (MUST-45).  The IP header is the same for
    a segment that is sent again (MAY-4).  The checksum (MUST-2) field holds the pseudo header's sum;
    the kernel would complete it if the packet ever left the machine.
    """

    __slots__ = ("_addresses", "_ip_sum", "_ports", "_pseudo", "_v4", "dst", "ip_header", "src")

    _V4: Final = Struct(">BBHHHBBH8s4sIIHHHH")
    _V6: Final = Struct(">IHBB32s4sIIHHHH")
    _PLAIN_V4: Final = vnet.partial(ip.HEADER_V4, _CHECKSUM_OFFSET)
    _PLAIN_V6: Final = vnet.partial(ip.HEADER_V6, _CHECKSUM_OFFSET)

    def __init__(self, src: bytes, src_port: int, dst: bytes, dst_port: int) -> None:
        self.src = src
        self.dst = dst
        self._v4 = len(src) == 4
        self._addresses = src + dst
        self._ports = src_port.to_bytes(2, "big") + dst_port.to_bytes(2, "big")
        self._pseudo = checksum.pseudo_header(src, dst, ip.TCP)
        # The IPv4 header's sum but for its total length.
        self._ip_sum = 0x4500 + 0x4000 + (ip.HOP_LIMIT << 8 | ip.TCP) + checksum.total(self._addresses)
        self.ip_header = ip.HEADER_V4 if self._v4 else ip.HEADER_V6

    def build(
        self, seq: int, ack: int, flags: int, wnd: int, payload: int, gso_size: int, options: bytes = b""
    ) -> bytes:
        """The headers before `payload` bytes; `gso_size` 0 where they are a single segment."""
        length = HEADER + len(options) + payload
        sum_ = self._pseudo + length
        sum_ = (sum_ & 0xFFFF) + (sum_ >> 16)
        offset_flags = (HEADER + len(options)) << 10 | flags
        if self._v4:
            front = vnet.segmented(20, HEADER + len(options), gso_size) if gso_size else self._PLAIN_V4
            total = ip.HEADER_V4 + length
            ip_sum = self._ip_sum + total
            ip_sum = (ip_sum & 0xFFFF) + (ip_sum >> 16)
            ip_sum = ~((ip_sum & 0xFFFF) + (ip_sum >> 16)) & 0xFFFF
            return (
                front
                + self._V4.pack(
                    0x45, 0, total, 0, 0x4000, ip.HOP_LIMIT, ip.TCP, ip_sum, self._addresses,
                    self._ports, seq, ack, offset_flags, wnd, sum_, 0,
                )
                + options
            )  # fmt: skip
        front = vnet.segmented(40, HEADER + len(options), gso_size) if gso_size else self._PLAIN_V6
        return (
            front
            + self._V6.pack(
                6 << 28, length, ip.TCP, ip.HOP_LIMIT, self._addresses, self._ports,
                seq, ack, offset_flags, wnd, sum_, 0,
            )
            + options
        )  # fmt: skip
