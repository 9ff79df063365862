# SPDX-License-Identifier: GPL-3.0-or-later
"""Queries as guests send them, replies as they must look."""

from __future__ import annotations

import struct

import pytest
from dns_playbook import query_wire
from dnslib import AAAA, QTYPE, RR, A, DNSRecord

from avne.errors import Malformed
from avne.netstack.dns import message, response
from avne.netstack.dns.format import BADVERS, FORMERR, NOERROR, NOTIMP, NXDOMAIN, REFUSED, records
from avne.netstack.dns.response import Response


def raw(
    question: bytes, counts: tuple[int, int, int, int] = (1, 0, 0, 0), flags: int = 0x100, rest: bytes = b""
):
    return struct.pack("!6H", 7, flags, *counts) + question + rest


def opt(size: int = 1232, ttl: int = 0, name: bytes = b"\0", data: bytes = b"") -> bytes:
    return name + struct.pack("!HHIH", 41, size, ttl, len(data)) + data


A_IN = b"\0\1\0\1"
QUESTION = b"\3www\7Example\0" + A_IN


def test_plain_query():
    query = message.parse(raw(QUESTION))
    assert query == message.Query(7, NOERROR, QUESTION, (b"www", b"example"), 1, True)
    assert query.host == "www.example"
    assert query.size == 512


def test_flags_and_edns():
    query = message.parse(
        raw(QUESTION, (1, 0, 0, 1), 0x0130, opt(1400, 0x8000, data=b"\0\x0a\0\x08cookie!!"))
    )
    assert (query.recursion, query.authentic, query.unchecked) == (True, True, True)
    assert (query.edns, query.signed, query.size, query.error) == (True, True, 1400, NOERROR)


@pytest.mark.parametrize(("asked", "taken"), [(0, 512), (511, 512), (513, 513), (4096, 4096), (65535, 4096)])
def test_size_of_udp_replies(asked, taken):
    """RFC 6891 §6.2.3: values below 512 count as 512; §6.2.5: we may send less."""
    assert message.parse(raw(QUESTION, (1, 0, 0, 1), rest=opt(asked))).size == taken


@pytest.mark.parametrize(
    ("wire", "error"),
    [
        (raw(b"", (0, 0, 0, 0)), FORMERR),
        (raw(QUESTION * 2, (2, 0, 0, 0)), FORMERR),
        (raw(QUESTION, flags=0x2800), NOTIMP),  # UPDATE
        (raw(b"", (0, 0, 0, 0), flags=0x1000), NOTIMP),  # STATUS
        (raw(b"\0\0\1\0\3"), REFUSED),  # CHAOS
        (raw(b"\0\0\1\0\xff"), REFUSED),  # any class
        *(
            (raw(b"\0" + struct.pack("!HH", qtype, 1)), NOTIMP)
            for qtype in (41, 128, 249, 250, 251, 252, 253, 254)
        ),
        *((raw(b"\0" + struct.pack("!HH", qtype, 1)), NOERROR) for qtype in (0, 2, 65, 127, 255, 256, 65535)),
        (raw(QUESTION, (1, 0, 0, 1), rest=opt(ttl=1 << 16)), BADVERS),  # RFC 6891 §6.1.3
        (raw(QUESTION, (1, 0, 0, 2), rest=opt() * 2), FORMERR),  # §6.1.1
        (raw(QUESTION, (1, 0, 0, 1), rest=opt(name=b"\1a\0")), FORMERR),
        (raw(QUESTION, (1, 0, 0, 1), rest=b"\1a\xc0\x0c" + struct.pack("!HHIH", 250, 1, 0, 0)), NOERROR),
        (raw(QUESTION, (1, 1, 0, 0), rest=opt()), NOERROR),  # an OPT record in the answer is none
    ],
)
def test_what_is_wrong_with_a_query(wire, error):
    assert message.parse(wire).error == error


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (b"", "dns-size"),
        (raw(QUESTION)[:11], "dns-size"),
        (raw(QUESTION) + bytes(4096), "dns-size"),
        (raw(QUESTION, flags=0x8180), "dns-not-a-query"),
        (raw(QUESTION)[:-1], "dns-question"),
        (raw(b"\3www"), "dns-question"),
        (raw(b"\2\xff\xfe\0" + A_IN), "dns-question"),  # not even UTF-8
        (raw(b"\xc0\x0c" + A_IN), "dns-question"),  # a name that is itself
        (raw(b"\xc0\x04" + A_IN), "dns-compressed-question"),
        (raw(b"\1a\xc0\x04" + A_IN), "dns-compressed-question"),
        (raw(b"\x40" + b"a" * 64 + b"\0" + A_IN), "dns-name"),
        (raw(b"\x3f" + b"a" * 63 + b"\0" + A_IN), None),
        (raw((b"\x3f" + b"a" * 63) * 3 + b"\x3d" + b"a" * 61 + b"\0" + A_IN), None),  # 255 octets
        (raw((b"\x3f" + b"a" * 63) * 3 + b"\x3e" + b"a" * 62 + b"\0" + A_IN), "dns-name"),
        (raw(QUESTION, (1, 0, 0, 1)), "dns-name"),
        (raw(QUESTION, (1, 0, 0, 1), rest=opt()[:-1]), "dns-record"),
        (raw(QUESTION, (1, 0, 0, 1), rest=opt(data=b"four")[:-1]), "dns-record"),
        (raw(QUESTION, (1, 0, 0, 1), rest=opt(name=b"\x80")), "dns-label"),
    ],
)
def test_queries_without_an_answer(wire, reason):
    if reason is None:
        message.parse(wire)
    else:
        with pytest.raises(Malformed) as caught:
            message.parse(wire)
        assert caught.value.reason == reason


