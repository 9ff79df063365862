# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker with rules about names: it is asked before anybody else is, about each of them."""

from __future__ import annotations

import pytest
from dns_playbook import (
    SOCKS,
    TOR,
    Playbook,
    asks_tor,
    opened,
    opens,
    passed,
    query,
    reply,
    resolved,
    sent,
    server_says,
    upstream,
)

from avne.ipc.messages import Capability, Code, ResolveKind
from avne.netstack.dns import resolver as machine

ROUTE = ResolveKind.ROUTE
ONION = "2gzyxa5ihm7nsggfxnu52rck2vt4rvmdlkiu3zzui5du4xyclen53wid.onion"
MAPPED = "198.18.1.0"


@pytest.fixture
def tor():
    book = Playbook(TOR | Capability.ROUTES)
    yield book
    book.end()


@pytest.fixture
def socks():
    book = Playbook(SOCKS | Capability.ROUTES)
    yield book
    book.end()


def test_a_name_of_no_rule_goes_its_usual_way(tor, socks):
    tor >> query("www.example") << asks_tor(1, "www.example", ROUTE)
    tor >> resolved(1, Code.SUCCEEDED) << asks_tor(2, "www.example")
    tor >> resolved(2, 0, "192.0.2.1") << reply("NOERROR", "www.example 60 A 192.0.2.1")
    tor >> query("www.example") << reply("NOERROR", "www.example 60 A 192.0.2.1")
    socks >> query("www.example") << asks_tor(1, "www.example", ROUTE)
    socks >> resolved(1, Code.SUCCEEDED) << opens(1)
    socks >> opened(1) << sent(1, "www.example A")
    socks >> server_says(1, "www.example", "A", "NOERROR", "www.example 60 A 192.0.2.1")
    socks << reply("NOERROR", f"www.example 60 A {MAPPED}")


@pytest.mark.parametrize("qtype", ["A", "AAAA", "TXT", "MX", "PTR", "HTTPS", "ANY"])
def test_a_name_that_goes_elsewhere_is_asked_of_nobody(tor, qtype):
    """Of no type: the question itself would tell."""
    answers = {"A": [f"x.i2p 300 A {MAPPED}"], "AAAA": ["x.i2p 300 AAAA fd61:766e:6500:1::100"]}
    tor >> query("x.i2p", qtype) << asks_tor(1, "x.i2p", ROUTE)
    tor >> resolved(1, Code.BY_NAME) << reply("NOERROR", *answers.get(qtype, []))


@pytest.mark.parametrize("qtype", ["A", "AAAA", "TXT", "PTR"])
def test_a_blocked_name_does_not_exist(socks, qtype):
    socks >> query("ads.example", qtype) << asks_tor(1, "ads.example", ROUTE)
    socks >> resolved(1, Code.BLOCKED) << reply("NXDOMAIN")


@pytest.mark.parametrize("code", [Code.UPSTREAM_DOWN, Code.GENERAL_FAILURE, 0x999])
def test_without_an_answer_nobody_is_asked(tor, code):
    tor >> query("x.i2p") << asks_tor(1, "x.i2p", ROUTE)
    tor >> resolved(1, code) << reply("SERVFAIL")


def test_silence_is_no_answer_either(tor):
    tor >> query("x.i2p") << asks_tor(1, "x.i2p", ROUTE)
    tor >> passed(machine.RESOLVE_TIMEOUT) << reply("SERVFAIL")
    tor >> resolved(1, Code.SUCCEEDED)


def test_when_the_worker_is_gone_so_is_the_question(tor):
    tor >> query("x.i2p") << asks_tor(1, "x.i2p", ROUTE)
    tor >> upstream(None) << reply("SERVFAIL")


def test_onion_names_are_asked_about_too(socks):
    """A rule may lead to Tor where the upstream of the settings is another."""
    socks >> query(ONION) << asks_tor(1, ONION, ROUTE)
    socks >> resolved(1, Code.BY_NAME) << reply("NOERROR", f"{ONION} 300 A {MAPPED}")
    socks >> query(f"www.{ONION}") << asks_tor(2, f"www.{ONION}", ROUTE)
    socks >> resolved(2, Code.BLOCKED) << reply("NXDOMAIN")


def test_an_address_is_asked_about_as_one(tor):
    tor >> query("7.100.51.203.in-addr.arpa", "PTR") << asks_tor(1, "203.51.100.7", ROUTE)
    tor >> resolved(1, Code.SUCCEEDED) << asks_tor(2, "203.51.100.7", ResolveKind.NAME)
    tor >> resolved(2, 0, "host.example")
    tor << reply("NOERROR", "7.100.51.203.in-addr.arpa 60 PTR host.example")
    tor >> query("8.100.51.203.in-addr.arpa", "PTR") << asks_tor(3, "203.51.100.8", ROUTE)
    tor >> resolved(3, Code.BY_NAME) << reply("NOERROR")


def test_odd_names_keep_their_end(tor):
    tor >> query("_sip._tcp.x.i2p", "SRV") << asks_tor(1, "_sip._tcp.x.i2p", ROUTE)
    tor >> resolved(1, Code.BY_NAME) << reply("NOERROR")


def test_without_a_resolver_there_is_nobody_to_ask():
    book = Playbook(SOCKS | Capability.ROUTES, server=None)
    book >> query("x.example", "TXT") << asks_tor(1, "x.example", ROUTE)
    book >> resolved(1, Code.SUCCEEDED) << reply("NOTIMP")
    book >> query("x.example") << asks_tor(2, "x.example", ROUTE)
    book >> resolved(2, Code.SUCCEEDED) << reply("NOERROR", f"x.example 300 A {MAPPED}")
    book.end()


@pytest.mark.parametrize("capabilities", [TOR, SOCKS, TOR | Capability.ROUTES])
def test_the_environment_s_own_name_is_the_gateway_s(capabilities):
    book = Playbook(capabilities)
    book >> query("avne.internal") << reply("NOERROR", "avne.internal 60 A 10.213.0.1")
    book >> query("AVNE.internal", "TXT") << reply("NOERROR")
    book >> query("x.avne.internal") << reply("NXDOMAIN")
    book.end()


@pytest.mark.parametrize("name", ["x.i2p", "x.alt"])
def test_other_systems_names_go_nowhere_but_by_a_rule(tor, socks, name):
    for book in (tor, socks):
        book >> query(name) << asks_tor(1, name, ROUTE)
        book >> resolved(1, Code.SUCCEEDED) << reply("NXDOMAIN")
    book = Playbook(TOR)
    book >> query(name) << reply("NXDOMAIN")
    book.end()
