# SPDX-License-Identifier: GPL-3.0-or-later
"""The modes of `dns`: who is asked, and which address is told."""

from __future__ import annotations

import itertools

import pytest
from dns_playbook import (
    SOCKS,
    TOR,
    Playbook,
    asks_tor,
    closed,
    opened,
    opens,
    query,
    query_wire,
    reply,
    resolved,
    sent,
    server_says,
)
from dnslib import DNSRecord

from avne.netstack.addresses import is_mapped
from avne.netstack.dns import plan
from avne.netstack.dns import resolver as machine
from avne.netstack.dns.commands import Answer, Log
from avne.netstack.dns.message import parse
from avne.netstack.dns.names import Names

NAME = "www.example"
ONION = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion"
SOA60 = "example 600 SOA 60"
V4, V6 = "198.18.1.0", "fd61:766e:6500:1::100"


@pytest.fixture
def book(request):
    """A play with Tor in the mode that the test's parameter names, `truthful` without one."""
    book = Playbook(TOR, mode=getattr(request, "param", "truthful"))
    yield book
    book.end()


def in_mode(*modes: str):
    return pytest.mark.parametrize("book", modes, indirect=True)


def asked(book: Playbook, name: str = NAME, qtype: str = "A", **wire: object) -> Playbook:
    """The first question of a play, at the server."""
    return book >> query(name, qtype, **wire) << opens(1) >> opened(1) << sent(1, f"{name} {qtype}")


def out_of_reach(book: Playbook) -> Playbook:
    return book << opens(1) >> closed(1, 1) << opens(2) >> closed(2, 1) << unreachable


def unreachable(book: Playbook) -> None:
    assert isinstance(book.next(), Log)


# ---- truthful ----------------------------------------------------------------------------


@pytest.mark.parametrize(("qtype", "real", "mapped"), [("A", "192.0.2.1", V4), ("AAAA", "2001:db8::1", V6)])
def test_a_name_that_exists_is_mapped_with_its_own_ttl(book, qtype, real, mapped):
    asked(book, NAME, qtype) >> server_says(1, NAME, qtype, "NOERROR", f"{NAME} 77 {qtype} {real}")
    book << reply("NOERROR", f"{NAME} 77 {qtype} {mapped}")


@pytest.mark.parametrize("qtype", ["A", "AAAA"])
def test_the_other_family_is_nodata(book, qtype):
    asked(book, NAME, qtype) >> server_says(1, NAME, qtype, "NOERROR", SOA60) << reply("NOERROR")
    assert len(book.resolver.names) == 0


def test_a_name_that_does_not_exist_is_asked_for_once(book):
    """RFC 2308 §5: it exists for no type."""
    asked(book) >> server_says(1, NAME, "A", "NXDOMAIN", SOA60) << reply("NXDOMAIN")
    book >> query(NAME, "AAAA") << reply("NXDOMAIN")
    book >> query(NAME, "MX") << reply("NXDOMAIN")


def test_servfail_is_no_nxdomain(book):
    asked(book) >> server_says(1, NAME, "A", "SERVFAIL") << reply("SERVFAIL")


def test_several_addresses_are_one(book):
    records = [f"{NAME} {ttl} A 192.0.2.{ttl}" for ttl in (30, 20, 40)]
    asked(book) >> server_says(1, NAME, "A", "NOERROR", *records) << reply("NOERROR", f"{NAME} 20 A {V4}")


def test_aliases_are_kept_and_stand_for_the_name_that_was_asked_for(book):
    """getaddrinfo's canonical name is among them; a server knows its site by the first one."""
    chain = [f"{NAME} 50 CNAME a.example", "A.example 40 CNAME b.example"]
    asked(book) >> server_says(1, NAME, "A", "NOERROR", *chain, "b.example 30 A 192.0.2.1")
    kept = [f"{NAME} 50 CNAME a.example", "A.example 40 CNAME b.example", f"b.example 30 A {V4}"]
    book << reply("NOERROR", *kept) >> query(NAME) << reply("NOERROR", *kept)
    assert book.resolver.names.name_of(bytes((198, 18, 1, 0))) == NAME