def test_chain_of_pointers_costs_nothing():
    """dnslib follows such a chain until Python's stack ends; the records are not its business here."""
    targets = (28, *range(29, 3700, 2))
    chain = b"\0" + b"".join(struct.pack("!H", 0xC000 | at) for at in targets)
    first = b"\0" + struct.pack("!HHIH", 65280, 1, 0, len(chain)) + chain
    last = struct.pack("!HHHIH", 0xC000 | (targets[-1] + 2), 1, 1, 0, 4) + b"abcd"
    wire = raw(b"\0" + A_IN, (1, 1, 0, 1), rest=first + last)
    with pytest.raises(RecursionError):
        DNSRecord.parse(wire)
    assert message.parse(wire).error == NOERROR


def test_question_that_never_ends():
    """Two pointers that lead to each other, through labels that overlap."""
    begin = (b"\x3f" + b"a" * 63) * 9 + b"\x33" + b"a" * 51  # up to offset 640
    one = b"\x14" + b"\x28" + b"a" * 19 + b"\xc2\x81"  # from 640 to the pointer to 641
    two = b"a" * 19 + b"\xc2\x80"  # from 641 over that one to the pointer to 640
    wire = raw(begin + one + two + A_IN)
    with pytest.raises(RecursionError):
        DNSRecord.parse(wire)
    with pytest.raises(Malformed, match="dns-question"):
        message.parse(wire)


@pytest.mark.parametrize(
    ("label", "host"),
    [
        (b"a-b_c9", "a-b_c9"), (b"xn--bcher-kva", "xn--bcher-kva"), (b"a.b", None), (b"a b", None),
        (b"b\xc3\xbccher", None), (b"\0", None), (b"*", None), (b"a/b", None), (b"a:1", None),
    ],
)  # fmt: skip
def test_names_a_proxy_can_carry(label, host):
    query = message.parse(raw(bytes((len(label),)) + label + b"\0" + A_IN))
    assert query.host == host
    assert message.parse(raw(b"\0" + A_IN)).host is None


def test_key_is_of_the_question():
    """Letter case, ID and AD do not matter; type, DO and CD do."""
    key = message.parse(raw(QUESTION)).key
    assert message.parse(query_wire("WWW.example", number=9, ad=1)).key == key
    others = [
        query_wire("www.example", "AAAA"), query_wire("www.example", cd=1),
        query_wire("www.example", edns=1232, flags="do"), query_wire("www2.example"),
        query_wire("www.example", edns=1232, flags="do", cd=1),
    ]  # fmt: skip
    assert len({key, *(message.parse(wire).key for wire in others)}) == 6


# ---- replies ------------------------------------------------------------------------------


def many(count: int) -> Response:
    """An answer of `count` addresses: 16 octets each behind the question."""
    return response.addresses((b"www", b"example"), 1, [f"192.0.2.{n}" for n in range(count)], 60)


