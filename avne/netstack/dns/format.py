# SPDX-License-Identifier: GPL-3.0-or-later
"""What both sides of DNS share: the numbers of the format, and the walk over records.

The walk steps over names without following their compression pointers, and so costs one pass
however they point.
"""

from __future__ import annotations

import contextlib
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
CNAME: Final = 5
SOA: Final = 6
PTR: Final = 12
AAAA: Final = 28
OPT: Final = 41
SVCB: Final = 64
HTTPS: Final = 65
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
_HINTS: Final = {4: 4, 6: 16}  # the size of an address, by SvcParamKey (RFC 9460 §14.3.2)

Labels = tuple[bytes, ...]


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


def name_at(wire: bytes, at: int) -> tuple[Labels, int]:
    """The name at `at`, its pointers followed, and the offset behind it (RFC 1035 §4.1.4).

    A pointer leads to what came before it, so that there is an end.  Raises `Malformed`.
    """
    labels: list[bytes] = []
    end, left, bound = 0, 255, at
    while at < len(wire):
        length = wire[at]
        if length >= 0xC0:
            end = end or at + 2
            target = int.from_bytes(wire[at : at + 2], "big") & 0x3FFF
            if target >= bound or at + 2 > len(wire):
                raise Malformed("dns-pointer")
            at = bound = target
            continue
        left -= 1 + length
        if length > 63 or left < 0:
            raise Malformed("dns-name")
        if length == 0:
            return tuple(labels), end or at + 1
        labels.append(wire[at + 1 : at + 1 + length])
        at += 1 + length
    raise Malformed("dns-name")


class Place(NamedTuple):
    """Where addresses of a name lie: `size` bytes each, from `start` to `end`."""

    owner: int  # the offset of the name whose they are
    start: int
    end: int
    size: int


def address_places(wire: bytes, record: Record) -> Iterator[Place]:
    """The addresses in a record: of A, AAAA, and the hints of SVCB and HTTPS.

    What is no well-formed record has none: clients reject it (RFC 9460 §2.2).
    """
    if record.rclass != IN:
        return
    size = {A: 4, AAAA: 16}.get(record.rtype, 0)
    if size and record.end - record.data_at == size:
        yield Place(record.start, record.data_at, record.end, size)
    elif record.rtype in (SVCB, HTTPS):
        with contextlib.suppress(Malformed):
            yield from _hints(wire, record)


def _hints(wire: bytes, record: Record) -> Iterator[Place]:
    """RFC 9460 §2.2: priority, target, and parameters, each behind its key and length."""
    target = record.data_at + 2
    _, at = name_at(wire, target)
    owner = record.start if wire[target] == 0 else target  # "." is the owner (§2.5.2)
    while at + 4 <= record.end:
        key, length = struct.unpack_from("!HH", wire, at)
        at += 4
        size = _HINTS.get(key, 0)
        if size and length % size == 0 and at + length <= record.end:
            yield Place(owner, at, at + length, size)
        at += length


def lower(question: bytes) -> bytes:
    """A question section with its name in lower case: type and class are no letters."""
    return question[:-4].lower() + question[-4:]
