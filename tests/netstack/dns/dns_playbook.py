# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests of the resolver as plays: ``book >> what happens << what it does about it``.

Everything that the resolver does must be expected, in order, before the next thing happens.
Messages are made and read with dnslib, which is the oracle for the bytes.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from dnslib import (
    AAAA,
    CLASS,
    EDNS0,
    NS,
    PTR,
    QTYPE,
    RCODE,
    RD,
    RR,
    SOA,
    TXT,
    A,
    DNSHeader,
    DNSQuestion,
    DNSRecord,
)

from avne.ipc.messages import Capability, ResolveKind
from avne.netstack.dns.commands import Answer, Command, OpenStream, Resolve, SendStream
from avne.netstack.dns.resolver import Config, Resolver

TOR = Capability.RESOLVE
SOCKS = Capability.HALF_CLOSE
SERVER = ("192.0.2.53", 53)

Step = Callable[["Playbook"], None]


class Playbook:
    """A resolver, the time, and what it has asked its server."""

    def __init__(
        self,
        capabilities: Capability | None,
        server: tuple[str, int] | None = SERVER,
        mode: str | None = None,
    ) -> None:
        mode = mode or ("truthful" if capabilities and SOCKS in capabilities else "resolve")
        self.resolver = Resolver(Config(server, mode), random.Random(1).randbytes)
        self.resolver.upstream_changed(capabilities)
        self.now = 1000.0
        self.numbers: dict[tuple[str, str], bytes] = {}  # IDs on the stream, by name and type

    def __rshift__(self, step: Step) -> Playbook:
        self.end()
        step(self)
        return self

    def __lshift__(self, expected: Command | Step) -> Playbook:
        if callable(expected):
            expected(self)
        else:
            assert self.next() == expected
        return self

    def next(self) -> Command:
        assert self.resolver.commands, "it does nothing more"
        return self.resolver.commands.popleft()

    def end(self) -> None:
        assert not self.resolver.commands, f"not expected: {list(self.resolver.commands)}"


# ---- what happens ------------------------------------------------------------------


def query_wire(
    name: str, qtype: str = "A", number: int = 1, edns: int = 0, flags: str = "", **header: int
) -> bytes:
    """A stub's query; `edns`: the size it takes, `flags`: of the OPT record."""
    record = DNSRecord(DNSHeader(id=number, rd=header.pop("rd", 1), **header))
    record.add_question(DNSQuestion(name, getattr(QTYPE, qtype), CLASS.IN))
    if edns:
        record.add_ar(EDNS0(udp_len=edns, flags=flags))
    return bytes(record.pack())


def query(name: str, qtype: str = "A", client: object = "stub", udp: bool = True, **wire: int | str) -> Step:
    return lambda book: book.resolver.query(query_wire(name, qtype, **wire), client, udp, book.now)  # type: ignore[arg-type]


def resolved(query_id: int, code: int, *answers: str, ttl: int = 0) -> Step:
    return lambda book: book.resolver.resolved(query_id, code, list(answers), ttl, book.now)


def opened(stream: int) -> Step:
    return lambda book: book.resolver.stream_opened(stream, book.now)


def closed(stream: int, code: int = 0) -> Step:
    return lambda book: book.resolver.stream_closed(stream, code, book.now)


def data(stream: int, octets: bytes) -> Step:
    return lambda book: book.resolver.stream_data(stream, octets, book.now)


def upstream(capabilities: Capability | None) -> Step:
    return lambda book: book.resolver.upstream_changed(capabilities)


def passed(seconds: float) -> Step:
    """Time goes by, and the timers that fall due are handled."""

    def step(book: Playbook) -> None:
        until = book.now + seconds
        while (due := book.resolver.poll_at()) is not None and due <= until:
            book.now = max(book.now, due)
            book.resolver.handle_timer(book.now)
            if book.resolver.commands:
                break
        else:
            book.now = until

    return step


def record(text: str) -> RR:
    """``NAME TTL TYPE DATA``."""
    name, ttl, kind, value = text.split(" ", 3)
    data = {
        "A": A, "AAAA": AAAA, "PTR": PTR, "CNAME": PTR, "NS": NS, "TXT": TXT,
        "HTTPS": lambda rdata: RD(bytes.fromhex(rdata)),
        "SOA": lambda minimum: SOA("ns.", "root.", (1, 2, 3, 4, int(minimum))),
    }[kind](value)  # fmt: skip
    return RR(name, getattr(QTYPE, kind), CLASS.IN, int(ttl), data)


def server_wire(
    book: Playbook, name: str, qtype: str, rcode: str, *records: str, edns: bool = True, **header: int
) -> bytes:
    """What the server answers to a question that `sent` has seen: SOA records are of the authority."""
    number = int.from_bytes(book.numbers[name, qtype], "big")
    reply = DNSRecord(DNSHeader(id=number, qr=1, ra=1, rcode=getattr(RCODE, rcode), **header))
    reply.add_question(DNSQuestion(name, getattr(QTYPE, qtype), CLASS.IN))
    for text in records:
        (reply.add_auth if " SOA " in text else reply.add_answer)(record(text))
    if edns:
        reply.add_ar(EDNS0(udp_len=1232))
    return bytes(reply.pack())


def framed(*messages: bytes) -> bytes:
    return b"".join(len(message).to_bytes(2, "big") + message for message in messages)


def server_says(stream: int, name: str, qtype: str, rcode: str, *records: str, **options: bool) -> Step:
    def step(book: Playbook) -> None:
        message = server_wire(book, name, qtype, rcode, *records, **options)
        book.resolver.stream_data(stream, framed(message), book.now)

    return step


# ---- what it does ------------------------------------------------------------------


def reply(
    rcode: str, *records: str, client: object = "stub", number: int = 1, flags: str | None = None
) -> Step:
    """An answer to `client`; `records`: of the answer section; `flags`: the header's, if they matter."""

    def step(book: Playbook) -> None:
        command = book.next()
        assert isinstance(command, Answer), command
        message = DNSRecord.parse(command.wire)
        header = message.header
        found = [f"{_bare(r.rname)} {r.ttl} {QTYPE[r.rtype]} {_bare(r.rdata)}" for r in message.rr]
        assert (command.client, header.id, RCODE[header.rcode], found) == (
            client,
            number,
            rcode,
            list(records),
        )
        assert (header.qr, header.ra, header.aa) == (1, 1, 0)
        if flags is not None:
            assert " ".join(flag for flag in ("tc", "rd", "ad", "cd") if getattr(header, flag)) == flags

    return step


def asks_tor(query_id: int, name: str, kind: ResolveKind = ResolveKind.ADDRESS) -> Resolve:
    return Resolve(query_id, kind, name)


def opens(stream: int) -> OpenStream:
    return OpenStream(stream, *SERVER)


def sent(stream: int, *questions: str) -> Step:
    """Questions, each ``NAME TYPE``, in one piece on the stream."""

    def step(book: Playbook) -> None:
        command = book.next()
        assert isinstance(command, SendStream), command
        assert command.stream == stream
        rest, found = command.data, []
        while rest:
            length = int.from_bytes(rest[:2], "big")
            message = DNSRecord.parse(rest[2 : 2 + length])
            name, qtype = _bare(message.q.qname), QTYPE[message.q.qtype]
            book.numbers[name, qtype] = rest[2:4]
            found.append(f"{name} {qtype}")
            rest = rest[2 + length :]
        assert found == list(questions)

    return step


def _bare(name: object) -> str:
    return str(name).rstrip(".")