@pytest.mark.parametrize(
    ("edns", "count", "fits"),
    [(0, 30, True), (0, 31, False), (1232, 74, True), (1232, 75, False), (65535, 252, True)],
)
def test_truncation(edns, count, fits):
    """Over UDP only; the question and OPT remain (RFC 2181 §9, RFC 6891 §7)."""
    query = message.parse(query_wire("www.example", edns=edns))
    wire = message.reply(query, many(count), 0, udp=True)
    reply = DNSRecord.parse(wire)
    assert len(wire) <= query.size
    assert reply.header.tc == (not fits)
    assert len(reply.rr) == (count if fits else 0)
    assert len(reply.ar) == bool(edns)
    whole = DNSRecord.parse(message.reply(query, many(count), 0, udp=False))
    assert (whole.header.tc, len(whole.rr)) == (0, count)


def test_reply_repeats_the_question_as_it_was():
    query = message.parse(raw(b"\3wWw\7EXAMPLE\0" + A_IN))
    wire = message.reply(query, many(1), 0, udp=True)
    assert wire[12 : 12 + len(QUESTION)] == b"\3wWw\7EXAMPLE\0" + A_IN
    assert str(DNSRecord.parse(wire).a.rname) == "wWw.EXAMPLE."


def test_reply_without_a_question():
    """There is none to repeat where it was not understood."""
    query = message.parse(raw(QUESTION * 2, (2, 0, 0, 0)))
    assert message.reply(query, Response(query.error), 0, udp=True) == struct.pack(
        "!6H", 7, 0x8081, 0, 0, 0, 0
    )


def test_reply_to_an_unknown_version():
    query = message.parse(raw(QUESTION, (1, 0, 0, 1), rest=opt(ttl=1 << 16)))
    reply = DNSRecord.parse(message.reply(query, Response(query.error), 0, udp=True))
    assert (reply.header.rcode, reply.ar[0].edns_rcode, reply.ar[0].edns_ver) == (0, 1, 0)


def test_no_opt_for_those_who_sent_none():
    """RFC 6891 §7."""
    reply = DNSRecord.parse(message.reply(message.parse(raw(QUESTION)), Response(NXDOMAIN), 0, udp=True))
    assert reply.ar == []
    signed = message.parse(query_wire("www.example", edns=512, flags="do"))
    (ours,) = DNSRecord.parse(message.reply(signed, Response(NXDOMAIN), 0, udp=True)).ar
    assert (ours.edns_len, ours.edns_do) == (4096, 1)


def test_ttls_count_down():
    query = message.parse(raw(QUESTION))
    wire = message.reply(query, many(2), 59, udp=True)
    assert [record.ttl for record in DNSRecord.parse(wire).rr] == [1, 1]
    assert [record.ttl for record in DNSRecord.parse(message.reply(query, many(2), 61, udp=True)).rr] == [
        0,
        0,
    ]


# ---- what a resolver answers ----------------------------------------------------------------


ASKED = b"\3www\7example\0" + A_IN


def answer(*rest: bytes, counts: tuple[int, int, int] = (0, 0, 0), flags: int = 0x8180) -> Response:
    return response.parse(raw(ASKED, (1, *counts), flags, b"".join(rest)), ASKED)


def rr(rtype: int, ttl: int, data: bytes = b"data") -> bytes:
    return b"\xc0\x0c" + struct.pack("!HHIH", rtype, 1, ttl, len(data)) + data


def soa(ttl: int, minimum: int) -> bytes:
    return rr(6, ttl, b"\0\0" + struct.pack("!5I", 1, 2, 3, 4, minimum))


@pytest.mark.parametrize(
    ("rest", "counts", "rcode", "found", "ttl"),
    [
        ([rr(1, 60), rr(1, 50)], (2, 0, 0), 0, True, 50),
        ([rr(5, 40), rr(1, 60)], (2, 0, 0), 0, True, 40),  # through a CNAME
        ([rr(1, 60), rr(2, 5), rr(1, 3)], (1, 1, 1), 0, True, 60),  # only the answer's count
        ([rr(1, 1 << 31)], (1, 0, 0), 0, True, 0),  # RFC 2181 §8
        ([rr(1, 10**9)], (1, 0, 0), 0, True, 86400),
        ([rr(5, 60)], (1, 0, 0), 0, False, 0),  # no address at the end of it, and no SOA
        ([rr(5, 60), soa(900, 300)], (1, 1, 0), 0, False, 60),
        ([soa(900, 300)], (0, 1, 0), 3, False, 300),  # RFC 2308 §5: the lesser of the two
        ([soa(200, 300)], (0, 1, 0), 0, False, 200),
        ([soa(10**6, 10**6)], (0, 1, 0), 3, False, 10800),
        ([rr(2, 900), soa(200, 300)], (0, 2, 0), 3, False, 200),
        ([soa(200, 300)], (0, 0, 1), 3, False, 0),  # not of the authority
        ([rr(6, 900, b"short")], (0, 1, 0), 3, False, 0),
        ([rr(2, 900)], (0, 1, 0), 0, False, 0),  # a referral
        ([soa(200, 300)], (0, 1, 0), 2, False, 0),  # SERVFAIL is not kept
        ([rr(1, 60)], (1, 0, 0), 5, False, 0),
    ],
)
def test_lifetime(rest, counts, rcode, found, ttl):
    result = answer(*rest, counts=counts, flags=0x8180 | rcode)
    assert (result.rcode, result.found, result.ttl) == (rcode, found, ttl)


