# SPDX-License-Identifier: GPL-3.0-or-later
"""Hostile bytes: nothing but `Malformed` may come of them."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import random
import subprocess
import sys

from dns_playbook import SERVER, SOCKS, TOR, framed, query_wire, record
from dnslib import EDNS0, QTYPE, DNSError, DNSHeader, DNSQuestion, DNSRecord
from hypothesis import example, given, settings
from hypothesis import strategies as st

import avne.netstack.dns as package
from avne.errors import Malformed
from avne.netstack.dns import message, response
from avne.netstack.dns.commands import Answer, OpenStream, Resolve, SendStream
from avne.netstack.dns.resolver import Config, Resolver

QUERIES = [
    query_wire("www.example.com", qtype, edns=edns)
    for qtype in ("A", "AAAA", "PTR", "HTTPS", "ANY")
    for edns in (0, 1232)
] + [
    query_wire("4.3.2.1.in-addr.arpa", "PTR"), query_wire("a.onion"), query_wire("b.local"),
    query_wire("localhost", "AAAA"), query_wire("f." * 32 + "ip6.arpa", "PTR"),
    query_wire("f.f.f.f.ip6.arpa", "PTR"),
]  # fmt: skip


def mutated(rng: random.Random, wire: bytes) -> bytes:
    octets = bytearray(wire)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(octets))
        kind = rng.randrange(4)
        if kind == 0:
            octets[at] = rng.choice((0, 1, 0x3F, 0x40, 0xC0, 0xFF, rng.randrange(256)))
        elif kind == 1:
            octets[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del octets[at : at + rng.randint(1, 8)]
            octets = octets or bytearray(1)
        else:
            octets[at:at] = octets[rng.randrange(len(octets)) :][: rng.randint(1, 30)]
    return bytes(octets)


def resolver(rng: random.Random) -> Resolver:
    machine = Resolver(Config(SERVER), rng.randbytes)
    machine.upstream_changed(TOR)
    return machine


def test_mutated_queries():
    """20,000 of them; every one that is not dropped gets an answer that can be read."""
    rng = random.Random(7)
    parsed = 0
    machines = [resolver(rng), resolver(rng)]
    machines[1].upstream_changed(SOCKS)
    for n in range(20_000):
        wire = mutated(rng, rng.choice(QUERIES))
        machine = machines[n % 2]
        try:
            machine.query(wire, n, bool(n & 2), n / 100)
            parsed += 1
        except Malformed:
            continue
        machine.handle_timer(n / 100)
        while machine.commands:
            command = machine.commands.popleft()
            if isinstance(command, Answer):
                assert DNSRecord.parse(command.wire).header.qr == 1
            elif isinstance(command, Resolve):
                machine.resolved(command.query_id, rng.choice((0, 4)), ["192.0.2.1"], 0, n / 100)
            elif isinstance(command, OpenStream):
                machine.stream_closed(command.stream, 1, n / 100)
    assert parsed > 5_000
    for machine in machines:
        machine.upstream_changed(None)
        assert machine.poll_at() is None
        assert machine._waiting == 0


@settings(max_examples=1000)
@given(st.binary(max_size=600))
@example(b"\0" * 12)
def test_any_bytes_as_a_query(octets):
    with contextlib.suppress(Malformed):
        message.parse(octets)


@settings(max_examples=1000)
@given(st.binary(min_size=1, max_size=600))
def test_any_bytes_behind_a_good_header(octets):
    try:
        query = message.parse(b"\0\7\1\0\0\1\0\1\0\0\0\1" + octets)
    except Malformed:
        return
    message.reply(query, response.Response(2), 0, udp=True)


def good_answer() -> tuple[bytes, bytes]:
    reply = DNSRecord(DNSHeader(id=0, qr=1, ra=1), q=DNSQuestion("www.example", QTYPE.A, 1))
    reply.add_answer(record("www.example 60 CNAME a.example"), record("a.example 30 A 192.0.2.1"))
    reply.add_auth(record("example 600 SOA 60"))
    reply.add_ar(EDNS0(udp_len=1232))
    wire = bytes(reply.pack())
    return wire, wire[12 : 12 + 17]


def test_mutated_answers():
    """Whatever a resolver sends: an answer, or the end of its stream; and the reply can be built."""
    rng = random.Random(8)
    wire, question = good_answer()
    query = message.parse(query_wire("www.example", edns=1232))
    taken = unreadable = 0
    for n in range(20_000):
        try:
            result = response.parse(mutated(rng, wire), question)
        except Malformed:
            continue
        taken += 1
        reply = message.reply(query, result, n % 100, udp=False)
        assert reply[:2] == wire[:2] or reply[:2] == b"\0\1"
        try:
            DNSRecord.parse(reply)
        except (DNSError, RecursionError):
            unreadable += 1  # it was in the resolver's own records
    assert taken > 2_000
    assert unreadable < taken / 2


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=80), max_size=6))
def test_any_bytes_from_the_server(pieces):
    """The stream may be given up, but every client is answered in the end."""
    machine = resolver(random.Random(1))
    machine.query(query_wire("www.example", "MX"), "stub", True, 1.0)
    now, answers = 1.0, []
    feed = [framed(piece) if len(piece) % 2 else piece for piece in pieces]
    while not answers:
        while machine.commands:
            command = machine.commands.popleft()
            if isinstance(command, Answer):
                answers.append(command)
            elif isinstance(command, OpenStream):
                machine.stream_opened(command.stream, now)
            elif isinstance(command, SendStream):
                for piece in feed:
                    machine.stream_data(command.stream, piece, now)
        if not answers:
            due = machine.poll_at()
            assert due is not None
            now = max(now, due)
            machine.handle_timer(now)
    assert now <= 11.0
    assert len(answers) == 1


PLAY = """
import random, sys
import dnslib  # late.py: the process has it after its first pause
from avne.netstack.dns.resolver import Config, Resolver
from avne.ipc.messages import Capability
wires = [bytes.fromhex(text) for text in sys.argv[1:]]
before = set(sys.modules)
for capability in (Capability.RESOLVE, Capability(0)):
    machine = Resolver(Config(("192.0.2.53", 53)), random.Random(1).randbytes)
    machine.upstream_changed(capability)
    for number, wire in enumerate(wires):
        machine.query(wire, number, True, 1.0)
    machine.resolved(1, 0, ["192.0.2.1", "2001:db8::1"], 0, 1.0)
    machine.resolved(2, 0, ["host.example"], 0, 1.0)
    machine.stream_opened(1, 1.0)
    machine.stream_closed(1, 1, 1.0)
    machine.stream_closed(2, 1, 1.0)
    machine.upstream_changed(None)
print(sorted(set(sys.modules) - before))
"""


def test_nothing_is_imported_late():
    """Once the process is sealed no file can be opened: dnslib encodes str names with the idna codec."""
    wires = [wire.hex() for wire in QUERIES]
    done = subprocess.run([sys.executable, "-c", PLAY, *wires], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_sans_io():
    """No clock, socket or randomness of its own: nothing of the kind is even imported here."""
    for found in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{found.name}")
        assert not {"socket", "os", "select", "time", "zmq", "random"} & set(vars(module)), module


def test_an_onion_name_that_no_proxy_can_carry_does_not_exist():
    """A label may hold any octet (RFC 2181 §11); this one ended the netstack."""
    machine = resolver(random.Random(1))
    for label in ("a b", "a!", "\\000", "*"):
        for qtype in ("A", "AAAA"):
            machine.query(query_wire(f"{label}.{'a' * 55}d.onion", qtype), "client", True, 0.0)
            command = machine.commands.popleft()
            assert isinstance(command, Answer)
            assert DNSRecord.parse(command.wire).header.rcode == 3
