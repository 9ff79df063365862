# SPDX-License-Identifier: GPL-3.0-or-later
"""IPv6 extension headers (RFC 8200 §4)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_frames import frame_v4, frame_v6

from avne.errors import Malformed
from avne.netstack.wire import extensions, ip, vnet
from avne.netstack.wire.extensions import Refused

HOP, ROUTING, FRAGMENT, NO_NEXT, DESTINATION = 0, 43, 44, 59, 60
PADDING = bytes((1, 4)) + bytes(4)  # PadN


def header(following: int, body: bytes = PADDING) -> bytes:
    """An options header: `body` is a whole number of 8 bytes less 2."""
    assert len(body) % 8 == 6
    return bytes((following, len(body) // 8)) + body


def routing(following: int, kind: int, left: int) -> bytes:
    return bytes((following, 0, kind, left)) + bytes(4)


def leads_to(frame: bytes) -> tuple[int, bytes]:
    datagram = ip.parse(frame)
    return datagram.protocol, frame[datagram.payload : datagram.end]


def refused(frame: bytes) -> Refused:
    with pytest.raises(Refused) as error:
        ip.parse(frame)
    return error.value


@given(st.lists(st.sampled_from([ROUTING, DESTINATION]), max_size=6), st.booleans())
@pytest.mark.rfc("8200", "4.1-1")
@pytest.mark.rfc("8200", "4-1")
def test_headers_are_accepted_in_any_order_and_number(kinds, hop_by_hop):
    kinds = [HOP, *kinds] if hop_by_hop else kinds
    chain = b"payload"
    following = 6
    for kind in reversed(kinds):
        chain = (routing(following, 253, 0) if kind == ROUTING else header(following)) + chain
        following = kind
    assert leads_to(frame_v6(chain, following)) == (6, b"payload")


@pytest.mark.parametrize("size", [6, 14, 2038])
@pytest.mark.rfc("8200", "4.2-3")
def test_padding_of_any_length_is_known(size):
    for pad in (bytes(size), bytes((1, min(size, 257) - 2)) + bytes(min(size, 257) - 2)):
        body = pad + bytes(size - len(pad))
        assert leads_to(frame_v6(header(17, body) + b"data", DESTINATION)) == (17, b"data")


@pytest.mark.rfc("8200", "4-3")
def test_hop_by_hop_stands_first_or_is_not_known():
    error = refused(frame_v6(header(HOP) + header(6) + b"payload", DESTINATION))
    assert (error.error, error.pointer) == ((4, 1), 40)  # the field that says "hop-by-hop"
    error = refused(frame_v6(header(DESTINATION) + header(HOP) + header(6), HOP))
    assert error.pointer == 48


def _option(kind: int) -> bytes:
    return header(6, bytes((0, 1, 0, kind, 1, 9)))  # behind a Pad1 and a PadN


@pytest.mark.parametrize("where", [HOP, DESTINATION])
@pytest.mark.rfc("8200", "4.2-2")
def test_what_an_unknown_option_demands(where):
    assert leads_to(frame_v6(_option(0x3E) + b"payload", where)) == (6, b"payload")
    with pytest.raises(Malformed) as error:
        ip.parse(frame_v6(_option(0x7E) + b"payload", where))
    assert not isinstance(error.value, Refused)
    for kind, even_multicast in ((0xBE, True), (0xFE, False)):
        told = refused(frame_v6(_option(kind) + b"payload", where))
        assert (told.error, told.pointer, told.even_multicast) == ((4, 2), 40 + 5, even_multicast)


@pytest.mark.rfc("8200", "4.2-1")
@pytest.mark.rfc("8200", "4-1")
def test_options_and_headers_are_processed_in_their_order():
    silent_first = header(6, bytes((0x7E, 0, 0xBE, 0, 0, 0)))
    with pytest.raises(Malformed) as error:
        ip.parse(frame_v6(silent_first, DESTINATION))
    assert not isinstance(error.value, Refused)
    loud_first = header(6, bytes((0xBE, 0, 0x7E, 0, 0, 0)))
    assert refused(frame_v6(loud_first, DESTINATION)).pointer == 42
    # The option is met before the header behind it.
    chain = header(ROUTING, bytes((0xBE, 0, 0, 0, 0, 0))) + routing(6, 0, 1)
    assert refused(frame_v6(chain, DESTINATION)).error == (4, 2)


@pytest.mark.parametrize("body", [bytes((0x1E, 5, 0, 0, 0, 0)), bytes((0, 0, 0, 0, 0, 0x1E))])
def test_an_option_beyond_its_header_is_malformed(body):
    with pytest.raises(Malformed, match="ipv6-option"):
        ip.parse(frame_v6(header(6, body), DESTINATION))


@pytest.mark.parametrize("kind", [0, 2, 3, 4, 253])
@pytest.mark.rfc("8200", "4.4-1")
@pytest.mark.rfc("8200", "4.4-2")
def test_a_routing_header_is_ignored_where_nothing_is_left_of_it(kind):
    assert leads_to(frame_v6(routing(6, kind, 0) + b"payload", ROUTING)) == (6, b"payload")
    error = refused(frame_v6(header(ROUTING) + routing(6, kind, 1) + b"payload", DESTINATION))
    assert (error.error, error.pointer) == ((4, 0), 48 + 2)


@given(st.binary(max_size=80), st.sampled_from(sorted(extensions.HEADERS)))
def test_any_headers_lead_somewhere_or_are_malformed(body, kind):
    frame = frame_v6(body, kind)
    try:
        datagram = ip.parse(frame)
    except Malformed as error:
        if isinstance(error, Refused) and error.pointer >= len(frame) - vnet.SIZE:
            raise
    else:
        assert datagram.protocol not in extensions.HEADERS
        assert datagram.payload <= datagram.end


# ---- the source routes of IPv4 ----------------------------------------------------------------


@pytest.mark.parametrize("kind", [131, 137])
@pytest.mark.parametrize("option", [bytes((7, 4)) + bytes(4), bytes((2,)), bytes((11, 8)) + bytes(8)])
@pytest.mark.rfc("1122", "3.3.5-2")
def test_a_source_route_that_goes_on_is_refused(kind, option):
    options = bytes((1, kind)) + option
    options += bytes(-len(options) % 4)
    error = refused(frame_v4(b"payload", options=options))
    assert error.error == (3, 5)
    with pytest.raises(Malformed) as later:
        ip.parse(frame_v4(b"payload", options=options, fragment=1))
    assert not isinstance(later.value, Refused)


@pytest.mark.rfc("1122", "3.2.2.5-1")
def test_an_option_that_cannot_be_is_pointed_at():
    error = refused(frame_v4(b"payload", options=bytes((1, 1, 7, 9))))
    assert (error.error, error.pointer) == ((12, 0), 22)
    with pytest.raises(Malformed) as later:
        ip.parse(frame_v4(b"payload", options=bytes((1, 1, 7, 9)), fragment=0x2001))
    assert not isinstance(later.value, Refused)