def test_opt_of_the_resolver_stays_here():
    """Hop by hop (RFC 6891 §6.1.1); what follows it goes too."""
    result = answer(rr(1, 60), opt(), rr(1, 60), counts=(1, 0, 2))
    assert result == answer(rr(1, 60), counts=(1, 0, 0))
    assert answer(opt(), counts=(0, 0, 1)).body == b""


def test_extended_rcode_of_the_resolver():
    """BADVERS, BADCOOKIE …: between it and us."""
    assert answer(opt(ttl=1 << 24), counts=(0, 0, 1)).rcode == 2


@pytest.mark.parametrize("counts", [(1, 0, 0), (1, 0, 1), (0, 1, 0)])
def test_opt_out_of_place(counts):
    with pytest.raises(Malformed, match="dns-answer-opt"):
        answer(opt(), opt(), counts=counts)


def test_unknown_types_pass_untouched():
    """RFC 3597; an empty record too, which dnslib does not parse."""
    records_ = rr(65400, 60, b"\xff" * 9) + rr(10, 60, b"")
    query = message.parse(raw(b"\3www\7example\0" + b"\0\xff\0\1"))
    asked = query.question
    result = response.parse(raw(asked, (1, 2, 0, 0), 0x8180, records_), asked)
    assert message.reply(query, result, 10, udp=True).endswith(rr(65400, 50, b"\xff" * 9) + rr(10, 50, b""))


def test_high_ttl_is_zero_for_the_client():
    assert answer(rr(1, 1 << 31), rr(1, 100), counts=(2, 0, 0)).aged(0) == rr(1, 0) + rr(1, 100)


def test_addresses_of_an_answer():
    result = answer(
        rr(1, 1, b"1234"), rr(28, 1, b"6" * 16), rr(1, 1, b"123"), rr(16, 1, b"1234"), counts=(4, 0, 0)
    )
    assert tuple(result.addresses) == (b"1234", b"6" * 16)


def test_local_records_are_what_dnslib_says():
    result = response.mapped((b"a", b"example"), 28, bytes(range(16)), 77)
    wire = message.reply(message.parse(query_wire("a.example", "AAAA")), result, 7, udp=True)
    (found,) = DNSRecord.parse(wire).rr
    assert (str(found.rname), found.ttl, QTYPE[found.rtype], bytes(found.rdata.data)) == (
        "a.example.", 70, "AAAA", bytes(range(16)),
    )  # fmt: skip


def test_opt_is_found_behind_other_sections():
    """An IXFR-like query carries authority records (RFC 1995 §3); labels are of up to 63 octets."""
    before = b"\x3f" + b"a" * 63 + b"\0" + struct.pack("!HHIH", 6, 1, 0, 4) + b"data"
    query = message.parse(raw(QUESTION, (1, 0, 2, 1), rest=before * 2 + opt(1400)))
    assert (query.edns, query.size, query.error) == (True, 1400, NOERROR)


def test_walk_ends_with_its_message():
    wire = bytes(DNSRecord(questions=[], rr=[RR("a.example", rdata=A("1.2.3.4"), ttl=5)]).pack()) + b"more"
    (found,) = records(wire, 12, 1)
    assert (found.start, found.ttl, wire[found.data_at : found.end]) == (12, 5, bytes((1, 2, 3, 4)))
    with pytest.raises(Malformed):
        list(records(wire, 12, 2))


@pytest.mark.parametrize(("qtype", "address"), [(1, bytes((198, 18, 1, 0))), (28, bytes(range(16)))])
def test_the_record_of_a_mapped_address_is_what_dnslib_makes_of_it(qtype, address):
    record = A if qtype == 1 else AAAA
    labels = (b"www", b"example")
    assert response.mapped(labels, qtype, address, 77) == response.local(
        labels, qtype, [record(tuple(address))], 77
    )
