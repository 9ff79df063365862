# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_frames import V4, V6, addresses, damaged, frame_v4, frame_v6, transport

from avne.errors import Malformed
from avne.netstack.wire import checksum, ip, tcp, vnet

U16, U32 = st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
BLOCK = st.tuples(U32, U32)


def _parse(frame: bytes) -> tcp.Segment:
    return tcp.parse(frame, ip.parse(frame))


def _header(options: bytes = b"", offset: int | None = None, flags: int = tcp.ACK) -> bytes:
    offset = (20 + len(options)) // 4 if offset is None else offset
    return pack(">HHIIHHHH", 1000, 80, 1, 2, offset << 12 | flags, 512, 0, 0) + options


@given(addresses(), U16, U16, U32, U32, st.integers(0, 63), U16, st.binary(max_size=3000), st.booleans())
def test_what_is_built_is_parsed(pair, src_port, dst_port, seq, ack, flags, wnd, data, sack):
    src, dst = pair
    options = tcp.sack_option([(1, 2), (5, 0xFFFFFFFF)]) if sack else b""
    template = tcp.HeaderTemplate(src, src_port, dst, dst_port)
    frame = template.build(seq, ack, flags, wnd, len(data), 1448 if len(data) > 1448 else 0, options) + data
    datagram = ip.parse(frame)
    segment = tcp.parse(frame, datagram)
    assert (datagram.src, datagram.dst, datagram.end) == (src, dst, len(frame))
    assert tcp.ports(frame, datagram) == (src_port, dst_port)
    assert segment[:4] == (seq, ack, flags, wnd)
    assert segment.payload == data
    assert segment.options.sack == (((1, 2), (5, 0xFFFFFFFF)) if sack else ())


@given(addresses(), st.integers(0, 2000))
@pytest.mark.rfc("9293", "MUST-2")
def test_the_kernel_could_complete_our_checksum(pair, size):
    """NEEDS_CSUM: the field holds the pseudo header's sum, which the kernel sums on with the rest."""
    data = bytes(range(256)) * 8
    frame = tcp.HeaderTemplate(*[pair[0], 1, pair[1], 2]).build(1, 2, tcp.ACK, 3, size, 0) + data[:size]
    flags, kind, _, _, start, offset = vnet._VNET.unpack_from(frame)
    assert (flags, kind, offset) == (vnet.NEEDS_CSUM, 0, 16)
    packet = bytearray(frame[vnet.SIZE :])
    packet[start + 16 : start + 18] = checksum.checksum(bytes(packet[start:])).to_bytes(2, "big")
    completed = vnet.PLAIN + bytes(packet)
    assert _parse(completed).payload == data[:size]


@pytest.mark.parametrize(("pair", "kind"), [(V4, vnet.GSO_TCPV4), (V6, vnet.GSO_TCPV6)])
def test_super_segments_say_how_the_kernel_may_cut_them(pair, kind):
    header = tcp.HeaderTemplate(pair[0], 1, pair[1], 2).build(1, 2, tcp.ACK, 3, 9000, 1448)
    size = 20 if len(pair[0]) == 4 else 40
    assert vnet._VNET.unpack_from(header) == (vnet.NEEDS_CSUM, kind, size + 20, 1448, size, 16)


# ---- options -------------------------------------------------------------------------


@given(U16, st.none() | st.integers(0, 14), st.booleans())
@pytest.mark.rfc("9293", "MUST-4")
@pytest.mark.rfc("9293", "MUST-14")
def test_syn_options_are_parsed_back(mss, scale, sack):
    options = tcp.syn_options(mss, scale, sack)
    assert len(options) % 4 == 0
    assert tcp.parse_options(options) == tcp.Options(mss, scale, sack)


def _kinds(options: bytes) -> list[int]:
    """Which options there are, each walked over by its length."""
    kinds, at = [], 0
    while at < len(options):
        kinds.append(options[at])
        at += 1 if options[at] <= 1 else options[at + 1]
    assert at == len(options)
    return kinds


@pytest.mark.parametrize("scale", [None, 8])
@pytest.mark.parametrize("sack", [False, True])
@pytest.mark.rfc("9293", "MUST-68")
@pytest.mark.rfc("9293", "MUST-69")
@pytest.mark.rfc("7323", "3.2-1")
def test_our_options_have_lengths_and_nothing_behind_an_end(scale, sack):
    """Alignment is by NOPs, so there is no end of the list that zeros would have to follow."""
    offered = _kinds(tcp.syn_options(1460, scale, sack))
    assert [kind for kind in offered if kind != 1] == [2] + [3] * (scale is not None) + [4] * sack
    for blocks in range(1, 6):
        assert _kinds(tcp.sack_option([(n, n + 1) for n in range(blocks)])) == [1, 1, 5]


