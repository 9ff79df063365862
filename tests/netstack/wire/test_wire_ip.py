# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_frames import V4, V6, addresses, damaged, frame_v4, frame_v6

from avne.errors import Malformed
from avne.netstack.wire import checksum, ip, tcp, vnet


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


ROUTE = bytes((10, 0, 0, 9))
OPTIONS = {
    "padding": bytes((1, 1, 1, 0)),
    "unknown": bytes((0x9E, 4, 1, 2)),
    "stream identifier": bytes((136, 4, 0, 1)),
    "security": bytes((130, 11)) + bytes(9) + bytes(1),
    "record route": bytes((7, 7, 4)) + ROUTE + bytes(1),
    "timestamp": bytes((68, 8, 5, 0)) + bytes(4),
    "nothing counts behind the end": bytes((0, 131, 0, 0)),
    "a route followed to its end": bytes((131, 7, 8)) + ROUTE + bytes(1),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.rfc("1122", "3.2.1.8-2")
@pytest.mark.rfc("1122", "3.2.1.8b")
@pytest.mark.rfc("9293", "MUST-50")
def test_ipv4_options_are_ignored(options):
    frame = frame_v4(b"payload", options=options)
    datagram = ip.parse(frame)
    assert frame[datagram.payload : datagram.end] == b"payload"


@pytest.mark.parametrize("ttl", [0, 1])
@pytest.mark.rfc("1122", "3.2.1.7-2")
@pytest.mark.rfc("8200", "3")
def test_a_datagram_at_the_end_of_its_life_has_arrived_all_the_same(ttl):
    frame = bytearray(frame_v4(b"payload"))
    frame[vnet.SIZE + 8] = ttl
    frame[vnet.SIZE + 10 : vnet.SIZE + 12] = b"\0\0"
    sum_ = checksum.checksum(bytes(frame[vnet.SIZE : vnet.SIZE + 20]))
    frame[vnet.SIZE + 10 : vnet.SIZE + 12] = sum_.to_bytes(2, "big")
    assert ip.parse(bytes(frame)).protocol == 6
    frame = bytearray(frame_v6(b"payload"))
    frame[vnet.SIZE + 7] = ttl
    assert ip.parse(bytes(frame)).protocol == 6


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
    "first fragment": (frame_v4(b"x", fragment=0x2000), "fragment"),
    "last fragment": (frame_v4(b"x", fragment=0x0001), "fragment"),
    "option of length 0": (frame_v4(b"x", options=bytes((7, 0, 0, 0))), "ipv4-option"),
    "option beyond the header": (frame_v4(b"x", options=bytes((1, 1, 7, 3))), "ipv4-option"),
    "option cut off": (frame_v4(b"x", options=bytes((1, 1, 1, 7))), "ipv4-option"),
    "v6 short": (vnet.PLAIN + b"\x60" + bytes(38), "ipv6-short"),
    "v6 beyond the frame": (frame_v6(b"x", 6)[:-1], "ipv6-length"),
    "v6 fragment": (frame_v6(bytes(8), 44), "fragment"),
    "v6 fragment behind options": (frame_v6(bytes((44, 0)) + bytes(14), 0), "fragment"),
    "v6 no next header": (frame_v6(b"ignored", 59), "ipv6-no-next-header"),
    "v6 extension cut off": (frame_v6(bytes(7), 0), "ipv6-extension"),
    "v6 extension beyond the end": (frame_v6(bytes((6, 9)) + bytes(6), 60), "ipv6-extension"),
    "v6 second extension beyond the end": (frame_v6(bytes((60, 0)) + bytes(6), 0), "ipv6-extension"),
    "v6 too many extensions": (frame_v6((bytes((60, 0)) + bytes(6)) * 9, 60), "ipv6-extension"),
}


@pytest.mark.parametrize("case", MALFORMED)
@pytest.mark.rfc("1122", "3.2.1.1")
@pytest.mark.rfc("1122", "3.2.1.2")
@pytest.mark.rfc("8200", "4.7")
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
@pytest.mark.rfc("6864", "4.1-1")
@pytest.mark.rfc("9293", "MAY-4")
@pytest.mark.rfc("1122", "3.2.1.7-1")
@pytest.mark.rfc("8200", "7")
@pytest.mark.rfc("1122", "3.2.1.5")
def test_our_headers(addresses):
    """UDP's and ICMP's as built here, TCP's from the template."""
    template = tcp.HeaderTemplate(addresses[0], 1, addresses[1], 2).build(1, 2, tcp.ACK, 3, 0, 0)
    for header in (ip.build(ip.UDP, *addresses, 1000), template[vnet.SIZE :]):
        if len(addresses[0]) == 4:
            assert header[1] == 0  # the DS field
            assert header[4:6] == b"\0\0"  # the ID
            assert header[6:8] == b"\x40\0"  # don't fragment
            assert header[8] == ip.HOP_LIMIT == 64
        else:
            assert header[7] == ip.HOP_LIMIT == 64
            assert header[:4] == b"\x60\0\0\0"
