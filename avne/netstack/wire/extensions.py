# SPDX-License-Identifier: GPL-3.0-or-later
"""IPv6 extension headers (RFC 8200 §4), processed strictly in the order in which they appear.

No option and no routing type is known here but the padding: the guest is a host, and so are we.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from avne.errors import Malformed

HOP_BY_HOP: Final = 0
ROUTING: Final = 43
FRAGMENT: Final = 44
NO_NEXT: Final = 59
DESTINATION: Final = 60
HEADERS: Final = frozenset((HOP_BY_HOP, ROUTING, FRAGMENT, NO_NEXT, DESTINATION))

_MAX_HEADERS: Final = 8
_NEXT_HEADER_AT: Final = 6  # in the IPv6 header
_PAD1, _PADN = 0, 1

# What is said of a packet that is refused: ICMPv6 type and code (RFC 4443 §3.4).
ERRONEOUS_FIELD: Final = (4, 0)
UNKNOWN_NEXT_HEADER: Final = (4, 1)
UNKNOWN_OPTION: Final = (4, 2)
INCOMPLETE_CHAIN: Final = (4, 3)


class Refused(Malformed):
    """A packet whose sender is told why: ICMP type and code, and `pointer`, an offset in the packet.

    `even_multicast`: also where it was sent to a multicast address (RFC 4443 §2.4 (e.3)).
    """

    def __init__(
        self, reason: str, error: tuple[int, int], pointer: int, even_multicast: bool = False
    ) -> None:
        super().__init__(reason)
        self.error = error
        self.pointer = pointer
        self.even_multicast = even_multicast


class Chain(NamedTuple):
    """Where a chain of headers leads: to an upper layer, or to a fragment header."""

    protocol: int
    payload: int  # of what comes next; the fragment header itself where that is FRAGMENT
    next_header_at: int  # the field that names `protocol`


def walk(frame: bytes, start: int, protocol: int, payload: int, end: int) -> Chain:
    """From the first header, at `payload`, to the upper layer.  Raises `Malformed`, `Refused`.

    They may be in any order and number (RFC 8200 §4.1), but for hop-by-hop options, which come first.
    `start` is the IPv6 header's offset.  A packet without an upper layer (59) has nothing that could be
    delivered (RFC 8200 §4.7); it is dropped.
    """
    named_at = start + _NEXT_HEADER_AT
    for n in range(_MAX_HEADERS):
        if protocol not in HEADERS:
            break
        if protocol == HOP_BY_HOP and n:
            raise Refused("ipv6-next-header", UNKNOWN_NEXT_HEADER, named_at - start)
        if protocol == NO_NEXT:
            raise Malformed("ipv6-no-next-header")
        if payload + 8 > end:
            raise Malformed("ipv6-extension")
        if protocol == FRAGMENT:
            return Chain(protocol, payload, named_at)
        size = 8 + frame[payload + 1] * 8
        if payload + size > end:
            raise Malformed("ipv6-extension")
        if protocol == ROUTING:
            _routing(frame, start, payload)
        else:
            _options(frame, start, payload + 2, payload + size)
        protocol, named_at, payload = frame[payload], payload, payload + size
    else:
        if protocol in HEADERS:
            raise Malformed("ipv6-extension")
    return Chain(protocol, payload, named_at)


def _routing(frame: bytes, start: int, at: int) -> None:
    """RFC 8200 §4.4: a type that is not known is ignored where no segments are left."""
    if frame[at + 3]:
        raise Refused("ipv6-routing", ERRONEOUS_FIELD, at + 2 - start)


def _options(frame: bytes, start: int, at: int, end: int) -> None:
    """RFC 8200 §4.2: the two highest bits say what an option that is not known demands."""
    while at < end:
        kind = frame[at]
        if kind == _PAD1:
            at += 1
            continue
        if at + 2 > end or at + 2 + frame[at + 1] > end:
            raise Malformed("ipv6-option")
        action = kind >> 6
        if kind != _PADN and action:
            if action == 1:
                raise Malformed("ipv6-option")
            raise Refused("ipv6-option", UNKNOWN_OPTION, at - start, even_multicast=action == 2)
        at += 2 + frame[at + 1]