@given(st.lists(BLOCK, min_size=1, max_size=6))
@pytest.mark.rfc("2018", "3")
@pytest.mark.rfc("2018", "4-5")
def test_sack_blocks_are_parsed_back_and_at_most_four(blocks):
    option = tcp.sack_option(blocks)
    assert len(option) % 4 == 0
    assert len(option) <= 40
    assert tcp.parse_options(option).sack == tuple(blocks[:4])


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (bytes((2, 4, 5, 0xB4)), tcp.Options(mss=1460)),
        (bytes((1, 1, 1, 3, 3, 7)), tcp.Options(window_scale=7)),  # any alignment (MUST-64)
        (bytes((3, 3, 15)), tcp.Options(window_scale=14)),  # RFC 7323 §2.3
        (bytes((3, 3, 255)), tcp.Options(window_scale=14)),
        (bytes((0, 2, 4, 5, 0xB4)), tcp.NO_OPTIONS),  # nothing counts behind the end
        (bytes((34, 10)) + bytes(8) + bytes((4, 2)), tcp.Options(sack_permitted=True)),  # MUST-6
        (bytes((8, 10)) + bytes(8), tcp.NO_OPTIONS),  # timestamps are not offered
        (bytes((253, 2, 254, 2)), tcp.NO_OPTIONS),
        (bytes((2, 3, 1)), tcp.NO_OPTIONS),  # ours, but of another length: skipped
        (bytes((3, 2)), tcp.NO_OPTIONS),
        (bytes((4, 3, 0)), tcp.NO_OPTIONS),
        (bytes((5, 2)), tcp.NO_OPTIONS),
        (bytes((5, 6, 1, 2, 3, 4)), tcp.NO_OPTIONS),
    ],
)
@pytest.mark.rfc("9293", "MUST-4")
@pytest.mark.rfc("9293", "MUST-6")
@pytest.mark.rfc("9293", "MUST-64")
@pytest.mark.rfc("7323", "2.3-3")
def test_options(data, options):
    assert tcp.parse_options(data) == options


@pytest.mark.parametrize("data", [b"\2", b"\2\0", b"\2\1", b"\2\5\1\2", b"\x63", b"\x63\x00", b"\1\3\x28"])
@pytest.mark.rfc("9293", "MUST-7")
def test_an_impossible_option_length_is_survived(data):
    with pytest.raises(Malformed, match="tcp-option-length"):
        tcp.parse_options(data)


@given(st.binary(max_size=40))
def test_any_options_are_options_or_malformed(data):
    try:
        options = tcp.parse_options(data)
    except Malformed:
        return
    assert options.window_scale is None or options.window_scale <= 14
    assert len(options.sack) <= 4


# ---- malformed -------------------------------------------------------------------------

MALFORMED = {
    "short": (frame_v4(bytes(19)), "tcp-short"),
    "empty": (frame_v4(b""), "tcp-short"),
    "offset below the header": (frame_v4(_header(offset=4)), "tcp-offset"),
    "offset beyond the segment": (frame_v4(_header(offset=6)), "tcp-offset"),
    "no checksum": (frame_v4(_header() + b"data"), "tcp-checksum"),
    "checksum": (transport(6, _header() + b"data", 16, damage=1), "tcp-checksum"),
    "checksum v6": (transport(6, _header() + b"data", 16, v6=True, damage=1), "tcp-checksum"),
    "option": (transport(6, _header(b"\2\0\0\0"), 16), "tcp-option-length"),
}


@pytest.mark.parametrize("case", MALFORMED)
@pytest.mark.rfc("9293", "MUST-3")
def test_malformed_segments(case):
    frame, reason = MALFORMED[case]
    with pytest.raises(Malformed) as error:
        _parse(frame)
    assert error.value.reason == reason


@pytest.mark.parametrize("v6", [False, True])
def test_a_full_checksum_is_accepted(v6):
    assert _parse(transport(6, _header() + b"odd", 16, v6=v6)).payload == b"odd"


@pytest.mark.parametrize("flags", [vnet.NEEDS_CSUM, vnet.DATA_VALID])
def test_a_checksum_that_the_kernel_vouches_for_is_not_computed(flags):
    front = bytes((flags,)) + bytes(9)
    for frame in (frame_v4(_header() + b"x", front=front), frame_v6(_header() + b"x", front=front)):
        assert _parse(frame).payload == b"x"


def test_ecn_bits_and_what_was_reserved_are_ignored():
    assert _parse(transport(6, _header(flags=0xFC0 | tcp.SYN), 16)).flags == tcp.SYN


@given(damaged() | st.binary(max_size=60).map(frame_v4))
def test_any_bytes_are_a_segment_or_malformed(frame):
    try:
        segment = _parse(frame)
    except Malformed:
        return
    assert segment.length >= len(segment.payload)
    assert len(segment.payload) <= len(frame)


def test_the_length_counts_syn_and_fin():
    payload = memoryview(b"abc")
    lengths = [tcp.Segment(0, 0, flags, 0, payload).length for flags in (0, tcp.SYN, tcp.FIN, 0x3F)]
    assert lengths == [3, 4, 4, 5]
