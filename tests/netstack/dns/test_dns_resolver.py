# SPDX-License-Identifier: GPL-3.0-or-later
"""The resolver's rules, each as a play."""

from __future__ import annotations

import pytest
from dns_playbook import (
    SOCKS,
    TOR,
    Playbook,
    asks_tor,
    closed,
    opened,
    opens,
    passed,
    query,
    query_wire,
    reply,
    resolved,
    sent,
    server_says,
    upstream,
)

from avne.errors import Malformed
from avne.ipc.messages import Code
from avne.netstack.dns import resolver as machine
from avne.netstack.dns.commands import CloseStream
from avne.netstack.dns.names import Names

ONION = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion"
DOWN = int(Code.UPSTREAM_DOWN)
SOA60 = "example 600 SOA 60"


def out_of_reach(book: Playbook) -> Playbook:
    """Continue a play in which the server has just been asked for the first time."""
    return book << opens(1) >> closed(1, 1) << opens(2) >> closed(2, 1) << unreachable


def unreachable(book: Playbook) -> None:
    command = book.next()
    assert command == machine.Log("warning", "dns-resolver-unreachable", {"host": "192.0.2.53", "port": 53})


# ---- Tor: RESOLVE, and the server where it does not do -------------------------------


def test_address_is_asked_of_tor(tor):
    """One round trip; Tor tells no TTL, so it is a minute, which counts down."""
    tor >> query("www.example") << asks_tor(1, "www.example")
    tor >> resolved(1, 0, "192.0.2.1") << reply("NOERROR", "www.example 60 A 192.0.2.1")
    tor >> passed(25.5) >> query("www.example") << reply("NOERROR", "www.example 35 A 192.0.2.1")
    tor >> passed(34.5) >> query("www.example") << asks_tor(2, "www.example")


def test_letter_case_of_the_question_comes_back(tor):
    """0x20 stubs compare it; the cache and the worker do not see it."""
    tor >> query("wWw.Example") << asks_tor(1, "www.example")
    tor >> resolved(1, 0, "192.0.2.1", ttl=9) << reply("NOERROR", "wWw.Example 9 A 192.0.2.1")
    tor >> query("www.EXAMPLE") << reply("NOERROR", "www.EXAMPLE 9 A 192.0.2.1")


def test_v6_only_name_has_no_a_record(tor):
    tor >> query("six.example") << asks_tor(1, "six.example")
    tor >> resolved(1, 0, "2001:db8::6") << reply("NOERROR")


@pytest.mark.parametrize("code", [4, 1, DOWN])
def test_failed_resolve_is_looked_into(tor, code):
    """Tor does not say why: the server does."""
    tor >> query("no.example") << asks_tor(1, "no.example")
    tor >> resolved(1, code) << opens(1)
    tor >> opened(1) << sent(1, "no.example A")
    tor >> server_says(1, "no.example", "A", "NXDOMAIN", SOA60) << reply("NXDOMAIN")
    tor >> passed(20) >> query("no.example") << reply("NXDOMAIN")  # RFC 2308


def test_failed_resolve_with_records_after_all(tor):
    tor >> query("www.example") << asks_tor(1, "www.example") >> resolved(1, 4) << opens(1)
    tor >> opened(1) << sent(1, "www.example A")
    tor >> server_says(1, "www.example", "A", "NOERROR", "www.example 7 A 192.0.2.1")
    tor << reply("NOERROR", "www.example 7 A 192.0.2.1")


@pytest.mark.parametrize(
    "answers", [["nonsense"], [], ["1.2.3.4.5"], ["1::2::3::4:5:6:7:8:9:a"], ["1.2.3.256"]]
)
def test_nonsense_from_a_worker_is_a_failure(tor, answers):
    tor >> query("www.example") << asks_tor(1, "www.example") >> resolved(1, 0, *answers) << opens(1)