def test_aliases_in_a_ring(book):
    records = [f"{NAME} 50 CNAME a.example", f"a.example 50 CNAME {NAME}", f"{NAME} 9 A 192.0.2.1"]
    asked(book) >> server_says(1, NAME, "A", "NOERROR", *records)
    book << reply("NOERROR", *records[:2], f"{NAME} 9 A {V4}")


def test_more_aliases_than_anybody_follows(book):
    names = [NAME, *(f"n{n}.example" for n in range(20))]
    records = [f"{a} 5 CNAME {b}" for a, b in itertools.pairwise(names)]
    asked(book) >> server_says(1, NAME, "A", "NOERROR", *records, f"{names[-1]} 5 A 192.0.2.1")
    book << reply("SERVFAIL")
    assert book.resolver.counters["malformed-dns-aliases"] == 1


@pytest.mark.parametrize(
    ("qtype", "address"), [("A", "0.0.0.0"), ("A", "127.0.0.2"), ("AAAA", "::"), ("AAAA", "::1")]
)
def test_an_address_of_the_program_s_own_machine_is_told_as_it_is(book, qtype, address):
    """0.0.0.0 is how a resolver blocks a name; asked for by name, an exit would undo that."""
    answer = f"{NAME} 9 {qtype} {address}"
    asked(book, NAME, qtype) >> server_says(1, NAME, qtype, "NOERROR", answer) << reply("NOERROR", answer)


def test_resolve_where_the_server_is_out_of_reach(book):
    """Tor tells no TTL, so it is a minute; and one address: where that is an IPv4 one there is no AAAA."""
    out_of_reach(book >> query(NAME)) << asks_tor(1, NAME)
    book >> resolved(1, 0, "192.0.2.1") << reply("NOERROR", f"{NAME} 60 A {V4}")
    book >> query(NAME, "AAAA") << asks_tor(2, NAME) >> resolved(2, 0, "192.0.2.1") << reply("NOERROR")
    book >> query("no.example") << asks_tor(3, "no.example") >> resolved(3, 4) << reply("SERVFAIL")


def test_signatures_are_told_untouched(book):
    """DO: what a client wants to check must be what was signed."""
    answer = f"{NAME} 60 A 192.0.2.1"
    asked(book, edns=1232, flags="do") >> server_says(1, NAME, "A", "NOERROR", answer, ad=1)
    book << reply("NOERROR", answer, flags="rd ad")


def test_a_mapped_answer_is_not_authentic(book):
    """Nobody has signed our address (RFC 4035 §3.2.3)."""
    asked(book, ad=1) >> server_says(1, NAME, "A", "NOERROR", f"{NAME} 60 A 192.0.2.1", ad=1)
    book << reply("NOERROR", f"{NAME} 60 A {V4}", flags="rd")


def test_pointer_to_a_mapped_address_is_the_name(book):
    asked(book) >> server_says(1, NAME, "A", "NOERROR", f"{NAME} 77 A 192.0.2.1")
    book << reply("NOERROR", f"{NAME} 77 A {V4}")
    v6 = "0.0.1.0" + ".0" * 12 + ".1.0.0.0.0.0.5.6.e.6.6.7.1.6.d.f.ip6.arpa"
    for name in ("0.1.18.198.in-addr.arpa", v6):
        book >> query(name, "PTR") << reply("NOERROR", f"{name} 60 PTR {NAME}")


def test_other_types_are_told_as_they_are(book):
    asked(book, "example", "TXT") >> server_says(1, "example", "TXT", "NOERROR", "example 60 TXT x")
    book << reply("NOERROR", 'example 60 TXT "x"')


def test_when_the_pool_is_full_the_address_is_the_real_one(book, monkeypatch):
    """Other names are still answered, and onion services, which have no other address, are kept apart."""
    book.resolver.names = Names(1, 1)
    asked(book) >> server_says(1, NAME, "A", "NOERROR", f"{NAME} 60 A 192.0.2.1")
    book << reply("NOERROR", f"{NAME} 60 A {V4}")
    book >> query("b.example") << sent(1, "b.example A")
    book >> server_says(1, "b.example", "A", "NOERROR", "b.example 60 A 192.0.2.2")
    book << reply("NOERROR", "b.example 60 A 192.0.2.2")
    assert book.resolver.counters["dns-names-full"] == 1
    book >> query(ONION) << reply("NOERROR", f"{ONION} 300 A 198.18.1.1")


