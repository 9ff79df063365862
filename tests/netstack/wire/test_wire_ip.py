# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_frames import V4, V6, addresses, damaged, frame_v4, frame_v6

from avne.errors import Malformed
from avne.netstack.wire import ip, vnet


@given(addresses(), st.integers(0, 255), st.binary(max_size=100), st.binary(max_size=9))
def test_what_is_built_is_parsed(pair, protocol, payload, padding):
    src, dst = pair
    if len(src) == 16 and protocol in (0, 43, 44, 59, 60):
        protocol = 6
    header = ip.build(protocol, src, dst, len(payload))
    frame = vnet.PLAIN + header + payload + padding
    start = vnet.SIZE + len(header)
    end = start + len(payload)
    assert ip.parse(frame) == ip.Datagram(protocol, src, dst, vnet.SIZE, start, end)


def test_ipv4_options_are_skipped():
    frame = frame_v4(b"payload", options=bytes((1, 1, 1, 0)))
    datagram = ip.parse(frame)
    assert frame[datagram.payload : datagram.end] == b"payload"


@pytest.mark.parametrize("kind", [0, 43, 60])
def test_ipv6_extension_headers_are_skipped(kind):
    extension = bytes((6, 1)) + bytes(14)
    frame = frame_v6(extension + b"payload", kind)
    datagram = ip.parse(frame)
    assert datagram.protocol == 6
    assert frame[datagram.payload : datagram.end] == b"payload"


MALFORMED = {
    "nothing": (b"", "ip-short"),
    "vnet header only": (vnet.PLAIN, "ip-short"),
    "19 bytes": (vnet.PLAIN + bytes(19), "ip-short"),
    "version 0": (vnet.PLAIN + bytes(40), "ip-version"),
    "version 5": (vnet.PLAIN + b"\x55" + bytes(39), "ip-version"),
    "short header": (frame_v4(b"x", first=0x44), "ipv4-length"),
    "header beyond the end": (frame_v4(b"", first=0x46), "ipv4-length"),
    "total less than the header": (frame_v4(b"", length=19), "ipv4-length"),
    "total beyond the frame": (frame_v4(b"x", length=22), "ipv4-length"),
    "header checksum": (frame_v4(b"x", damage=1), "ipv4-checksum"),
    "first fragment": (frame_v4(b"x", fragment=0x2000), "ipv4-fragment"),
    "last fragment": (frame_v4(b"x", fragment=0x0001), "ipv4-fragment"),
    "v6 short": (vnet.PLAIN + b"\x60" + bytes(38), "ipv6-short"),
    "v6 beyond the frame": (frame_v6(b"x", 6)[:-1], "ipv6-length"),
    "v6 fragment": (frame_v6(bytes(8), 44), "ipv6-fragment"),
    "v6 fragment behind options": (frame_v6(bytes((44, 0)) + bytes(14), 0), "ipv6-fragment"),
    "v6 no next header": (frame_v6(b"", 59), "ipv6-extension"),
    "v6 extension cut off": (frame_v6(bytes(7), 0), "ipv6-extension"),
    "v6 extension beyond the end": (frame_v6(bytes((6, 9)) + bytes(6), 60), "ipv6-extension"),
    "v6 second extension beyond the end": (frame_v6(bytes((60, 0)) + bytes(6), 0), "ipv6-extension"),
    "v6 too many extensions": (frame_v6((bytes((0, 0)) + bytes(6)) * 9, 0), "ipv6-extension"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_headers(case):
    frame, reason = MALFORMED[case]
    with pytest.raises(Malformed) as error:
        ip.parse(frame)
    assert error.value.reason == reason


@given(st.binary(max_size=120) | damaged())
def test_any_bytes_are_a_datagram_or_malformed(frame):
    try:
        datagram = ip.parse(frame)
    except Malformed:
        return
    assert vnet.SIZE == datagram.start < datagram.payload <= datagram.end <= len(frame)
    assert len(datagram.src) == len(datagram.dst) in (4, 16)


@pytest.mark.parametrize("addresses", [V4, V6])
@pytest.mark.rfc("6864", "4.1")
def test_our_headers(addresses):
    header = ip.build(ip.UDP, *addresses, 1000)
    if len(addresses[0]) == 4:
        assert header[6:8] == b"\x40\0"  # don't fragment
        assert header[8] == ip.HOP_LIMIT
    else:
        assert header[7] == ip.HOP_LIMIT
        assert header[:4] == b"\x60\0\0\0"
