# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import contextlib
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_frames import addresses, damaged, frame_v4, frame_v6, transport

from avne.errors import Malformed
from avne.netstack.wire import checksum, ip, udp, vnet


def _parse(frame: bytes) -> udp.UdpDatagram:
    return udp.parse(frame, ip.parse(frame))


def _udp(data: bytes = b"data", length: int | None = None, sum_: int = 0) -> bytes:
    return pack(">HHHH", 1000, 53, 8 + len(data) if length is None else length, sum_) + data


@given(addresses(), st.integers(0, 65535), st.integers(0, 65535), st.binary(max_size=600))
@pytest.mark.rfc("1122", "4.1.3.4-1")
@pytest.mark.rfc("1122", "4.1.3.4-3")
def test_what_is_built_is_parsed(pair, src_port, dst_port, data):
    frame = udp.build(pair[0], src_port, pair[1], dst_port, data)
    assert _parse(frame) == (src_port, dst_port, data)
    # The kernel would complete the checksum.
    start = int.from_bytes(frame[6:8], "little")
    packet = bytearray(frame[vnet.SIZE :])
    full = checksum.checksum(bytes(packet[start:])) or 0xFFFF
    packet[start + 6 : start + 8] = full.to_bytes(2, "big")
    assert _parse(vnet.PLAIN + bytes(packet)) == (src_port, dst_port, data)


MALFORMED = {
    "short": (frame_v4(bytes(7), 17), "udp-short"),
    "length below the header": (frame_v4(_udp(length=7), 17), "udp-length"),
    "length beyond the datagram": (frame_v4(_udp(length=13), 17), "udp-length"),
    "checksum": (transport(17, _udp(), 6, damage=1), "udp-checksum"),
    "checksum v6": (transport(17, _udp(), 6, v6=True, damage=1), "udp-checksum"),
    "no checksum in v6": (frame_v6(_udp(), 17), "udp-checksum"),
}


@pytest.mark.parametrize("case", MALFORMED)
@pytest.mark.rfc("1122", "4.1.3.4-2")
@pytest.mark.rfc("8200", "8.1-2")
def test_malformed_datagrams(case):
    frame, reason = MALFORMED[case]
    with pytest.raises(Malformed) as error:
        _parse(frame)
    assert error.value.reason == reason


@pytest.mark.rfc("768", "checksum")
@pytest.mark.rfc("1122", "4.1.3.4-1")
def test_ipv4_needs_no_checksum():
    assert _parse(frame_v4(_udp(), 17)).data == b"data"


def test_a_full_checksum_is_checked():
    for v6 in (False, True):
        assert _parse(transport(17, _udp(b"odd"), 6, v6=v6)).data == b"odd"


@given(damaged() | st.binary(max_size=30).map(lambda data: frame_v4(data, 17)))
def test_any_bytes_are_a_datagram_or_malformed(frame):
    with contextlib.suppress(Malformed):
        assert len(_parse(frame).data) <= len(frame)