def test_one_of_our_addresses_from_outside_is_refused_in_every_mode(book):
    asked(book) >> server_says(1, NAME, "A", "NOERROR", f"{NAME} 60 A {V4}") << reply("SERVFAIL")


# ---- addresses in other types ----------------------------------------------------------------

# alpn=h2 ipv4hint=192.0.2.1,192.0.2.2 ipv6hint=2001:db8::1 key65280=x
_PARAMS = (
    b"\0\1\0\3\2h2\0\4\0\10\xc0\0\2\1\xc0\0\2\2\0\6\0\20\x20\1\x0d\xb8" + bytes(11) + b"\1" + b"\xff\0\0\1x"
)


def _https(target: bytes, params: bytes = _PARAMS, qtype: int = 65) -> bytes:
    rdata = b"\0\1" + target + params
    return b"\xc0\x0c" + qtype.to_bytes(2, "big") + b"\0\1\0\0\0\x3c" + len(rdata).to_bytes(2, "big") + rdata


def _server_sends(book: Playbook, qtype: str, records: bytes, counts: tuple[int, int, int]) -> None:
    question = query_wire(NAME, qtype)[12:]
    number = book.numbers[NAME, qtype]
    header = number + b"\x81\xa0\0\1" + b"".join(n.to_bytes(2, "big") for n in counts)
    wire = header + question + records
    book.resolver.stream_data(1, len(wire).to_bytes(2, "big") + wire, book.now)


def _told(book: Playbook) -> bytes:
    command = book.next()
    assert isinstance(command, Answer)
    return command.wire


@pytest.mark.parametrize("qtype", ["HTTPS", "SVCB"])
@pytest.mark.parametrize(
    ("target", "name"), [(b"\0", NAME), (b"\3svc\7Example\0", "svc.example")], ids=["owner", "target"]
)
def test_hints_lead_to_the_name_as_well(book, qtype, target, name):
    """RFC 9460 §7.3; a browser may connect to a hint without asking for an address."""
    asked(book, NAME, qtype)
    kind = {"HTTPS": 65, "SVCB": 64}[qtype]
    _server_sends(book, qtype, _https(target, qtype=kind), (1, 0, 0))
    v4, v6 = book.resolver.names.map(name, 0, 0.0)
    wire = _told(book)
    assert b"\0\4\0\10" + v4 + v4 + b"\0\6\0\20" + v6 + b"\xff\0\0\1x" in wire
    assert b"\0\1\0\3\2h2" in wire
    assert book.resolver._cache.get(parse(query_wire(NAME, qtype)), book.now) is not None


def test_hints_with_signatures_are_not_touched(book):
    asked(book, NAME, "HTTPS", edns=1232, flags="do")
    _server_sends(book, "HTTPS", _https(b"\0"), (1, 0, 0))
    assert _PARAMS in _told(book)


@in_mode("resolve", "tcp")
def test_hints_are_real_where_addresses_are(book):
    asked(book, NAME, "HTTPS")
    _server_sends(book, "HTTPS", _https(b"\0"), (1, 0, 0))
    assert _PARAMS in _told(book)


@in_mode("truthful", "tcp")
def test_a_hint_with_one_of_our_addresses_is_refused(book):
    asked(book, NAME, "HTTPS")
    _server_sends(book, "HTTPS", _https(b"\0", b"\0\4\0\4\xc6\x12\1\0"), (1, 0, 0))
    book << reply("SERVFAIL")


@pytest.mark.parametrize(
    "params", [b"\0\4\0\7\xc0\0\2\1\xc0\0\2", b"\0\4\0\xff\xc0\0\2\1", b"\0\4", b"\0\4\0\0"]
)
def test_a_record_that_is_not_well_formed_passes(book, params):
    """For clients to reject (RFC 9460 §2.2)."""
    asked(book, NAME, "HTTPS")
    _server_sends(book, "HTTPS", _https(b"\0", params), (1, 0, 0))
    assert params in _told(book)


