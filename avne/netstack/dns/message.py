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

import functools
import re
from typing import Final, NamedTuple

import dnslib

from avne.errors import Malformed
from avne.limits import DNS_MAX_UDP
from avne.netstack.dns import format as dns
from avne.netstack.dns.format import Labels
from avne.netstack.dns.response import Response

MIN_UDP: Final = 512  # RFC 1035 §2.3.4, RFC 6891 §6.2.5

_LABEL: Final = re.compile(rb"[a-z0-9_-]+")


class Query(NamedTuple):
    """One question of a guest.

    `error`: the rcode that is its whole answer, or NOERROR.  `size`: the largest UDP reply it
    takes, in bytes.  `question`: the question section as it came, uncompressed.
    """

    number: int  # the message ID
    error: int
    question: bytes = b""
    labels: Labels = ()
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
        return host_of(self.labels)

    @property
    def key(self) -> bytes:
        """Equal for questions that have the same answer."""
        return dns.lower(self.question) + self._flags

    @property
    def name_key(self) -> bytes:
        """Equal for questions about the same name: where there is none, there is none of any type."""
        return self.question[:-4].lower() + self._flags

    @property
    def _flags(self) -> bytes:
        return bytes(((self.signed << 1) | self.unchecked,))


def host_of(labels: Labels) -> str | None:
    """Lower-case labels as a proxy request carries them, or None for what it cannot."""
    if labels and all(_LABEL.fullmatch(label) for label in labels):
        return b".".join(labels).decode("ascii")
    return None


def parse(wire: bytes) -> Query:
    """The query in `wire`; raises `Malformed` for what deserves no answer at all.

    What deserves an error only comes back with `error` set (RFC 1035 §4.1.1).
    """
    if not dns.HEADER.size <= len(wire) <= DNS_MAX_UDP:
        raise Malformed("dns-size")
    buffer = dnslib.DNSBuffer(wire)
    header = dnslib.DNSHeader.parse(buffer)
    if header.qr:
        raise Malformed("dns-not-a-query")
    if header.opcode != 0:
        return Query(header.id, dns.NOTIMP)
    if header.q != 1:
        return Query(header.id, dns.FORMERR)
    try:
        question = dnslib.DNSQuestion.parse(buffer)
    except (dnslib.DNSError, RecursionError) as error:  # the latter by a chain of compression pointers
        raise Malformed("dns-question") from error
    labels = tuple(label.lower() for label in question.qname.label)
    length = sum(len(label) + 1 for label in labels) + 1
    if buffer.offset != dns.HEADER.size + length + 4:  # nothing comes before it that it could point to
        raise Malformed("dns-compressed-question")
    if length > 255 or any(len(label) > 63 for label in labels):
        raise Malformed("dns-name")
    query = Query(
        header.id,
        _refusal(question.qtype, question.qclass),
        wire[dns.HEADER.size : buffer.offset],
        labels,
        question.qtype,
        bool(header.rd),
        bool(header.ad),
        bool(header.cd),
    )
    return _with_edns(query, wire, buffer.offset, header.a + header.auth, header.ar)


def _refusal(qtype: int, qclass: int) -> int:
    if qclass != dns.IN:
        return dns.REFUSED
    # OPT and the meta types (RFC 6895 §3.1: zone transfers, TSIG …) are no questions to a
    # resolver.  ANY is passed on: the resolver answers what it sees fit (RFC 8482 §4).
    if qtype == dns.OPT or (128 <= qtype < 256 and qtype != dns.ANY):
        return dns.NOTIMP
    return dns.NOERROR


def _with_edns(query: Query, wire: bytes, at: int, before: int, additional: int) -> Query:
    """`query` with what its OPT record says (RFC 6891 §6.1)."""
    found = [
        record
        for index, record in enumerate(dns.records(wire, at, before + additional))
        if record.rtype == dns.OPT and index >= before
    ]
    if not found:
        return query
    opt = found[0]
    error = query.error
    if len(found) > 1 or wire[opt.start] != 0:
        error = dns.FORMERR
    elif (opt.ttl >> 16) & 0xFF:
        error = dns.BADVERS
    size = min(max(opt.rclass, MIN_UDP), DNS_MAX_UDP)
    return query._replace(error=error, edns=True, signed=bool(opt.ttl & dns.DO), size=size)


def reply(query: Query, response: Response, age: int, udp: bool) -> bytes:
    """The message that answers `query`; `response` is `age` seconds old.

    Over UDP a reply too large for the client is cut down to its question, with TC (RFC 2181 §9).
    """
    flags = dns.QR | dns.RA | (response.rcode & 15)
    flags |= (query.recursion and dns.RD) | (query.unchecked and dns.CD)
    if response.authentic and (query.authentic or query.signed):  # RFC 6840 §5.8
        flags |= dns.AD
    opt = _opt(response.rcode >> 4, query.signed) if query.edns else b""
    counts, body = response.counts, response.body
    if udp and dns.HEADER.size + len(query.question) + len(body) + len(opt) > query.size:
        flags |= dns.TC
        counts, body = (0, 0, 0), b""
    elif age:
        body = response.aged(age)
    answers, authorities, additionals = counts
    header = dns.HEADER.pack(
        query.number, flags, bool(query.question), answers, authorities, additionals + query.edns
    )
    return header + query.question + body + opt


def ask(query: Query) -> bytes:
    """The question for a resolver, with ID 0; it does not tell how the guest spelt the name."""
    header = dns.HEADER.pack(0, dns.RD | dns.AD | (query.unchecked and dns.CD), 1, 0, 0, 1)
    return header + dns.lower(query.question) + _opt(0, query.signed)


@functools.cache
def _opt(extended_rcode: int, signed: bool) -> bytes:
    """Our OPT record in a reply (RFC 6891 §6.1.2)."""
    opt = dnslib.EDNS0(udp_len=DNS_MAX_UDP, ext_rcode=extended_rcode, flags="do" if signed else "")
    buffer = dnslib.DNSBuffer()
    opt.pack(buffer)
    return bytes(buffer.data)
