# SPDX-License-Identifier: GPL-3.0-or-later
"""Answers in which addresses stand for names (names.py), so that connections go out by name.

The answer to A and AAAA keeps its aliases (CNAME) and its TTLs, and has one address: that of the name which
was asked for.  In answers of other types, addresses of additional records and the hints of HTTPS and SVCB
(RFC 9460 §7.3) are overwritten where they are: a browser that connects to a hint connects by name, too.
"""

from __future__ import annotations

from avne.errors import Malformed
from avne.netstack.dns import format as dns
from avne.netstack.dns import message, response
from avne.netstack.dns.format import Labels
from avne.netstack.dns.message import Query
from avne.netstack.dns.names import Names
from avne.netstack.dns.response import Alias, Response

MAX_ALIASES = 16  # as many as resolvers follow

_OWN = (bytes(4), bytes(16), bytes(15) + b"\1")  # 0.0.0.0, :: and ::1; and 127.0.0.0/8


def alone(names: Names, query: Query, ttl: int, now: float, only: bool) -> Response | None:
    """The mapped address of a name of which nobody was asked; None: there is none left."""
    assert query.host is not None
    pair = names.map(query.host, ttl, now, only)
    return None if pair is None else response.mapped(query.labels, query.qtype, _of(pair, query.qtype), ttl)


def rewrite(names: Names, query: Query, found: Response, now: float) -> Response:
    """`found` with mapped addresses; those stay for which there is none left.  Raises `Malformed`."""
    if not found.places:
        return found
    if query.qtype in (dns.A, dns.AAAA):
        return _address(names, query, found, now)
    wire = bytes(dns.HEADER.size) + query.question + found.body
    start = len(wire) - len(found.body)
    body = bytearray(found.body)
    longest = max(response.ttl_of(int.from_bytes(body[at : at + 4], "big")) for at in found.ttls)
    for place in found.places:
        owner, _ = dns.name_at(wire, start + place.owner)
        host = message.host_of(_lower(owner))
        pair = None if host is None else names.map(host, longest, now)
        if pair is not None:
            count = (place.end - place.start) // place.size
            body[place.start : place.end] = pair[place.size == 16] * count
    return found._replace(body=bytes(body), authentic=False)


def _address(names: Names, query: Query, found: Response, now: float) -> Response:
    if query.host is None or not found.found or all(_is_own(address) for address in found.addresses):
        return found
    pair = names.map(query.host, found.ttl, now)
    if pair is None:
        return found
    aliases, ttl = _aliases(query, found)
    answer = response.mapped(query.labels, query.qtype, _of(pair, query.qtype), ttl, aliases)
    return answer._replace(ttl=found.ttl)


def _is_own(address: bytes) -> bool:
    """It leads to the program's own machine, or nowhere (resolvers that block names say so): no exit goes."""
    return address in _OWN or (len(address) == 4 and address[0] == 127)


def _of(pair: tuple[bytes, bytes], qtype: int) -> bytes:
    return pair[qtype == dns.AAAA]


def _aliases(query: Query, found: Response) -> tuple[list[Alias], int]:
    """The aliases from the name to its addresses, and the addresses' TTL."""
    wire = bytes(dns.HEADER.size) + query.question + found.body
    start = len(wire) - len(found.body)
    known: dict[Labels, Alias] = {}
    ttl = response.MAX_TTL
    for record in dns.records(wire, start, found.counts[0]):
        if record.rtype == query.qtype:
            ttl = min(ttl, response.ttl_of(record.ttl))
        elif record.rtype == dns.CNAME:
            owner, _ = dns.name_at(wire, record.start)
            target, _ = dns.name_at(wire, record.data_at)
            known[_lower(owner)] = Alias(owner, response.ttl_of(record.ttl), target)
    chain: list[Alias] = []
    labels = query.labels
    while (alias := known.pop(labels, None)) is not None:
        chain.append(alias)
        labels = _lower(alias.target)
        if len(chain) > MAX_ALIASES:
            raise Malformed("dns-aliases")
    return chain, ttl


def _lower(labels: Labels) -> Labels:
    return tuple(label.lower() for label in labels)
