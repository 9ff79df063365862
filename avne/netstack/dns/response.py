# SPDX-License-Identifier: GPL-3.0-or-later
"""What answers a question: a resolver's message taken apart, or one of our own making.

Theory of operation
    A `Response` is a message without the parts that differ per client: header, question and OPT
    record.  The records behind the question are kept as the bytes they came in: compression
    pointers stay good, because the question put back in front of them has the same length, and
    types we know nothing of pass untouched (RFC 3597).  Only TTLs are patched, by their offsets.
    Our own records are packed by dnslib and then go the same way.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import dnslib

from avne.errors import Malformed
from avne.netstack.dns import format as dns
from avne.netstack.dns.format import Labels, Place

MAX_TTL: Final = 86400
_ONE: Final = struct.Struct(
    "!HHHIH"
)  # a record of the name that was asked for: pointer, type, class, TTL, length
MAX_NEGATIVE_TTL: Final = 3 * 3600  # RFC 2308 §5


class Response(NamedTuple):
    """An answer to any client; `ttl` in seconds, 0 for what may not be kept."""

    rcode: int
    ttl: int = 0
    found: bool = False  # it has records of the type that was asked for
    authentic: bool = False  # AD (RFC 4035 §3.2.3)
    counts: tuple[int, int, int] = (0, 0, 0)  # answer, authority, additional
    body: bytes = b""  # the records
    ttls: tuple[int, ...] = ()  # offsets in `body` of their TTL fields
    places: tuple[Place, ...] = ()  # offsets in `body` of its addresses

    @property
    def addresses(self) -> Iterator[bytes]:
        """Those of its records: 4 or 16 bytes."""
        for place in self.places:
            for at in range(place.start, place.end, place.size):
                yield self.body[at : at + place.size]

    def aged(self, seconds: int) -> bytes:
        """`body` with its TTLs counted down."""
        body = bytearray(self.body)
        for at in self.ttls:
            (ttl,) = struct.unpack_from("!I", body, at)
            struct.pack_into("!I", body, at, max(ttl_of(ttl) - seconds, 0))
        return bytes(body)


def parse(wire: bytes, question: bytes) -> Response:
    """A resolver's answer to `question` (a question section in lower case).

    Raises `Malformed` for what is no answer to it.
    """
    start = dns.HEADER.size + len(question)
    if len(wire) < start:
        raise Malformed("dns-answer-size")
    _, flags, questions, answers, authorities, additionals = dns.HEADER.unpack_from(wire)
    if not flags & dns.QR or questions != 1 or dns.lower(wire[dns.HEADER.size : start]) != question:
        raise Malformed("dns-answer-question")
    if flags & dns.TC:  # over TCP there is no reason to
        raise Malformed("dns-answer-truncated")
    every = list(dns.records(wire, start, answers + authorities + additionals))
    rcode = flags & 15
    kept = len(every)
    for index, record in enumerate(every):
        if record.rtype == dns.OPT:
            if record.ttl >> 24:  # an extended rcode is between the resolver and us
                rcode = dns.SERVFAIL
            kept = index  # what follows it is additional, and rare: left out with it
            break
    if kept < answers + authorities:
        raise Malformed("dns-answer-opt")
    rest = every[:kept]
    end = rest[-1].end if rest else start
    (qtype,) = struct.unpack_from("!H", question, len(question) - 4)
    found = rcode == dns.NOERROR and any(qtype in (record.rtype, dns.ANY) for record in rest[:answers])
    return Response(
        rcode,
        _lifetime(rcode, found, wire, rest, answers, authorities),
        found,
        bool(flags & dns.AD),
        (answers, authorities, kept - answers - authorities),
        wire[start:end],
        tuple(record.ttl_at - start for record in rest),
        tuple(
            Place(place.owner - start, place.start - start, place.end - start, place.size)
            for record in rest
            for place in dns.address_places(wire, record)
        ),
    )


def ttl_of(value: int) -> int:
    """RFC 2181 §8: with the top bit set it counts as zero."""
    return value if value < 1 << 31 else 0


def _lifetime(
    rcode: int, found: bool, wire: bytes, rest: Sequence[dns.Record], answers: int, authorities: int
) -> int:
    """How long the answer may be kept: the shortest TTL, or what its SOA allows (RFC 2308 §5)."""
    if rcode not in (dns.NOERROR, dns.NXDOMAIN):
        return 0
    ttls = [ttl_of(record.ttl) for record in rest[:answers]]
    if found:
        return min(*ttls, MAX_TTL)
    for record in rest[answers : answers + authorities]:
        if record.rtype == dns.SOA and record.end - record.data_at >= 22:  # two names, five numbers
            minimum = int.from_bytes(wire[record.end - 4 : record.end], "big")
            return min(*ttls, ttl_of(record.ttl), minimum, MAX_NEGATIVE_TTL)
    return 0


class Alias(NamedTuple):
    """A CNAME record (RFC 1034 §3.6.2)."""

    owner: Labels
    ttl: int
    target: Labels


def local(
    labels: Labels, qtype: int, data: Sequence[Any], ttl: int, aliases: Sequence[Alias] = ()
) -> Response:
    """NOERROR with one record for each of dnslib's `data`; none: the name has no such type.

    `aliases` lead from `labels` to the name whose they are.
    """
    message = dnslib.DNSRecord(
        dnslib.DNSHeader(id=0, bitmap=dns.QR), q=dnslib.DNSQuestion(dnslib.DNSLabel(labels), qtype, dns.IN)
    )
    bare = bytes(message.pack())
    for alias in aliases:
        target = dnslib.CNAME(dnslib.DNSLabel(alias.target))
        message.add_answer(dnslib.RR(dnslib.DNSLabel(alias.owner), dns.CNAME, dns.IN, alias.ttl, target))
    name = dnslib.DNSLabel(aliases[-1].target if aliases else labels)
    message.add_answer(*(dnslib.RR(name, qtype, dns.IN, ttl, datum) for datum in data))
    response = parse(bytes(message.pack()), bare[dns.HEADER.size :])
    return response if data else response._replace(ttl=ttl)


def addresses(labels: Labels, qtype: int, texts: Sequence[str], ttl: int) -> Response:
    """The A or AAAA records of the addresses `texts` that are of that family.

    Raises `Malformed` when one of them is no address.
    """
    try:
        every = [dnslib.AAAA(text) if ":" in text else dnslib.A(text) for text in texts]
    except ValueError as error:
        raise Malformed("resolved-address") from error
    return local(
        labels, qtype, [datum for datum in every if dnslib.QTYPE[qtype] == type(datum).__name__], ttl
    )


def mapped(labels: Labels, qtype: int, address: bytes, ttl: int, aliases: Sequence[Alias] = ()) -> Response:
    """The A or AAAA record of one address in bytes."""
    if aliases:
        record = dnslib.A if qtype == dns.A else dnslib.AAAA
        return local(labels, qtype, [record(tuple(address))], ttl, aliases)
    # Most answers are of this form, and dnslib takes ten times as long for it.
    body = _ONE.pack(0xC000 | dns.HEADER.size, qtype, dns.IN, ttl, len(address)) + address
    place = Place(0, _ONE.size, len(body), len(address))
    return Response(dns.NOERROR, ttl, True, False, (1, 0, 0), body, (6,), (place,))


def pointer(labels: Labels, qtype: int, host: str, ttl: int) -> Response:
    """The PTR record to `host`; raises `Malformed` for what is no host name."""
    host = host.rstrip(".")
    target = host.encode("ascii", "replace").split(b".")
    if not host.isascii() or len(host) > 253 or not all(0 < len(label) < 64 for label in target):
        raise Malformed("resolved-name")
    return local(labels, qtype, [dnslib.PTR(dnslib.DNSLabel(target))], ttl)
