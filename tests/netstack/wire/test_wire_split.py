# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames read in two parts: what is understood so, and that it is understood as the whole frame would be."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avne.netstack import addresses
from avne.netstack.wire import ip, split, tcp, vnet

SERVERS = bytes((198, 51, 100, 80)), bytes.fromhex("20010db8000000000000000000000080")
FAMILIES = list(zip(addresses.TUN, SERVERS, (split.HEAD_V4, split.HEAD_V6), strict=True))


def frame(family: int, flags: int, text: bytes, seq: int = 7, ack: int = 9, wnd: int = 500) -> bytes:
    guest, server, _ = FAMILIES[family]
    header = tcp.HeaderTemplate(guest, 40000, server, 80).build(seq, ack, flags, wnd, len(text), 0)
    return bytes(header) + text


def parse(family: int, whole: bytes) -> tuple[bytes, tcp.Segment] | None:
    size = FAMILIES[family][2]
    return split.parse(bytearray(whole[:size]), memoryview(whole)[size:])


@given(
    st.integers(0, 1),
    st.sampled_from([tcp.ACK, tcp.ACK | tcp.PSH, tcp.ACK | tcp.FIN, tcp.RST, tcp.RST | tcp.ACK, 0]),
    st.binary(max_size=300),
    *[st.integers(0, 0xFFFFFFFF)] * 2,
    st.integers(0, 0xFFFF),
)
def test_it_is_what_the_whole_frame_is(
    family: int, flags: int, text: bytes, seq: int, ack: int, wnd: int
) -> None:
    whole = frame(family, flags, text, seq, ack, wnd)
    datagram = ip.parse(whole)
    found = parse(family, whole)
    assert found is not None
    key, segment = found
    assert segment == tcp.parse(whole, datagram)
    assert key == datagram.src + datagram.dst + whole[datagram.payload : datagram.payload + 4]


def changed(whole: bytes, at: int, value: int) -> bytes:
    return whole[:at] + bytes((value,)) + whole[at + 1 :]


@pytest.mark.parametrize("family", [0, 1])
def test_what_takes_the_ordinary_way(family: int) -> None:
    good = frame(family, tcp.ACK, b"text")
    start = vnet.SIZE + (ip.HEADER_V4 if family == 0 else ip.HEADER_V6)
    assert parse(family, good) is not None
    others = {
        "checksum not vouched for": changed(good, 0, 0),
        "SYN": frame(family, tcp.SYN, b""),
        "urgent": frame(family, tcp.ACK | tcp.URG, b"text"),
        "TCP options": changed(good, start + 12, 6 << 4),
        "another protocol": changed(good, vnet.SIZE + (9 if family == 0 else 6), ip.UDP),
        "longer than it is": good + b"more",
        "shorter than it is": good[:-1],
        "another version": changed(good, vnet.SIZE, 0x55),
    }
    if family == 0:
        fragment = bytearray(good)
        struct.pack_into(">H", fragment, vnet.SIZE + 6, 0x2000)
        others["fragment"] = bytes(fragment)
        others["header checksum"] = changed(good, vnet.SIZE + 10, good[vnet.SIZE + 10] ^ 1)
        others["IP options"] = changed(good, vnet.SIZE, 0x46)
    else:
        others["extension header"] = changed(good, vnet.SIZE + 6, 0)
    assert [name for name, whole in others.items() if parse(family, whole) is not None] == []
