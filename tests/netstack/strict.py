# SPDX-License-Identifier: GPL-3.0-or-later
"""A strict reader of what the stack sends, independent of avne/netstack/wire: it knows the RFCs only.

`check` raises AssertionError for a frame that a careful kernel, or a person with tcpdump, would frown at.
"""

from __future__ import annotations

import struct

TUN_MTU = 65520
GUEST = (bytes((10, 213, 0, 2)), bytes.fromhex("fd61766e650000000000000000000002"))
FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32
FLAGS = {SYN, SYN | ACK, ACK, ACK | PSH, FIN | ACK, FIN | ACK | PSH, RST, RST | ACK}


def check(frame: bytes) -> str:
    """The protocol of a good frame: "tcp", "udp", "icmp" or "icmpv6"."""
    flags, gso_type, hdr_len, gso_size, csum_start, csum_offset = struct.unpack_from("<BBHHHH", frame)
    packet = frame[10:]
    assert len(packet) <= TUN_MTU
    src, dst, protocol, header = _ipv4(packet) if packet[0] >> 4 == 4 else _ipv6(packet)
    assert dst in GUEST, "sent to the guest"
    assert src not in GUEST, "not from itself"
    body = packet[header:]
    pseudo = src + dst + struct.pack(">II", len(body), protocol)
    if protocol in (6, 17):
        assert flags == 1, "NEEDS_CSUM"
        assert csum_start == header
        assert csum_offset == (16 if protocol == 6 else 6)
        partial = int.from_bytes(body[csum_offset : csum_offset + 2], "big")
        assert partial == _sum(pseudo), "the pseudo header's sum"
    else:
        assert flags == 0
        assert csum_start == csum_offset == 0
    if protocol == 6:
        _tcp(body, header, gso_type, hdr_len, gso_size, len(src) == 4)
        return "tcp"
    assert gso_type == hdr_len == gso_size == 0
    if protocol == 17:
        assert len(body) >= 8
        assert struct.unpack_from(">H", body, 4)[0] == len(body)
        return "udp"
    return _icmp(body, protocol, pseudo)


def _ipv4(packet: bytes) -> tuple[bytes, bytes, int, int]:
    assert len(packet) >= 20
    first, tos, total, _, fragment, ttl, protocol = struct.unpack_from(">BBHHHBB", packet)
    assert first == 0x45, "no options"
    assert tos == 0
    assert total == len(packet)
    assert fragment == 0x4000, "don't fragment, and none"
    assert ttl > 0
    assert _sum(packet[:20]) == 0xFFFF, "the header's checksum"
    return packet[12:16], packet[16:20], protocol, 20


def _ipv6(packet: bytes) -> tuple[bytes, bytes, int, int]:
    assert len(packet) >= 40
    word, length, protocol, hops = struct.unpack_from(">IHBB", packet)
    assert word == 6 << 28
    assert length == len(packet) - 40
    assert hops > 0
    return packet[8:24], packet[24:40], protocol, 40


def _tcp(body: bytes, header: int, gso_type: int, hdr_len: int, gso_size: int, v4: bool) -> None:
    assert len(body) >= 20
    _, _, seq, ack, offset, flags, wnd, _, urgent = struct.unpack_from(">HHIIBBHHH", body)
    size = (offset >> 4) * 4
    assert offset & 15 == 0, "reserved bits"
    assert 20 <= size <= len(body)
    assert flags in FLAGS, f"{flags:#x}"
    assert urgent == 0
    payload = len(body) - size
    if flags & (SYN | RST):
        assert not payload
    if flags & RST:
        assert wnd == 0
    if not flags & ACK:
        assert ack == 0, "a field without meaning is zero (RFC 9293 §3.1)"
    if gso_type:
        assert gso_type == (1 if v4 else 4)
        assert hdr_len == header + size
        assert 0 < gso_size < payload
    else:
        assert hdr_len == gso_size == 0
    _tcp_options(body[20:size], bool(flags & SYN))
    assert 0 <= seq < 1 << 32


def _tcp_options(options: bytes, syn: bool) -> None:
    seen: set[int] = set()
    while options:
        kind = options[0]
        if kind <= 1:
            assert kind == 1, "padding by NOP only"
            options = options[1:]
            continue
        assert kind not in seen
        seen.add(kind)
        length = options[1]
        assert 2 <= length <= len(options)
        value, options = options[2:length], options[length:]
        if kind == 5:
            assert not syn
            assert value
            assert len(value) % 8 == 0
            edges = struct.unpack(f">{len(value) // 4}I", value)
            for left, right in zip(edges[::2], edges[1::2], strict=True):
                assert 0 < (right - left) & 0xFFFFFFFF < 1 << 31
        else:
            assert syn, "an option of SYNs only"
            assert (kind, len(value)) in ((2, 2), (3, 1), (4, 0))
            assert kind != 3 or value[0] <= 14
            assert kind != 2 or int.from_bytes(value, "big") >= 536


# Type → codes: unreachable, time exceeded, parameter problem (RFC 792, RFC 1812, RFC 4443, RFC 7112).
_ICMP_ERRORS = {1: {3: {0, 1, 2, 3, 5, 13}, 11: {1}, 12: {0}}, 58: {1: {0, 1, 3, 4}, 3: {1}, 4: {0, 1, 2, 3}}}


def _icmp(body: bytes, protocol: int, pseudo: bytes) -> str:
    """An error, and nothing else."""
    assert protocol in _ICMP_ERRORS
    assert len(body) >= 8 + (20 if protocol == 1 else 40)
    kind, code, _, rest = struct.unpack_from(">BBHI", body)
    assert code in _ICMP_ERRORS[protocol][kind]
    if (protocol, kind) == (1, 12):
        assert rest & 0xFFFFFF == 0, "a pointer of one byte"
    elif (protocol, kind) != (58, 4):
        assert rest == 0
    assert len(body) <= (576 - 20 if protocol == 1 else 1280 - 40)
    assert _sum(body if protocol == 1 else pseudo + body) == 0xFFFF
    return "icmp" if protocol == 1 else "icmpv6"


def _sum(data: bytes) -> int:
    """RFC 1071, word by word."""
    data += b"\0" * (len(data) & 1)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total