def test_resolve_that_is_not_answered(tor):
    tor >> query("www.example") << asks_tor(1, "www.example")
    tor >> passed(15) << opens(1)
    tor >> resolved(1, 0, "192.0.2.1")  # too late: somebody else is asked already
    tor >> closed(1, 1) << opens(2) >> closed(2, 1) << unreachable << reply("SERVFAIL")


def test_without_a_server_a_failure_stays_unknown():
    book = Playbook(TOR, server=None)
    book >> query("no.example") << asks_tor(1, "no.example") >> resolved(1, 4) << reply("SERVFAIL")
    book >> query("no.example", "AAAA") << asks_tor(2, "no.example") >> passed(15) << reply("SERVFAIL")
    book >> query("no.example", "MX") << reply("NOTIMP")
    book.resolver.stream_opened(1, 0)  # there can be none, and none is expected
    book.resolver.stream_data(1, b"x", 0)
    book.resolver.stream_closed(1, 0, 0)
    book.end()
    assert book.resolver.poll_at() is None
    book >> query("www.example") << asks_tor(3, "www.example") >> upstream(None) << reply("SERVFAIL")


def test_aaaa_is_asked_of_the_server(tor):
    """Tor would give the IPv4 address of a name that has both."""
    tor >> query("www.example", "AAAA") << opens(1)
    tor >> opened(1) << sent(1, "www.example AAAA")
    tor >> server_says(1, "www.example", "AAAA", "NOERROR", "www.example 99 AAAA 2001:db8::1")
    tor << reply("NOERROR", "www.example 99 AAAA 2001:db8::1")


@pytest.mark.parametrize(
    ("address", "records"), [("2001:db8::6", ["www.example 60 AAAA 2001:db8::6"]), ("192.0.2.1", [])]
)
def test_aaaa_with_the_server_out_of_reach(tor, address, records):
    """Tor's one address is better than none: an IPv4 address means that there is no AAAA to be had."""
    out_of_reach(tor >> query("www.example", "AAAA")) << asks_tor(1, "www.example")
    tor >> resolved(1, 0, address) << reply("NOERROR", *records)


def test_aaaa_where_the_server_does_not_serve_us(tor):
    tor >> query("www.example", "AAAA") << opens(1) >> opened(1) << sent(1, "www.example AAAA")
    tor >> server_says(1, "www.example", "AAAA", "REFUSED") << asks_tor(1, "www.example")
    tor >> resolved(1, 4) << reply("SERVFAIL")


@pytest.mark.parametrize("qtype", ["MX", "TXT", "SRV", "HTTPS", "ANY", "SOA"])
def test_other_types_go_to_the_server(tor, qtype):
    tor >> query("example", qtype) << opens(1) >> opened(1) << sent(1, f"example {qtype}")
    tor >> server_says(1, "example", qtype, "REFUSED") << reply("REFUSED")


def test_server_out_of_reach_is_left_alone_for_a_while(tor):
    out_of_reach(tor >> query("example", "MX")) << reply("SERVFAIL")
    tor >> passed(29) >> query("example", "TXT") << reply("SERVFAIL")
    tor >> query("www.example", "AAAA") << asks_tor(1, "www.example")
    tor >> passed(1) >> query("example", "MX") << opens(3)


def test_servfail_is_told_and_not_kept(tor):
    tor >> query("bad.example") << asks_tor(1, "bad.example") >> resolved(1, 4) << opens(1)
    tor >> opened(1) << sent(1, "bad.example A")
    tor >> server_says(1, "bad.example", "A", "SERVFAIL") << reply("SERVFAIL")
    tor >> query("bad.example") << asks_tor(2, "bad.example")


@pytest.mark.parametrize("name", ["_dmarc.a b.example", "a.b.exa$mple", "."])
def test_names_that_no_proxy_request_can_carry(tor, socks, name):
    """They go to the server as they are; an address that stands for them cannot be had."""
    tor >> query(name, "A") << opens(1)
    socks >> query(name, "A") << opens(1) >> closed(1, 1) << opens(2) >> closed(2, 1) << unreachable
    socks << reply("SERVFAIL")


