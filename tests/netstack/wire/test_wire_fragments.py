# SPDX-License-Identifier: GPL-3.0-or-later
"""Fragments and their reassembly (RFC 791, RFC 1122 §3.3.2, RFC 8200 §4.5)."""

from __future__ import annotations

import random
from itertools import pairwise
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_frames import V4, V6, frame_v4, frame_v6

from avne.errors import Malformed
from avne.limits import REASSEMBLY_DATAGRAMS, REASSEMBLY_PIECES
from avne.netstack.wire import checksum, ip, udp, vnet
from avne.netstack.wire.extensions import Refused
from avne.netstack.wire.fragments import TIMEOUT, Fragment, Reassembler

DATA = bytes(range(256)) * 300
FAMILIES = pytest.mark.parametrize("v6", [False, True], ids=["v4", "v6"])


def piece(v6: bool, data: bytes, at: int, more: bool, ident: int = 7, protocol: int = 17) -> bytes:
    """The frame of a fragment, `at` a multiple of 8."""
    if v6:
        return frame_v6(pack(">BBHI", protocol, 0, at | more, ident) + data, 44)
    frame = bytearray(frame_v4(data, protocol, fragment=at // 8 | more << 13))
    frame[vnet.SIZE + 4 : vnet.SIZE + 6] = pack(">H", ident)
    frame[vnet.SIZE + 10 : vnet.SIZE + 12] = bytes(2)
    sum_ = checksum.checksum(bytes(frame[vnet.SIZE : vnet.SIZE + 20]))
    frame[vnet.SIZE + 10 : vnet.SIZE + 12] = pack(">H", sum_)
    return bytes(frame)


def pieces(v6: bool, data: bytes, *cuts: int, ident: int = 7) -> list[bytes]:
    edges = [0, *cuts, len(data)]
    return [piece(v6, data[a:b], a, b < len(data), ident) for a, b in pairwise(edges)]


def give(reassembler: Reassembler, frame: bytes, now: float = 0.0) -> bytes | None:
    with pytest.raises(Fragment) as error:
        ip.parse(frame)
    return reassembler.add(frame, error.value, now)


def whole(frame: bytes | None) -> bytes:
    assert frame is not None
    assert frame.startswith(vnet.PLAIN)
    datagram = ip.parse(frame)
    assert (datagram.protocol, datagram.src, datagram.dst) == (17, *(V4 if len(datagram.src) == 4 else V6))
    return frame[datagram.payload : datagram.end]


@FAMILIES
@given(st.lists(st.integers(1, 127), unique=True, max_size=12), st.integers(0, 1000), st.integers(0, 7))
@pytest.mark.rfc("1122", "3.2.1.4")
@pytest.mark.rfc("1122", "3.3.2-1")
@pytest.mark.rfc("8200", "4.5-1")
def test_pieces_in_any_order_make_the_datagram(v6, cuts, seed, odd):
    data = DATA[: 1024 + odd]
    frames = pieces(v6, data, *sorted(8 * cut for cut in cuts))
    if len(frames) == 1 and not v6:
        return  # no fragment at all
    random.Random(seed).shuffle(frames)
    reassembler = Reassembler()
    for frame in frames[:-1]:
        assert give(reassembler, frame) is None
        assert give(reassembler, frame) is None  # the same once more
    assert whole(give(reassembler, frames[-1])) == data
    assert reassembler.poll_at() == float("inf")


@FAMILIES
@pytest.mark.rfc("1122", "3.3.2-2")
@pytest.mark.rfc("1122", "3.3.2-3")
@pytest.mark.rfc("8200", "5-1")
def test_the_largest_datagram_there_can_be(v6):
    """A full 64 KiB of UDP, as sendto(2) allows, at this MTU."""
    data = DATA[: 65535 - (0 if v6 else 20)]
    first, last = pieces(v6, data, 65520 - (48 if v6 else 24))
    reassembler = Reassembler()
    assert give(reassembler, last) is None
    assert whole(give(reassembler, first)) == data


@FAMILIES
@pytest.mark.rfc("8200", "4.5-5")
def test_a_datagram_that_cannot_be_so_large_is_malformed(v6):
    last = piece(v6, bytes(65536 - 65512 - (0 if v6 else 20) + 1), 65512, False)
    with pytest.raises(Malformed, match="fragment-size") as error:
        give(Reassembler(), last)
    assert isinstance(error.value, Refused) is v6
    if isinstance(error.value, Refused):
        assert (error.value.error, error.value.pointer) == ((4, 0), 42)


@FAMILIES
@pytest.mark.rfc("8200", "4.5-4")
def test_a_piece_that_is_not_the_last_is_a_multiple_of_eight(v6):
    for size in (0, 7, 9):
        with pytest.raises(Malformed, match="fragment-length") as error:
            give(Reassembler(), piece(v6, bytes(size), 8, True))
        assert isinstance(error.value, Refused) is v6
        if isinstance(error.value, Refused):
            assert (error.value.error, error.value.pointer) == ((4, 0), 4)


@FAMILIES
@pytest.mark.parametrize(
    "contradiction",
    [
        (bytes(16), 8, True),  # overlaps both
        (b"x" * 8, 0, True),  # the same place, other data
        (bytes(8), 8, False),  # a second end, before the first
        (bytes(8), 64, True),  # beyond the end
        (bytes(8), 64, False),  # another end
    ],
)
@pytest.mark.rfc("8200", "4.5-7")
def test_pieces_that_contradict_each_other_are_all_thrown_away(v6, contradiction):
    reassembler = Reassembler()
    data, at, more = contradiction
    assert give(reassembler, piece(v6, DATA[:16], 0, True)) is None
    assert give(reassembler, piece(v6, DATA[24:32], 24, False)) is None
    with pytest.raises(Malformed, match="fragment-overlap") as error:
        give(reassembler, piece(v6, data, at, more))
    assert not isinstance(error.value, Refused)
    assert reassembler.poll_at() == float("inf")
    assert give(reassembler, piece(v6, DATA[16:24], 16, True)) is None  # the start of another


@FAMILIES
def test_pieces_of_other_datagrams_do_not_mix(v6):
    reassembler = Reassembler()
    a, b = (pieces(v6, DATA[at : at + 100], 48, ident=at) for at in (0, 100))
    assert give(reassembler, a[0]) is None
    assert give(reassembler, b[1]) is None
    assert whole(give(reassembler, a[1])) == DATA[:100]
    assert whole(give(reassembler, b[0])) == DATA[100:200]


@pytest.mark.rfc("8200", "4.5-2")
def test_an_atomic_fragment_is_whole_by_itself():
    reassembler = Reassembler()
    assert give(reassembler, piece(True, DATA[:16], 0, True)) is None
    assert whole(give(reassembler, piece(True, b"atomic", 0, False))) == b"atomic"
    assert reassembler.poll_at() < float("inf")  # the other with this ID is not touched


def test_options_and_headers_before_the_fragments_stay():
    """IPv4's options and ID, IPv6's headers that come first: an error quotes what was sent."""
    body = pack(">BBHI", 17, 0, 0, 7) + b"atomic"
    frame = give(Reassembler(), frame_v6(bytes((44, 0, 1, 4)) + bytes(4) + body, 60))
    assert whole(frame) == b"atomic"
    assert frame is not None
    assert frame[vnet.SIZE + 40] == 17
    reassembler = Reassembler()
    options = bytes((7, 7, 4)) + bytes(5)
    assert give(reassembler, frame_v4(bytes(8), 17, fragment=0x2000, options=options)) is None
    frame = give(reassembler, frame_v4(b"end", 17, fragment=1))
    assert whole(frame) == bytes(8) + b"end"
    assert frame is not None
    assert frame[vnet.SIZE + 20 : vnet.SIZE + 28] == options


@pytest.mark.parametrize("protocol", [6, 17, 58])
@pytest.mark.rfc("8200", "4.5-6")
def test_the_first_fragment_holds_all_headers(protocol):
    least = 20 if protocol == 6 else 8
    give(Reassembler(), piece(True, bytes(least + -least % 8), 0, True, protocol=protocol))
    if protocol == 6:
        with pytest.raises(Refused) as error:
            ip.parse(piece(True, bytes(16), 0, True, protocol=6))
        assert (error.value.error, error.value.pointer) == ((4, 3), 0)
    options = bytes((protocol, 1)) + bytes(6)  # 16 bytes long
    with pytest.raises(Refused) as error:
        ip.parse(piece(True, options, 0, True, protocol=60))
    assert error.value.error == (4, 3)
    bad = bytes((protocol, 0, 0xBE, 0, 0, 0, 0, 0))  # the chain is complete, an option is refused
    with pytest.raises(Refused) as error:
        ip.parse(piece(True, bad + bytes(24), 0, True, protocol=60))
    assert error.value.error == (4, 2)


@FAMILIES
@pytest.mark.rfc("1122", "3.3.2-5")
@pytest.mark.rfc("8200", "4.5-3")
def test_what_stays_incomplete_is_given_up_after_a_minute(v6):
    reassembler = Reassembler()
    first, last = pieces(v6, DATA[:100], 48)
    give(reassembler, first, 10.0)
    give(reassembler, piece(v6, bytes(8), 8, False, ident=8), 11.0)
    give(reassembler, piece(v6, bytes(8), 96, True), 40.0)  # does not put it off
    assert reassembler.poll_at() == 10.0 + TIMEOUT == 70.0
    assert reassembler.expire(69.9) == []
    assert reassembler.expire(70.0) == [first]
    assert give(reassembler, last, 70.0) is None
    assert reassembler.expire(71.0) == []  # of this one the first is not there
    assert reassembler.poll_at() == 130.0


@FAMILIES
def test_what_may_wait_is_bounded(v6):
    reassembler = Reassembler()
    for n in range(REASSEMBLY_DATAGRAMS + 5):
        give(reassembler, pieces(v6, DATA[:100], 48, ident=n)[0], n)
    assert len(reassembler._datagrams) == REASSEMBLY_DATAGRAMS
    assert reassembler.poll_at() == 5 + TIMEOUT  # the oldest went
    reassembler = Reassembler()
    for n in range(REASSEMBLY_PIECES):
        give(reassembler, piece(v6, bytes(8), 16 * n, True))
    with pytest.raises(Malformed):
        give(reassembler, piece(v6, bytes(8), 16 * REASSEMBLY_PIECES, True))
    assert reassembler.poll_at() == float("inf")


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 40), st.booleans()), max_size=20), st.booleans())
def test_any_pieces_make_a_datagram_or_none(parts, v6):
    reassembler = Reassembler()
    for at, size, more in parts:
        try:
            frame = give(reassembler, piece(v6, DATA[8 * at : 8 * at + size], 8 * at, more or not v6))
        except Malformed:
            continue
        if frame is not None:
            assert whole(frame) == DATA[: len(whole(frame))]


def test_a_reassembled_datagram_has_its_checksum_checked():
    frame = udp.build(V4[0], 1, V4[1], 9, b"x" * 100)
    body = bytearray(frame[vnet.SIZE + 20 :])
    body[6:8] = b"\x12\x34"
    reassembler = Reassembler()
    give(reassembler, piece(False, bytes(body[:48]), 0, True))
    frame = give(reassembler, piece(False, bytes(body[48:]), 48, False))
    assert frame is not None
    with pytest.raises(Malformed, match="udp-checksum"):
        udp.parse(frame, ip.parse(frame))