def test_addresses_that_come_along_stand_for_their_names(book):
    asked(book, NAME, "MX")
    mail = b"\4mail\xc0\x10"  # below `example` of the question
    extra = (
        mail
        + b"\0\1\0\1\0\1\0\0\0\4\xc0\0\2\x19"
        + mail
        + b"\0\x1c\0\1\0\0\0\5\0\x10\x20\1\x0d\xb8"
        + bytes(12)
    )
    exchange = b"\xc0\x0c\0\x0f\0\1\0\0\0\5\0\x09\0\x0a" + mail
    _server_sends(book, "MX", exchange + extra, (1, 0, 2))
    message = DNSRecord.parse(_told(book))
    assert [str(r.rdata) for r in (*message.rr, *message.ar)] == ["10 mail.example.", V4, V6]
    # Whoever keeps that address may do so for as long as its TTL says.
    assert book.resolver.names._shelves[0].until[0] >= book.now + 65536


# ---- fast --------------------------------------------------------------------------------


@in_mode("fast")
def test_fast_asks_nobody(book):
    book >> query(NAME) << reply("NOERROR", f"{NAME} 300 A {V4}")
    book >> query(NAME, "AAAA") << reply("NOERROR", f"{NAME} 300 AAAA {V6}")
    assert book.resolver.poll_at() is None


@in_mode("fast")
def test_fast_when_the_pool_is_full(book):
    book.resolver.names = Names(1, 1)
    book >> query(NAME) << reply("NOERROR", f"{NAME} 300 A {V4}")
    asked(book, "b.example") >> server_says(1, "b.example", "A", "NOERROR", "b.example 60 A 192.0.2.2")
    book << reply("NOERROR", "b.example 60 A 192.0.2.2")


@in_mode("fast")
def test_fast_with_signatures_and_other_types_asks_the_server(book):
    answer = f"{NAME} 60 A 192.0.2.1"
    asked(book, edns=1232, flags="do") >> server_says(1, NAME, "A", "NOERROR", answer)
    book << reply("NOERROR", answer)
    book >> query(NAME, "MX") << sent(1, f"{NAME} MX")


# ---- resolve and tcp: the plays of test_dns_resolver.py are of `resolve` --------------------------


@in_mode("resolve")
def test_what_one_type_shows_saves_the_other_a_question(book):
    book >> query(NAME) << asks_tor(1, NAME)
    asked(book, NAME, "AAAA") >> server_says(1, NAME, "AAAA", "NXDOMAIN", SOA60) << reply("NXDOMAIN")
    book >> resolved(1, 4) << reply("NXDOMAIN")


@in_mode("tcp")
@pytest.mark.parametrize(("qtype", "real"), [("A", "192.0.2.1"), ("AAAA", "2001:db8::1")])
def test_tcp_asks_the_server_only(book, qtype, real):
    answer = f"{NAME} 60 {qtype} {real}"
    asked(book, NAME, qtype) >> server_says(1, NAME, qtype, "NOERROR", answer) << reply("NOERROR", answer)
    book >> query("8.8.8.8.in-addr.arpa", "PTR") << sent(1, "8.8.8.8.in-addr.arpa PTR")


@in_mode("tcp")
def test_tcp_has_no_second_way(book):
    out_of_reach(book >> query(NAME)) << reply("SERVFAIL")


@pytest.mark.parametrize("mode", ["resolve", "tcp"])
def test_a_proxy_without_resolve_tells_real_addresses_too(mode):
    book = Playbook(SOCKS, mode=mode)
    answer = f"{NAME} 60 A 192.0.2.1"
    asked(book) >> server_says(1, NAME, "A", "NOERROR", answer) << reply("NOERROR", answer)
    book.end()


@in_mode(*plan.MODES)
def test_onion_names_are_mapped_in_every_mode(book):
    book >> query(ONION) << reply("NOERROR", f"{ONION} 300 A {V4}")
    book >> query(ONION, "AAAA") << reply("NOERROR", f"{ONION} 300 AAAA {V6}")