def test_single_label_is_a_name_like_others(tor):
    tor >> query("printer") << asks_tor(1, "printer")


# ---- DNSSEC --------------------------------------------------------------------------


def test_signatures_come_from_the_server(tor):
    """RESOLVE has none to give; DO and plain questions are different ones (RFC 4035 §3.2.1)."""
    tor >> query("www.example", edns=1232, flags="do") << opens(1)
    tor >> query("www.example") << asks_tor(1, "www.example")
    tor >> opened(1) << sent(1, "www.example A")
    tor >> server_says(1, "www.example", "A", "NOERROR", "www.example 60 A 192.0.2.1", ad=1)
    tor << reply("NOERROR", "www.example 60 A 192.0.2.1", flags="rd ad")


def test_ad_only_for_those_who_know_it(tor):
    """RFC 6840 §5.8."""
    tor >> query("example", "TXT", ad=1) << opens(1) >> opened(1) << sent(1, "example TXT")
    tor >> server_says(1, "example", "TXT", "NOERROR", "example 60 TXT x", ad=1)
    tor << reply("NOERROR", 'example 60 TXT "x"', flags="rd ad")
    tor >> query("example", "TXT") << reply("NOERROR", 'example 60 TXT "x"', flags="rd")
    tor >> query("example", "TXT", cd=1, rd=0) << sent(1, "example TXT")
    tor >> server_says(1, "example", "TXT", "NOERROR", "example 60 TXT x")
    tor << reply("NOERROR", 'example 60 TXT "x"', flags="cd")


# ---- other upstreams: addresses that stand for names --------------------------------------


def test_name_that_exists_is_mapped(socks):
    socks >> query("www.example") << opens(1) >> opened(1) << sent(1, "www.example A")
    socks >> server_says(1, "www.example", "A", "NOERROR", "www.example 100 A 192.0.2.1")
    socks << reply("NOERROR", "www.example 100 A 198.18.1.0")
    assert socks.resolver.names.name_of(bytes((198, 18, 1, 0))) == "www.example"
    socks >> passed(30) << CloseStream(1)  # it has been idle
    socks >> passed(30) >> query("www.example") << reply("NOERROR", "www.example 40 A 198.18.1.0")
    socks >> query("0.1.18.198.in-addr.arpa", "PTR")
    socks << reply("NOERROR", "0.1.18.198.in-addr.arpa 60 PTR www.example")


def test_ttl_of_mapped_answers_is_real(socks):
    """Within what caches may keep (RFC 8767 §4)."""
    socks >> query("www.example", "AAAA") << opens(1) >> opened(1) << sent(1, "www.example AAAA")
    socks >> server_says(1, "www.example", "AAAA", "NOERROR", "www.example 90000 AAAA 2001:db8::1")
    socks << reply("NOERROR", "www.example 86400 AAAA fd61:766e:6500:1::100")


@pytest.mark.parametrize("rcode", ["NXDOMAIN", "NOERROR", "SERVFAIL"])
def test_name_without_address_is_not_mapped(socks, rcode):
    socks >> query("no.example") << opens(1) >> opened(1) << sent(1, "no.example A")
    socks >> server_says(1, "no.example", "A", rcode, SOA60) << reply(rcode)
    assert len(socks.resolver.names) == 0


def test_mapped_all_the_same_without_the_server(socks):
    """But not for long, because it may come back; meanwhile it is not waited for."""
    out_of_reach(socks >> query("www.example")) << reply("NOERROR", "www.example 30 A 198.18.1.0")
    socks >> query("b.example") << reply("NOERROR", "b.example 30 A 198.18.1.1")
    socks >> passed(30) >> query("b.example") << opens(3)


