# SPDX-License-Identifier: GPL-3.0-or-later
"""DNS: a guest's queries, and what the configured resolver answers."""

from __future__ import annotations

import random
import struct

from dns_playbook import query_wire, record
from dnslib import EDNS0, DNSHeader, DNSRecord

from avne.errors import Malformed
from avne.ipc.messages import Capability
from avne.limits import DNS_MAX_UDP
from avne.netstack.dns.commands import Answer, CloseStream, OpenStream, Resolve, SendStream
from avne.netstack.dns.plan import MODES
from avne.netstack.dns.resolver import Config, Resolver

from .choices import Choices

_token = random.Random(1).randbytes
CAPABILITIES = [Capability.RESOLVE, Capability.HALF_CLOSE, Capability(0), Capability(3)]
TYPES = ("A", "AAAA", "PTR", "HTTPS", "ANY", "TXT", "SOA", "OPT", "AXFR", "CNAME")
ONION = "a" * 55 + "d.onion"
NAMES = (
    "www.example.com", "WwW.ExAmPlE.cOm", "localhost", "a.local", ONION, "www." + ONION, "short.onion",
    "x.exit", "4.3.2.1.in-addr.arpa", "1.0.18.198.in-addr.arpa", "f." * 32 + "ip6.arpa", "example", "",
    "x" * 63 + ".example", ".".join(["y" * 60] * 4),
)  # fmt: skip
QUERIES = [query_wire(name, qtype, edns=edns) for name in NAMES for qtype in TYPES for edns in (0, 1232)]
QUERIES += [
    query_wire("www.example.com", "A", edns=4096, flags="do"),
    query_wire("www.example.com", opcode=2),
]


def _walk(wire: bytes) -> int:
    """A reply from end to end (RFC 1035 §4.1): its number of answers.  What is in the records is theirs."""
    assert len(wire) <= 65535
    _, flags, questions, answers, authorities, additionals = struct.unpack_from(">6H", wire)
    assert flags & 0x8000, "QR"
    at = 12
    for n in range(questions + answers + authorities + additionals):
        while wire[at] and wire[at] < 0xC0:
            assert wire[at] < 64
            at += 1 + wire[at]
        at += 2 if wire[at] else 1
        at += 4
        if n >= questions:
            at += 6 + int.from_bytes(wire[at + 4 : at + 6], "big")
    assert at == len(wire)
    return answers


def _damaged(c: Choices, wire: bytes) -> bytes:
    """`wire` with some bytes changed, left out or repeated."""
    octets = bytearray(wire)
    for _ in range(c.byte() % 6):
        at = c.number(2) % (len(octets) or 1)
        kind = c.byte()
        if kind < 128:
            octets[at : at + 1] = c.take(1)
        elif kind < 160:
            octets[at : at + 1] = b"\xc0" + c.take(1)
        elif kind < 200:
            del octets[at : at + 1 + kind % 16]
        else:
            octets[at:at] = octets[c.number(2) % (len(octets) or 1) :][:40]
    return bytes(octets)


class _Run:
    """A resolver, its clients, and whoever it asks."""

    def __init__(self, c: Choices) -> None:
        self.c = c
        config = c.byte()
        self.machine = Resolver(
            Config(("192.0.2.53", 53) if config & 8 else None, MODES[config >> 4 & 3]), _token
        )
        self.machine.upstream_changed(CAPABILITIES[config & 3] if config & 7 != 7 else None)
        self.now = 1000.0
        self.owed: dict[object, int] = {}
        self.features: set[str] = set()
        self.asked: list[bytes] = []  # at the server, with their IDs
        self.stream = 0

    def ask(self, wire: bytes, client: object, udp: bool) -> None:
        try:
            self.machine.query(wire, client, udp, self.now)
        except Malformed as error:
            self.features.add(error.reason)
        else:
            self.owed[client] = self.owed.get(client, 0) + 1
        self.carry_out()

    def carry_out(self) -> None:
        commands = self.machine.commands
        while commands:
            match commands.popleft():
                case Answer(client, wire):
                    self.answered(client, wire)
                case Resolve(query, _, what):
                    assert len(what) <= 255
                    assert what.isascii()
                    self.resolve(query)
                case OpenStream(stream, _, _):
                    self.stream = stream
                    if self.c.byte() < 230:
                        self.machine.stream_opened(stream, self.now)
                    else:
                        self.machine.stream_closed(stream, 1, self.now)
                case SendStream(stream, data):
                    assert stream == self.stream
                    while data:
                        size = int.from_bytes(data[:2], "big")
                        self.asked.append(data[2 : 2 + size])
                        data = data[2 + size :]
                case CloseStream(stream):
                    assert stream == self.stream
                    self.asked.clear()

    def answered(self, client: object, wire: bytes) -> None:
        answers = _walk(wire)
        self.owed[client] -= 1
        assert self.owed[client] >= 0, "answered twice"
        self.features.add(f"rcode {wire[3] & 15} {answers}")

    def resolve(self, query: int) -> None:
        """A worker's answer, late or never, right or wrong."""
        how = self.c.byte()
        texts = [
            ["192.0.2.1"],
            ["2001:db8::1"],
            ["198.18.1.1"],
            ["host.example"],
            [""],
            [],
            ["1.2.3.4", "::1"],
        ]
        answers = self.c.pick(texts)
        if how & 7 == 7:
            answers = [self.c.some().decode("utf-8", "replace")[:255]]
        if how < 240:
            code = 0 if how & 8 else self.c.byte()
            self.machine.resolved(query, code, answers, self.c.number(how >> 6), self.now)

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        for _ in range(1000):
            due = self.machine.poll_at()
            if due is None or due > until:
                self.now = until
                return
            self.now = max(self.now, due)
            self.machine.handle_timer(self.now)
            self.carry_out()
        raise AssertionError("timers without end")

    def end(self) -> set[str]:
        self.wait(300.0)
        self.machine.upstream_changed(None)
        self.carry_out()
        assert not any(self.owed.values()), "somebody waits for ever"
        assert self.machine._waiting == 0
        assert self.machine.poll_at() is None
        return self.features | set(self.machine.counters)


