# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames for the tests of the wire: good ones by hand, and strategies that damage them."""

from __future__ import annotations

from struct import pack

from hypothesis import strategies as st

from avne.netstack.wire import checksum, ip, tcp, udp, vnet

V4 = (bytes((10, 213, 0, 2)), bytes((192, 0, 2, 1)))
V6 = (bytes.fromhex("fd61766e650000000000000000000002"), bytes.fromhex("20010db8" + "00" * 11 + "01"))


def frame_v4(
    payload: bytes,
    protocol: int = 6,
    *,
    first: int = 0x45,
    length: int | None = None,
    fragment: int = 0,
    options: bytes = b"",
    damage: int = 0,
    front: bytes = vnet.PLAIN,
) -> bytes:
    """An IPv4 frame; its header checksum is right unless there is `damage`."""
    if options:
        first = 0x40 | (20 + len(options)) // 4
    length = 20 + len(options) + len(payload) if length is None else length
    head = pack(">BBHHHBBH4s4s", first, 0, length, 0, fragment, 64, protocol, 0, *V4) + options
    sum_ = checksum.checksum(head) ^ damage
    return front + head[:10] + sum_.to_bytes(2, "big") + head[12:] + payload


def frame_v6(payload: bytes, protocol: int = 6, front: bytes = vnet.PLAIN) -> bytes:
    return front + pack(">IHBB16s16s", 6 << 28, len(payload), protocol, 64, *V6) + payload


def transport(protocol: int, body: bytes, checksum_at: int, v6: bool = False, damage: int = 0) -> bytes:
    """A frame without offloads: `body`'s checksum is computed as a real sender would."""
    src, dst = V6 if v6 else V4
    body = body[:checksum_at] + b"\0\0" + body[checksum_at + 2 :]
    sum_ = checksum.pseudo_header(src, dst, protocol) + len(body) + checksum.total(body)
    full = ~checksum.fold(sum_) & 0xFFFF ^ damage
    body = body[:checksum_at] + full.to_bytes(2, "big") + body[checksum_at + 2 :]
    return frame_v6(body, protocol) if v6 else frame_v4(body, protocol)


def addresses() -> st.SearchStrategy[tuple[bytes, bytes]]:
    return st.sampled_from([4, 16]).flatmap(
        lambda size: st.tuples(*[st.binary(min_size=size, max_size=size)] * 2)
    )


def _good() -> list[bytes]:
    segments = [
        tcp.HeaderTemplate(*[V4[0], 1000, V4[1], 80]).build(1, 2, tcp.ACK, 9, 3, 0, options) + b"abc"
        for options in (b"", tcp.syn_options(1460, 7, True), tcp.sack_option([(1, 2), (3, 4)]))
    ]
    segments.append(tcp.HeaderTemplate(V6[0], 1000, V6[1], 80).build(1, 2, tcp.SYN, 9, 0, 0))
    datagrams = [udp.build(a, 1000, b, 53, b"question") for a, b in (V4, V6)]
    echo = pack(">BBHI", 8, 0, 0, 7)
    others = [frame_v4(echo, ip.ICMP), frame_v6(b"\x80\0\0\0" + bytes(4), ip.ICMPV6), frame_v4(b"", 132)]
    return segments + datagrams + others


GOOD = _good()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good frame with some bytes changed, cut off, or added; IPv4's header checksum is often mended."""
    frame = bytearray(draw(st.sampled_from(GOOD)))
    for _ in range(draw(st.integers(0, 6))):
        frame[draw(st.integers(0, len(frame) - 1))] = draw(st.integers(0, 255))
    frame = frame[: draw(st.integers(0, len(frame)))] if draw(st.booleans()) else frame
    frame += draw(st.binary(max_size=20))
    if len(frame) >= 30 and frame[10] >> 4 == 4 and draw(st.booleans()):
        header = max(20, (frame[10] & 15) * 4)
        frame[20:22] = b"\0\0"
        frame[20:22] = checksum.checksum(bytes(frame[10 : 10 + header])).to_bytes(2, "big")
    return bytes(frame)