def test_mapped_where_the_server_does_not_serve_us(socks):
    socks >> query("www.example") << opens(1) >> opened(1) << sent(1, "www.example A")
    socks >> server_says(1, "www.example", "A", "REFUSED") << reply("NOERROR", "www.example 30 A 198.18.1.0")


def test_mapped_at_once_where_there_is_no_server():
    book = Playbook(SOCKS, server=None)
    book >> query("www.example") << reply("NOERROR", "www.example 300 A 198.18.1.0")
    book >> query("www.example", "AAAA") << reply("NOERROR", "www.example 300 AAAA fd61:766e:6500:1::100")
    book >> query("www.example", "MX") << reply("NOTIMP")
    book >> query("8.8.8.8.in-addr.arpa", "PTR") << reply("NOTIMP")
    book.end()


def test_all_addresses_in_use(monkeypatch):
    monkeypatch.setattr(machine, "Names", lambda: Names(1, 0))
    book = Playbook(SOCKS, server=None)
    book >> query("a.example") << reply("NOERROR", "a.example 300 A 198.18.1.0")
    book >> query("b.example") << reply("SERVFAIL")
    book.end()


@pytest.mark.parametrize(("qtype", "address"), [("A", "198.18.1.0"), ("AAAA", "fd61:766e:6500:1::100")])
def test_foreign_name_with_one_of_our_addresses(tor, qtype, address):
    """It would lead to whatever that address stands for (DNS rebinding)."""
    tor >> query("evil.example", "ANY") << opens(1) >> opened(1) << sent(1, "evil.example ANY")
    tor >> server_says(1, "evil.example", "ANY", "NOERROR", f"evil.example 60 {qtype} {address}")
    tor << reply("SERVFAIL")
    tor >> query("evil.example") << asks_tor(1, "evil.example") >> resolved(1, 0, "198.18.1.0")
    tor << reply("SERVFAIL")
    assert tor.resolver.counters["dns-rebinding"] == 2


# ---- errors ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wire", "rcode"),
    [
        (query_wire("a.example", opcode=5), "NOTIMP"),
        (query_wire("a.example")[:5] + b"\0" + query_wire("a.example")[6:], "FORMERR"),
        (query_wire("a.example", "AXFR"), "NOTIMP"),
        (query_wire("version.bind", "TXT")[:-1] + b"\3", "REFUSED"),
    ],
)
def test_refused_at_once(tor, wire, rcode):
    tor.resolver.query(wire, "stub", True, tor.now)
    tor << reply(rcode)


def test_answer_is_not_a_query(tor):
    with pytest.raises(Malformed, match="dns-not-a-query"):
        tor >> query("a.example", qr=1)


# ---- many clients ---------------------------------------------------------------------------


def test_one_question_for_many_clients(tor):
    tor >> query("www.example", number=1) << asks_tor(1, "www.example")
    tor >> query("www.example", number=2) >> query("www.example", client="other")
    tor >> query("www.example", number=1)  # repeated: one answer to both
    tor >> resolved(1, 0, "192.0.2.1")
    for client, number in (("stub", 1), ("stub", 2), ("other", 1)):
        tor << reply("NOERROR", "www.example 60 A 192.0.2.1", client=client, number=number)
    assert tor.resolver.counters["dns-shared"] == 3


def test_too_many_questions(tor, monkeypatch):
    monkeypatch.setattr(machine, "DNS_MAX_PENDING", 2)
    tor >> query("a.example") << asks_tor(1, "a.example")
    tor >> query("b.example") << asks_tor(2, "b.example")
    tor >> query("c.example") << reply("SERVFAIL")
    tor >> query("b.example", number=2)  # no new question
    tor >> resolved(1, 0, "192.0.2.1") << reply("NOERROR", "a.example 60 A 192.0.2.1")
    tor >> query("c.example") << asks_tor(3, "c.example")


