# SPDX-License-Identifier: GPL-3.0-or-later
"""What both sides of DNS share: the numbers of the format, and the walk over records.

The walk steps over names without following their compression pointers, and so costs one pass
however they point.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from avne.errors import Malformed

# Response codes (RFC 6895 §2.3).
NOERROR: Final = 0
FORMERR: Final = 1
SERVFAIL: Final = 2
NXDOMAIN: Final = 3
NOTIMP: Final = 4
REFUSED: Final = 5
BADVERS: Final = 16  # RFC 6891 §6.1.3; its upper bits travel in the OPT record

# Types and classes (RFC 6895 §3).
A: Final = 1
SOA: Final = 6
PTR: Final = 12
AAAA: Final = 28
OPT: Final = 41
ANY: Final = 255
IN: Final = 1

# The header's flags (RFC 1035 §4.1.1, RFC 4035 §3), and the one of the OPT record's TTL field.
QR: Final = 0x8000
TC: Final = 0x0200
RD: Final = 0x0100
RA: Final = 0x0080
AD: Final = 0x0020
CD: Final = 0x0010
DO: Final = 0x8000

HEADER: Final = struct.Struct("!6H")  # ID, flags, and the counts of the four sections
_RECORD: Final = struct.Struct("!HHIH")  # type, class, TTL, length (RFC 1035 §3.2.1)


class Record(NamedTuple):
    """A resource record and where it lies in its message; offsets in bytes."""

    start: int
    rtype: int
    rclass: int
    ttl: int
    ttl_at: int
    data_at: int
    end: int


def records(wire: bytes, at: int, count: int) -> Iterator[Record]:
    """The next `count` records from offset `at`.  Raises `Malformed`."""
    for _ in range(count):
        start = at
        at = _after_name(wire, at)
        data_at = at + _RECORD.size
        if data_at > len(wire):
            raise Malformed("dns-record")
        rtype, rclass, ttl, length = _RECORD.unpack_from(wire, at)
        end = data_at + length
        if end > len(wire):
            raise Malformed("dns-record")
        yield Record(start, rtype, rclass, ttl, at + 4, data_at, end)
        at = end


def _after_name(wire: bytes, at: int) -> int:
    """The offset behind the name at `at` (RFC 1035 §4.1.4)."""
    while at < len(wire):
        length = wire[at]
        if length >= 0xC0:  # a pointer ends the name
            return at + 2
        if length > 63:
            raise Malformed("dns-label")
        at += 1 + length
        if length == 0:
            return at
    raise Malformed("dns-name")