def queries(data: bytes) -> set[str]:
    """Whatever a guest asks, it gets one readable answer, or it was malformed and gets none."""
    c = Choices(data)
    run = _Run(c)
    for n in range(8):
        if not c.more:
            break
        wire = c.some() if c.byte() < 16 else _damaged(c, QUERIES[c.number(2) % len(QUERIES)])
        run.ask(wire[: DNS_MAX_UDP + 50], n, bool(c.byte() & 1))
        run.wait(c.byte() / 32)
    return run.end()


RECORDS = [
    ("www.example.com 60 A 192.0.2.1", "an"), ("www.example.com 60 CNAME b.example", "an"),
    ("b.example 30 AAAA 2001:db8::7", "an"), ("www.example.com 5 A 198.18.1.7", "an"),
    ("www.example.com 0 TXT hello", "an"), ("example.com 600 SOA 60", "ns"),
    ("example.com 600 NS ns.example", "ns"),
    ("www.example.com 60 HTTPS 0001 00 0004 0008 c0000201 c6120102 0006 0010 " + "20" * 16, "an"),
    ("www.example.com 60 HTTPS 0001 0462b261 00 0004 0004 c0000201", "an"), ("c.example 9 A 192.0.2.3", "an"),
]  # fmt: skip


QTYPES = ("AAAA", "TXT", "PTR", "A", "HTTPS")


def _answer(c: Choices, question: bytes) -> bytes:
    """What a server may send: an answer to `question`, and then damaged."""
    asked = DNSRecord.parse(question)
    reply = DNSRecord(DNSHeader(id=asked.header.id, qr=1, ra=1, rcode=c.pick([0, 0, 0, 3, 2, 5])), q=asked.q)
    for _ in range(c.byte() % 5):
        text, section = c.pick(RECORDS)
        (reply.add_answer if section == "an" else reply.add_auth)(record(text))
    if c.byte() & 1:
        reply.add_ar(EDNS0(udp_len=1232))
    return bytes(reply.pack())


def answers(data: bytes) -> set[str]:
    """Whatever the server's stream carries, cut anywhere: each question gets its one readable answer."""
    c = Choices(data)
    run = _Run(c)
    config = c.byte()
    run.machine = Resolver(Config(("192.0.2.53", 53), MODES[config >> 2 & 3]), _token)
    run.machine.upstream_changed(CAPABILITIES[config & 3])
    names = ("www.example.com", "b.example", "www.example.com")
    for n in range(1 + c.byte() % 3):
        run.ask(
            query_wire(names[n], c.pick(("AAAA", "TXT", "PTR", "A", "HTTPS")), number=n, edns=1232),
            n,
            bool(n & 1),
        )
    for _ in range(12):
        if not c.more:
            break
        how = c.byte()
        if how < 16:
            run.machine.stream_closed(run.stream, 1, run.now)
        elif how < 32:
            stream_bytes = c.some()
            run.machine.stream_data(run.stream, stream_bytes, run.now)
        elif run.asked:
            message = _answer(c, c.pick(run.asked))
            if how & 1:
                message = _damaged(c, message)
            stream_bytes = len(message).to_bytes(2, "big") + message
            cut = c.byte() if how & 2 else 0
            for part in (stream_bytes[:cut], stream_bytes[cut:]):
                if part:
                    run.machine.stream_data(run.stream, part, run.now)
        run.carry_out()
        run.wait(c.byte() / 32)
    run.features.add(f"cached {len(run.machine._cache)}")
    return run.end()