def test_too_many_clients(tor, monkeypatch):
    monkeypatch.setattr(machine, "DNS_MAX_WAITING", 2)
    tor >> query("a.example") << asks_tor(1, "a.example")
    tor >> query("a.example", number=2) >> query("a.example", number=3) << reply("SERVFAIL", number=3)
    tor >> resolved(1, 0, "192.0.2.1")
    (
        tor
        << reply("NOERROR", "a.example 60 A 192.0.2.1")
        << reply("NOERROR", "a.example 60 A 192.0.2.1", number=2)
    )
    tor >> query("b.example") << asks_tor(2, "b.example")


def test_flood_of_names_is_bounded_and_others_are_still_answered():
    book = Playbook(SOCKS, server=None)
    for n in range(6000):
        book.resolver.query(query_wire(f"n{n}.example"), "stub", True, book.now)
    book.resolver.commands.clear()
    assert len(book.resolver._cache) == 4096
    book >> query("n1.example") << reply("NOERROR", "n1.example 300 A 198.18.1.1")


# ---- the upstream comes and goes ---------------------------------------------------------------


def test_no_worker():
    book = Playbook(None)
    book >> query("www.example") << reply("SERVFAIL")
    book >> query(ONION) << reply("SERVFAIL")
    book >> query("localhost") << reply("NOERROR", "localhost 60 A 127.0.0.1")
    assert book.resolver.counters["dns-no-worker"] == 2
    book >> upstream(TOR) >> query("www.example") << asks_tor(1, "www.example")


def test_last_worker_dies(tor):
    tor >> query("www.example") << asks_tor(1, "www.example")
    tor >> query("www.example", "AAAA") << opens(1)
    tor >> upstream(None) << CloseStream(1) << reply("SERVFAIL") << reply("SERVFAIL")
    tor >> resolved(1, 0, "192.0.2.1") >> closed(1, DOWN) >> opened(1)
    assert tor.resolver.poll_at() is None
    tor >> upstream(TOR) >> query("www.example", "AAAA") << opens(2)


def test_worker_dies_while_the_server_is_out_of_reach(tor):
    """A new worker is a new chance."""
    out_of_reach(tor >> query("example", "MX")) << reply("SERVFAIL")
    tor >> upstream(None) >> upstream(TOR) >> query("example", "MX") << opens(3)


def test_cache_belongs_to_the_upstream(tor):
    tor >> query("www.example") << asks_tor(1, "www.example") >> resolved(1, 0, "192.0.2.1")
    tor << reply("NOERROR", "www.example 60 A 192.0.2.1")
    tor >> upstream(TOR) >> upstream(None) >> upstream(TOR)
    tor >> query("www.example") << reply("NOERROR", "www.example 60 A 192.0.2.1")
    tor >> upstream(SOCKS) >> query("www.example") << opens(1)


def test_deadlines_of_both_ways(tor):
    tor >> query("www.example") << asks_tor(1, "www.example")
    assert tor.resolver.poll_at() == tor.now + 15
    tor >> query("www.example", "AAAA") << opens(1)
    assert tor.resolver.poll_at() == tor.now + 5
    tor.resolver.handle_timer(tor.now + 1)  # nothing is due


def _renew(book: Playbook) -> None:
    book.resolver.renew(book.now)


def test_new_circuits_forget_what_the_old_ones_have_told(tor):
    """`avne newnym`: neither the cache nor the stream of the identity before is used."""
    tor >> query("www.example") << asks_tor(1, "www.example")
    tor >> resolved(1, 0, "192.0.2.1") << reply("NOERROR", "www.example 60 A 192.0.2.1")
    tor >> query("www.example", "TXT") << opens(1) >> opened(1) << sent(1, "www.example TXT")
    tor >> server_says(1, "www.example", "TXT", "NXDOMAIN", SOA60) << reply("NXDOMAIN")
    tor >> _renew << CloseStream(1)
    tor >> query("www.example") << asks_tor(2, "www.example")
    tor >> query("www.example", "TXT") << opens(2)
