# SPDX-License-Identifier: GPL-3.0-or-later
"""What hardware does to a packet that a kernel hands over unfinished, for those who want to see one.

On a tun there is no hardware: transport checksums stay partial, and a frame may be larger than any
IP packet (BIG TCP: its IP length is 0).
"""

from __future__ import annotations

from typing import Final

from avne.errors import Malformed
from avne.netstack.wire import checksum, icmp, ip, tcp, vnet

_IP: Final = vnet.SIZE  # where the IP header begins in a frame
_PROTOCOL_V4: Final = _IP + 9
_PROTOCOL_V6: Final = _IP + 6
_MAX_IP_PAYLOAD: Final = 0xFFFF - ip.HEADER_V4  # of a packet that was split
_CHECKSUM_AT: Final = {ip.TCP: 16, ip.UDP: 6}  # where it stands in the header


def packets(frame: bytearray) -> list[bytearray]:
    """The frames as which `frame` would leave a machine; each still has a vnet header."""
    if len(frame) < _IP + ip.HEADER_V4:
        return [frame]
    parts = split(frame)
    for part in parts:
        complete(part)
    return parts


def complete(frame: bytearray) -> None:
    """Complete the transport checksum, which holds the pseudo header's sum only.

    Offsets outside the frame, which a guest may inject, are left alone.
    """
    place = vnet.partial_checksum(frame)
    if place is not None:
        start, field = place
        with memoryview(frame) as whole:
            sum_ = checksum.checksum(whole[start:])
        _fill(frame, field, sum_)
    elif frame[_PROTOCOL_V4] == ip.ICMP if _is_v4(frame) else frame[_PROTOCOL_V6] == ip.ICMPV6:
        _complete_quote(frame)


def _complete_quote(frame: bytearray) -> None:
    """The same in what an ICMP error quotes: it is the packet as the guest's kernel handed it over.

    One that is quoted in part is left alone: nobody can check it.
    """
    packet = bytes(frame)
    try:
        error = ip.parse(packet)
        if icmp.kind(packet, error) not in icmp.ERRORS:
            return
        quote = vnet.PLAIN + packet[error.payload + icmp.HEADER : error.end]
        quoted = ip.parse(quote)
    except Malformed:
        return
    length = quoted.end - quoted.payload
    field = quoted.payload + _CHECKSUM_AT.get(quoted.protocol, length)
    pseudo = checksum.pseudo_header(quoted.src, quoted.dst, quoted.protocol) + length
    if field + 2 > quoted.end or (pseudo - int.from_bytes(quote[field : field + 2], "big")) % 0xFFFF:
        return
    place = error.payload + icmp.HEADER - vnet.SIZE  # of the quote, less its vnet header
    _fill(frame, place + field, checksum.checksum(quote[quoted.payload : quoted.end]))
    start = error.payload
    frame[start + 2 : start + 4] = bytes(2)
    sum_ = checksum.total(bytes(frame[start : error.end]))
    if error.protocol == ip.ICMPV6:
        sum_ += checksum.pseudo_header(error.src, error.dst, ip.ICMPV6) + error.end - start
    _fill(frame, start + 2, ~checksum.fold(sum_) & 0xFFFF)


def _fill(frame: bytearray, field: int, sum_: int) -> None:
    """Put a checksum in its place, and never 0, which in UDP means that there is none (RFC 768).

    The kernel does so for all protocols; the two are the same number in one's complement.
    """
    frame[field : field + 2] = (sum_ or 0xFFFF).to_bytes(2, "big")


def split(frame: bytearray) -> list[bytearray]:
    """A TCP frame whose IP length is 0 for being too large, as frames with a length; others as they are."""
    v4 = _is_v4(frame)
    header = (frame[_IP] & 15) * 4 if v4 else ip.HEADER_V6
    length_at, protocol_at = (_IP + 2, _PROTOCOL_V4) if v4 else (_IP + 4, _PROTOCOL_V6)
    segment = _IP + header
    if len(frame) < segment + tcp.HEADER or any(frame[length_at : length_at + 2]):
        return [frame]
    if frame[protocol_at] != ip.TCP:
        return [frame]
    data = segment + (frame[segment + 12] >> 4) * 4
    if data < segment + tcp.HEADER or data >= len(frame):
        return [frame]
    room = _MAX_IP_PAYLOAD - (data - segment)
    room -= room % (vnet.gso_size(frame) or 1)
    return [
        _part(frame, header, data, at, min(at + room, len(frame))) for at in range(data, len(frame), room)
    ]


def _part(frame: bytearray, header: int, data: int, start: int, end: int) -> bytearray:
    """The bytes `start` to `end` of a frame's TCP payload, which begins at `data`, as a frame."""
    segment = _IP + header
    part = frame[:data] + frame[start:end]
    part[:_IP] = vnet.partial(header, _CHECKSUM_AT[ip.TCP])
    length = len(part) - segment  # of the upper layer
    seq = int.from_bytes(frame[segment + 4 : segment + 8], "big") + start - data
    part[segment + 4 : segment + 8] = (seq & 0xFFFFFFFF).to_bytes(4, "big")
    if end < len(frame):
        part[segment + 13] &= ~(tcp.FIN | tcp.PSH)  # the last part has them
    if _is_v4(frame):
        part[_IP + 2 : _IP + 4] = (header + length).to_bytes(2, "big")
        part[_IP + 10 : _IP + 12] = bytes(2)
        part[_IP + 10 : _IP + 12] = checksum.checksum(bytes(part[_IP:segment])).to_bytes(2, "big")
        src, dst = part[_IP + 12 : _IP + 16], part[_IP + 16 : _IP + 20]
    else:
        part[_IP + 4 : _IP + 6] = length.to_bytes(2, "big")
        src, dst = part[_IP + 8 : _IP + 24], part[_IP + 24 : _IP + 40]
    pseudo = checksum.fold(checksum.pseudo_header(bytes(src), bytes(dst), ip.TCP) + length)
    field = segment + _CHECKSUM_AT[ip.TCP]
    part[field : field + 2] = pseudo.to_bytes(2, "big")
    return part


def _is_v4(frame: bytearray) -> bool:
    return frame[_IP] >> 4 == 4
