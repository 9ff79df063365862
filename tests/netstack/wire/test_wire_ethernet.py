# SPDX-License-Identifier: GPL-3.0-or-later
"""The headers of a packet socket's frames, and the same of a tun."""

from __future__ import annotations

import pytest
from wire_frames import frame_v4

from avne.netstack.wire import ethernet, vnet

V6 = vnet.PLAIN + b"\x60" + bytes(39)


@pytest.mark.parametrize(
    ("tun", "socket"),
    [
        (vnet.PLAIN, vnet.PLAIN),
        (vnet.partial(20, 16), vnet.partial(34, 16)),
        (vnet.partial(40, 6), vnet.partial(54, 6)),
    ],
)
@pytest.mark.parametrize("packet", [frame_v4(b"", 17)[vnet.SIZE :], V6[vnet.SIZE :]], ids=["v4", "v6"])
def test_places_count_from_the_ethernet_header(tun, socket, packet):
    front = ethernet.front(tun + packet)
    assert front[: vnet.SIZE] == socket
    assert front[vnet.SIZE : vnet.SIZE + 12] == ethernet.GUEST + ethernet.STACK
    assert front[-2:] == (b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd")
    back = bytearray(socket)
    ethernet.settle(back)
    assert bytes(back) == tun


def test_a_super_segment_has_longer_headers_there():
    front = ethernet.front(vnet.segmented(20, 20, 1448) + b"\x45")
    flags, kind, length, size, start, offset = vnet._VNET.unpack(front[: vnet.SIZE])
    assert (flags, kind, length, size, start, offset) == (1, vnet.GSO_TCPV4, 54, 1448, 34, 16)


@pytest.mark.parametrize("start", [0, 1, 13, 14, 0xFFFF])
def test_a_place_that_somebody_has_made_up_stays_a_number(start):
    header = bytearray(vnet.partial(start, 16))
    ethernet.settle(header)
    assert vnet._VNET.unpack(header)[4] == max(0, start - 14)


@pytest.mark.parametrize(
    ("kind", "is_ip"), [("0800", True), ("86dd", True), ("0806", False), ("88b5", False), ("8100", False)]
)
def test_what_is_ip(kind, is_ip):
    assert ethernet.is_ip(ethernet.STACK + ethernet.GUEST + bytes.fromhex(kind)) is is_ip
