# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from struct import pack

import pytest
from hypothesis import given
from wire_frames import V4, V6, damaged, frame_v4, frame_v6, transport

from avne.errors import Malformed
from avne.netstack.wire import checksum, icmp, ip, tcp, vnet
from avne.netstack.wire.icmp import Kind, Unreachable

CODES = {"NETWORK": (0, 0), "HOST": (1, 3), "PORT": (3, 4), "PROHIBITED": (13, 1)}


@pytest.mark.parametrize("why", Unreachable, ids=lambda why: why.name)
def test_what_unreachable_is_called(why):
    assert why.error(v4=True) == (3, CODES[why.name][0])
    assert why.error(v4=False) == (1, CODES[why.name][1])


@pytest.mark.parametrize("size", [0, 5, 3000])
@pytest.mark.parametrize("pair", [V4, V6], ids=["v4", "v6"])
@pytest.mark.rfc("792", "checksum")
@pytest.mark.rfc("792", "quote")
@pytest.mark.rfc("1122", "3.2.2-2")
@pytest.mark.rfc("1122", "3.2.2-4")
@pytest.mark.rfc("4443", "2.3")
@pytest.mark.rfc("4443", "2.4c")
@pytest.mark.rfc("4443", "3.1-3")
def test_an_error_parses_and_quotes_what_it_is_about(size, pair):
    guest, server = pair
    frame = tcp.HeaderTemplate(guest, 1000, server, 80).build(7, 0, tcp.SYN, 9, size, 0) + bytes(size)
    about = ip.parse(frame)
    error = icmp.error(frame, about, (3, 9), 0, server)
    answer = ip.parse(error)
    v4 = len(guest) == 4
    assert (answer.src, answer.dst) == (server, guest)
    assert answer.protocol == (ip.ICMP if v4 else ip.ICMPV6)
    assert error[answer.payload : answer.payload + 2] == bytes((3, 9))
    assert error[answer.payload + 4 : answer.payload + 8] == bytes(4)
    quote = error[answer.payload + 8 :]
    assert frame[vnet.SIZE :].startswith(quote)
    least = len(frame) - vnet.SIZE
    assert len(quote) == min(least, 548 if v4 else 1232)
    assert answer.end - answer.start <= (576 if v4 else 1280)
    assert icmp.checksum_ok(error, answer)
    damage = error[:-1] + bytes((error[-1] ^ 1,))
    assert not icmp.checksum_ok(damage, answer)
    assert not v4 or error[answer.start + 1] == 0


@pytest.mark.rfc("792", "pointer")
def test_a_parameter_problem_points():
    frame = frame_v4(b"payload")
    error = icmp.error(frame, ip.parse(frame), (12, 0), 20, V4[1])
    assert error[vnet.SIZE + 24 : vnet.SIZE + 28] == bytes((20, 0, 0, 0))
    frame = frame_v6(b"payload")
    error = icmp.error(frame, ip.parse(frame), (4, 1), 0x0102, V6[1])
    assert error[vnet.SIZE + 44 : vnet.SIZE + 48] == bytes((0, 0, 1, 2))


def _message(what: int, code: int, protocol: int) -> bytes:
    body = bytes((what, code)) + bytes(6)
    return frame_v4(body, protocol) if protocol == ip.ICMP else frame_v6(body, protocol)


V4_KINDS = {
    **{(what, 0): Kind.OTHER for what in range(256)},
    (8, 0): Kind.ECHO,
    (4, 0): Kind.QUENCH,
    **{(3, code): Kind.SOFT for code in range(16)},
    (3, 2): Kind.HARD,
    (3, 3): Kind.HARD,
    **{(what, code): Kind.SOFT for what in (5, 11, 12) for code in (0, 1)},
}
V6_KINDS = {
    **{(what, 0): Kind.SOFT for what in range(128)},
    **{(what, 0): Kind.OTHER for what in range(128, 256)},
    (128, 0): Kind.ECHO,
    **{(1, code): Kind.SOFT for code in range(8)},
    (1, 1): Kind.HARD,
    (1, 4): Kind.HARD,
}


@pytest.mark.parametrize(("protocol", "kinds"), [(ip.ICMP, V4_KINDS), (ip.ICMPV6, V6_KINDS)])
def test_what_a_message_is_to_us(protocol, kinds):
    for (what, code), kind in kinds.items():
        frame = _message(what, code, protocol)
        assert icmp.kind(frame, ip.parse(frame)) is kind, (what, code)


@pytest.mark.parametrize("protocol", [ip.ICMP, ip.ICMPV6])
def test_a_message_that_is_cut_off_is_of_no_use(protocol):
    for size in range(8):
        body = bytes((8 if protocol == ip.ICMP else 128,)) + bytes(7)
        frame = (frame_v4 if protocol == ip.ICMP else frame_v6)(body[:size], protocol)
        assert icmp.kind(frame, ip.parse(frame)) is Kind.OTHER


@pytest.mark.parametrize("pair", [V4, V6], ids=["v4", "v6"])
@pytest.mark.rfc("4443", "2.4d")
def test_the_segment_that_an_error_is_about(pair):
    guest, server = pair
    ours = tcp.HeaderTemplate(server, 80, guest, 1000).build(0x01020304, 0, tcp.SYN, 9, 0, 0)[vnet.SIZE :]
    v4 = len(guest) == 4
    at = 20 if v4 else 40

    def quoted(quote: bytes) -> icmp.Quoted | None:
        body = pack(">BBHI", 3 if v4 else 1, 0, 0, 0) + quote
        frame = frame_v4(body, ip.ICMP) if v4 else frame_v6(body, ip.ICMPV6)
        return icmp.quoted(frame, ip.parse(frame))

    told = quoted(ours)
    assert told == icmp.Quoted(server, guest, pack(">HH", 80, 1000), 0x01020304)
    assert quoted(ours[: at + 8]) == told
    assert quoted(ours[: at + 7]) is None
    assert quoted(b"") is None
    assert quoted(bytes(60)) is None
    protocol = 9 if v4 else 6
    assert quoted(ours[:protocol] + bytes((17,)) + ours[protocol + 1 :]) is None  # UDP
    if v4:
        assert quoted(bytes((0x44,)) + ours[1:]) is None


@given(damaged())
def test_any_message_is_something(frame):
    try:
        datagram = ip.parse(frame)
    except Malformed:
        return
    if datagram.protocol in (ip.ICMP, ip.ICMPV6):
        assert icmp.kind(frame, datagram)
        icmp.quoted(frame, datagram)


@pytest.mark.rfc("792", "checksum")
def test_a_full_checksum_is_checked():
    body = bytes((8, 0, 0, 0)) + b"ping"
    good = body[:2] + checksum.checksum(body).to_bytes(2, "big") + body[4:]
    for frame, ok in ((frame_v4(good, ip.ICMP), True), (frame_v4(body, ip.ICMP), False)):
        assert icmp.checksum_ok(frame, ip.parse(frame)) is ok
    for damage in (0, 1):
        frame = transport(ip.ICMPV6, bytes((128, 0, 0, 0)) + b"ping", 2, v6=True, damage=damage)
        assert icmp.checksum_ok(frame, ip.parse(frame)) is (not damage)
    vouched = frame_v4(body, ip.ICMP, front=bytes((vnet.DATA_VALID,)) + bytes(9))
    assert icmp.checksum_ok(vouched, ip.parse(vouched))
