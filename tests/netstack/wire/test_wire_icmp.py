# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from wire_frames import V4, V6, frame_v4, frame_v6

from avne.netstack.wire import checksum, icmp, ip, tcp, vnet
from avne.netstack.wire.icmp import Unreachable

CODES = {"NETWORK": (0, 0), "HOST": (1, 3), "PORT": (3, 4), "PROHIBITED": (13, 1)}


@pytest.mark.parametrize("why", Unreachable, ids=lambda why: why.name)
@pytest.mark.parametrize("size", [0, 5, 3000])
@pytest.mark.parametrize("pair", [V4, V6], ids=["v4", "v6"])
def test_an_error_parses_and_quotes_what_it_is_about(why, size, pair):
    guest, server = pair
    frame = tcp.HeaderTemplate(guest, 1000, server, 80).build(7, 0, tcp.SYN, 9, size, 0) + bytes(size)
    about = ip.parse(frame)
    error = icmp.unreachable(frame, about, why, server)
    answer = ip.parse(error)
    v4 = len(guest) == 4
    assert (answer.src, answer.dst) == (server, guest)
    assert answer.protocol == (ip.ICMP if v4 else ip.ICMPV6)
    assert error[answer.payload] == (3 if v4 else 1)
    assert error[answer.payload + 1] == CODES[why.name][0 if v4 else 1]
    quote = error[answer.payload + 8 :]
    assert frame[vnet.SIZE :].startswith(quote)
    least = len(frame) - vnet.SIZE
    assert len(quote) == min(least, 548 if v4 else 1232)
    assert answer.end - answer.start <= (576 if v4 else 1280)
    if v4:
        assert checksum.total(error[answer.payload :]) == 0xFFFF
    else:
        assert ip.transport_checksum_ok(error, answer)


@pytest.mark.parametrize(
    ("frame", "is_error"),
    [
        (frame_v4(b"\x08\0\0\0", ip.ICMP), False),  # echo
        (frame_v4(b"\x00\0\0\0", ip.ICMP), False),
        *[(frame_v4(bytes((kind,)), ip.ICMP), True) for kind in (3, 4, 5, 11, 12)],
        (frame_v4(b"", ip.ICMP), True),
        (frame_v6(b"\x80\0\0\0", ip.ICMPV6), False),
        (frame_v6(b"\x01\0\0\0", ip.ICMPV6), True),
        (frame_v6(b"\x7f\0\0\0", ip.ICMPV6), True),
        (frame_v6(b"", ip.ICMPV6), True),
        (frame_v4(b"\x03\0", ip.UDP), False),
        (frame_v4(b"", 132), False),
    ],
)
def test_errors_are_known_so_that_none_is_answered(frame, is_error):
    assert icmp.is_error(frame, ip.parse(frame)) is is_error
