# SPDX-License-Identifier: GPL-3.0-or-later
"""UDP datagrams (RFC 768)."""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from avne.errors import Malformed
from avne.netstack.wire import checksum, ip, vnet

HEADER: Final = 8
_UDP: Final = Struct(">HHHH")
_CHECKSUM_OFFSET: Final = 6


class UdpDatagram(NamedTuple):
    src_port: int
    dst_port: int
    data: bytes


def parse(frame: bytes, datagram: ip.Datagram) -> UdpDatagram:
    """The UDP datagram in `frame`.  Raises `Malformed`, also for a wrong checksum (RFC 1122 §4.1.3.4)."""
    start = datagram.payload
    if datagram.end - start < HEADER:
        raise Malformed("udp-short")
    src_port, dst_port, length, sum_ = _UDP.unpack_from(frame, start)
    if not HEADER <= length <= datagram.end - start:
        raise Malformed("udp-length")
    # RFC 768: an all zero checksum means that the transmitter generated none; not so in IPv6 (RFC 8200 §8.1).
    if (sum_ or len(datagram.src) == 16) and not ip.transport_checksum_ok(frame, datagram):
        raise Malformed("udp-checksum")
    return UdpDatagram(src_port, dst_port, frame[start + HEADER : start + length])


def build(src: bytes, src_port: int, dst: bytes, dst_port: int, data: bytes) -> bytes:
    """A whole frame for the tun, with a checksum (RFC 1122 §4.1.3.4) that the kernel may complete."""
    length = HEADER + len(data)
    partial = checksum.fold(checksum.pseudo_header(src, dst, ip.UDP) + length)
    header = ip.build(ip.UDP, src, dst, length)
    udp = _UDP.pack(src_port, dst_port, length, partial)
    return vnet.partial(len(header), _CHECKSUM_OFFSET) + header + udp + data
