# SPDX-License-Identifier: GPL-3.0-or-later
"""The guest's side of DNS messages: a query parsed, a reply built.

Theory of operation
    A query is hostile bytes.  dnslib decodes its header and its one question; the other records
    are only stepped over, in search of the OPT record.  A reply repeats the question's own bytes,
    so that its letter case comes back, and takes its records from a `Response`; nothing else
    that a guest sent is ever packed again.

Names are kept as tuples of lower-case labels (RFC 4343).  `Query.host` is the name as text if a
proxy request can carry it; a label may hold any octet (RFC 2181 §11), a dot included.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from dnslib import DNSError, DNSHeader, DNSQuestion
from dnslib.label import DNSBuffer

from avne.errors import Malformed
from avne.limits import DNS_MAX_UDP
from avne.netstack.dns.response import Response

NOERROR: Final = 0
FORMERR: Final = 1
SERVFAIL: Final = 2
NXDOMAIN: Final = 3
NOTIMP: Final = 4
REFUSED: Final = 5
BADVERS: Final = 16  # RFC 6891 §6.1.3; its upper bits travel in the OPT record

A: Final = 1
PTR: Final = 12
AAAA: Final = 28
OPT: Final = 41
ANY: Final = 255
IN: Final = 1

HEADER: Final = 12  # bytes
MIN_UDP: Final = 512  # RFC 1035 §2.3.4, RFC 6891 §6.2.5

QR: Final = 0x8000
TC: Final = 0x0200
RD: Final = 0x0100
RA: Final = 0x0080
AD: Final = 0x0020
CD: Final = 0x0010
DO: Final = 0x8000  # in the OPT record's TTL field (RFC 6891 §6.1.4)

_LABEL: Final = re.compile(rb"[a-z0-9_-]+")
_RECORD: Final = struct.Struct("!HHIH")  # type, class, TTL, length (RFC 1035 §3.2.1)


class Query(NamedTuple):
    """One question of a guest.

    `error`: the rcode that is its whole answer, or NOERROR.  `size`: the largest UDP reply it
    takes, in bytes.  `question`: the question section as it came, uncompressed.
    """

    number: int  # the message ID
    error: int
    question: bytes = b""
    labels: tuple[bytes, ...] = ()
    qtype: int = 0
    recursion: bool = False
    authentic: bool = False  # AD: the client understands it (RFC 6840 §5.7)
    unchecked: bool = False  # CD
    edns: bool = False
    signed: bool = False  # DO
    size: int = MIN_UDP

    @property
    def host(self) -> str | None:
        """The name as a proxy request carries it, or None for one that it cannot."""
        if self.labels and all(_LABEL.fullmatch(label) for label in self.labels):
            return b".".join(self.labels).decode("ascii")
        return None

    @property
    def key(self) -> bytes:
        """Equal for questions that have the same answer."""
        return self.question.lower() + bytes((self.signed << 1 | self.unchecked,))


class Record(NamedTuple):
    """Where a resource record lies in its message; all offsets in bytes."""

    start: int
    rtype: int
    rclass: int
    ttl: int
    ttl_at: int
    data: int
    end: int


def records(wire: bytes, at: int, count: int) -> Iterator[Record]:
    """The next `count` records from offset `at`; names are stepped over, not followed.

    Raises `Malformed`.
    """
    for _ in range(count):
        start = at
        at = _after_name(wire, at)
        if at + _RECORD.size > len(wire):
            raise Malformed("dns-record")
        rtype, rclass, ttl, length = _RECORD.unpack_from(wire, at)
        data = at + _RECORD.size
        if data + length > len(wire):
            raise Malformed("dns-record")
        yield Record(start, rtype, rclass, ttl, at + 4, data, data + length)
        at = data + length


def _after_name(wire: bytes, at: int) -> int:
    """The offset behind the name at `at` (RFC 1035 §4.1.4)."""
    while at < len(wire):
        length = wire[at]
        if length >= 0xC0:
            return at + 2
        if length > 63:
            raise Malformed("dns-label")
        at += 1 + length
        if length == 0:
            return at
    raise Malformed("dns-name")


def parse(wire: bytes) -> Query:
    """The query in `wire`; raises `Malformed` for what deserves no answer at all.

    What deserves an error only comes back with `error` set (RFC 1035 §4.1.1).
    """
    if not HEADER <= len(wire) <= DNS_MAX_UDP:
        raise Malformed("dns-size")
    buffer = DNSBuffer(wire)
    header = DNSHeader.parse(buffer)
    if header.qr:
        raise Malformed("dns-not-a-query")
    if header.opcode != 0:
        return Query(header.id, NOTIMP)
    if header.q != 1:
        return Query(header.id, FORMERR)
    try:
        question = DNSQuestion.parse(buffer)
    except (DNSError, RecursionError) as error:  # the latter by a chain of compression pointers
        raise Malformed("dns-question") from error
    labels = tuple(label.lower() for label in question.qname.label)
    length = sum(len(label) + 1 for label in labels) + 1
    if buffer.offset != HEADER + length + 4:  # nothing comes before it that it could point to
        raise Malformed("dns-compressed-question")
    if length > 255 or any(len(label) > 63 for label in labels):
        raise Malformed("dns-name")
    query = Query(
        header.id,
        _refusal(question.qtype, question.qclass),
        wire[HEADER : buffer.offset],
        labels,
        question.qtype,
        bool(header.rd),
        bool(header.ad),
        bool(header.cd),
    )
    return _with_edns(query, wire, buffer.offset, header.a + header.auth, header.ar)


def _refusal(qtype: int, qclass: int) -> int:
    if qclass != IN:
        return REFUSED
    # OPT and the meta types (RFC 6895 §3.1: zone transfers, TSIG …) are no questions to a
    # resolver.  ANY is passed on: the resolver answers what it sees fit (RFC 8482 §4).
    if qtype == OPT or (128 <= qtype < 256 and qtype != ANY):
        return NOTIMP
    return NOERROR


def _with_edns(query: Query, wire: bytes, at: int, before: int, additional: int) -> Query:
    """`query` with what its OPT record says (RFC 6891 §6.1)."""
    found = [
        record
        for index, record in enumerate(records(wire, at, before + additional))
        if record.rtype == OPT and index >= before
    ]
    if not found:
        return query
    opt = found[0]
    error = query.error
    if len(found) > 1 or wire[opt.start] != 0:
        error = FORMERR
    elif opt.ttl >> 16 & 0xFF:
        error = BADVERS
    size = min(max(opt.rclass, MIN_UDP), DNS_MAX_UDP)
    return query._replace(error=error, edns=True, signed=bool(opt.ttl & DO), size=size)


def reply(query: Query, response: Response, age: int, udp: bool) -> bytes:
    """The message that answers `query`; `response` is `age` seconds old.

    Over UDP a reply too large for the client is cut down to its question, with TC (RFC 2181 §9).
    """
    flags = QR | RA | response.rcode & 15
    flags |= query.recursion * RD | query.unchecked * CD
    if response.authentic and (query.authentic or query.signed):  # RFC 6840 §5.8
        flags |= AD
    opt = _opt(response.rcode >> 4, query.signed) if query.edns else b""
    answer, authority, additional = response.counts
    size = HEADER + len(query.question) + len(response.body) + len(opt)
    if udp and size > query.size:
        flags |= TC
        answer = authority = additional = 0
        body = b""
    else:
        body = response.aged(age)
    header = struct.pack(
        "!6H", query.number, flags, bool(query.question), answer, authority, additional + query.edns
    )
    return header + query.question + body + opt


def _opt(extended_rcode: int, signed: bool) -> bytes:
    """Our OPT record: root name, type, the UDP size we take, extended rcode, version 0, flags."""
    return struct.pack("!BHHBBHH", 0, OPT, DNS_MAX_UDP, extended_rcode, 0, signed * DO, 0)