@in_mode(*plan.MODES)
def test_names_of_special_use_are_asked_of_nobody_in_any_mode(book):
    book >> query("a.b.localhost") << reply("NOERROR", "a.b.localhost 60 A 127.0.0.1")
    book >> query("printer.local") << reply("NXDOMAIN")
    book >> query("avne.internal") << reply("NOERROR", "avne.internal 60 A 10.213.0.1")


# ---- many names ---------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["truthful", "fast"])
def test_ten_thousand_names_of_a_session(mode):
    """All of them keep their addresses for as long as they may be known."""
    book = Playbook(TOR, mode=mode)
    found = {}
    for n in range(10_000):
        name = f"r{n:06}.example"
        book.resolver.query(_random(n), "stub", True, book.now)
        if mode == "truthful":
            _serve(book)
        address = _told(book)[-4:]
        assert is_mapped(address)
        found[address] = name
    assert len(found) == 10_000
    assert all(book.resolver.names.name_of(address) == name for address, name in found.items())
    assert len(book.resolver._cache) == 4096


@pytest.mark.parametrize("exist", [True, False], ids=["wildcard", "nxdomain"])
def test_a_flood_of_random_names_is_bounded_and_others_are_still_answered(exist):
    """50,000 of them, and a pool of a tenth; bench/million.py asks a million in a real environment."""
    book = Playbook(TOR, mode="truthful")
    book.resolver.names = Names(5_000, 100)
    for n in range(50_000 if exist else 6_000):
        book.resolver.query(_random(n), n % 500, True, book.now)
        _serve(book, exist)
        book.now += 0.001
        if n % 5000 == 0:
            book.resolver.commands.clear()
            asked_then = f"honest{n}.example"
            book.resolver.query(query_wire(asked_then), "honest", True, book.now)
            _serve(book)
            assert DNSRecord.parse(_told(book)).rr[0].rtype == 1
        book.resolver.commands.clear()
    resolver = book.resolver
    assert len(resolver.names) <= 5_000
    assert len(resolver._cache) == 4096
    assert not resolver._questions
    assert not resolver._resolving
    assert resolver._waiting == 0
    book >> query(ONION)
    assert resolver.names.name_of(_told(book)[-4:]) == ONION


def test_a_burst_is_answered_with_servfail_beyond_the_bound_and_over_then():
    book = Playbook(TOR, mode="truthful")
    for n in range(10_000):
        book.resolver.query(_random(n), n, True, book.now)
    resolver = book.resolver
    assert len(resolver._questions) == machine.DNS_MAX_PENDING
    assert resolver.counters["dns-overload"] == 10_000 - machine.DNS_MAX_PENDING
    _serve(book)
    assert not resolver._questions
    resolver.commands.clear()
    book >> query(NAME)
    _serve(book)
    assert DNSRecord.parse(_told(book)).rr[0].rtype == 1


_RANDOM = query_wire("r000000.example")


def _random(n: int) -> bytes:
    return _RANDOM.replace(b"000000", b"%06d" % n)


def _serve(book: Playbook, exist: bool = True) -> None:
    """The server answers everything that it has been asked, and the stream is there at once."""
    commands = book.resolver.commands
    for _ in range(len(commands)):
        command = commands.popleft()
        if isinstance(command, machine.OpenStream):
            book.resolver.stream_opened(command.stream, book.now)
        elif isinstance(command, machine.SendStream):
            _answer(book, command, exist)
        else:
            commands.append(command)
    if any(isinstance(command, machine.SendStream) for command in commands):
        _serve(book, exist)


def _answer(book: Playbook, command: machine.SendStream, exist: bool) -> None:
    at = 0
    while at < len(command.data):
        size = int.from_bytes(command.data[at : at + 2], "big")
        wire = command.data[at + 2 : at + 2 + size]
        question = wire[12:-11]  # behind it is our OPT record
        record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\xc0\0\2\1"
        if not exist:
            record = b"\0\0\6\0\1\0\0\0\x3c\0\x16\0\0" + bytes(16) + b"\0\0\0\x3c"
        flags = b"\x81\x80" if exist else b"\x81\x83"
        answer = wire[:2] + flags + b"\0\1\0" + bytes((exist, 0, not exist, 0, 0)) + question + record
        book.resolver.stream_data(command.stream, len(answer).to_bytes(2, "big") + answer, book.now)
        at += 2 + size
