# SPDX-License-Identifier: GPL-3.0-or-later
"""Reverse names, onion names, and names that are answered here and never sent anywhere."""

from __future__ import annotations

import pytest
from dns_playbook import asks_tor, opens, query, reply, resolved

from avne.ipc.messages import ResolveKind

ONION = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion"


# ---- PTR -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("9.8.8.8.in-addr.arpa", "8.8.8.9"),
        ("1." + "0." * 23 + "0.0.8.4.1.0.a.2.ip6.arpa", "2a01:4800:0000:0000:0000:0000:0000:0001"),
    ],
)
def test_pointer_of_an_address_is_asked_of_tor(tor, name, address):
    tor >> query(name, "PTR") << asks_tor(1, address, ResolveKind.NAME)
    tor >> resolved(1, 0, "host.example") << reply("NOERROR", f"{name} 60 PTR host.example")


@pytest.mark.parametrize(
    "answer", ["hóst.example", "", "a" * 64 + ".example", "a..example", "a." * 127 + "a"]
)
def test_pointer_to_nonsense_is_a_failure(tor, answer):
    tor >> query("9.8.8.8.in-addr.arpa", "PTR") << asks_tor(1, "8.8.8.9", ResolveKind.NAME)
    tor >> resolved(1, 0, answer) << opens(1)


def test_other_names_of_the_reverse_tree(tor, socks):
    tor >> query("b._dns-sd._udp.example", "PTR") << opens(1)
    tor >> query("8.8.in-addr.arpa", "PTR")  # waits for the stream
    socks >> query("9.8.8.8.in-addr.arpa", "PTR") << opens(1)


@pytest.mark.parametrize(
    "name",
    [
        "1.0.0.127.in-addr.arpa", "4.3.2.10.in-addr.arpa", "1.1.31.172.in-addr.arpa", "168.192.in-addr.arpa",
        "lb._dns-sd._udp.0.1.168.192.in-addr.arpa", "1.1.254.169.in-addr.arpa", "1.2.19.198.in-addr.arpa",
        "1." + "0." * 31 + "ip6.arpa", "d.f.ip6.arpa", "0.8.e.f.ip6.arpa",
    ],
)  # fmt: skip
def test_private_space_is_not_asked_about(tor, name):
    """RFC 6303: it would tell the world about networks that are not there."""
    tor >> query(name, "PTR") << reply("NXDOMAIN")


@pytest.mark.parametrize(
    ("address", "private"),
    [
        ("172.15.0.1", False), ("172.16.0.1", True), ("172.31.0.1", True), ("172.32.0.1", False),
        ("100.63.0.1", False), ("100.64.0.1", True), ("100.127.0.1", True), ("100.128.0.1", False),
        ("9.0.0.1", False), ("11.0.0.1", False), ("192.169.0.1", False), ("198.20.0.1", False),
        ("255.255.255.254", False), ("255.255.255.255", True),
    ],
)  # fmt: skip
def test_edges_of_private_space(tor, address, private):
    tor >> query(".".join(reversed(address.split("."))) + ".in-addr.arpa", "PTR")
    tor << (reply("NXDOMAIN") if private else asks_tor(1, address, ResolveKind.NAME))


# ---- names of special use ------------------------------------------------------------------


@pytest.mark.parametrize("name", [ONION, "www." + ONION, ONION.upper()])
def test_onion_names_are_mapped_and_never_sent(tor, name):
    """RFC 7686."""
    tor >> query(name) << reply("NOERROR", f"{name} 300 A 198.18.1.0")
    tor >> query(name, "AAAA") << reply("NOERROR", f"{name} 300 AAAA fd61:766e:6500:1::100")
    tor >> query(name, "MX") << reply("NOERROR")
    tor >> query(name, edns=1232, flags="do") << reply("NOERROR", f"{name} 300 A 198.18.1.0")
    assert tor.resolver.names.name_of(bytes((198, 18, 1, 0))) == name.lower()


@pytest.mark.parametrize(
    "name", ["onion", "expyuzz4wqqyqhjn.onion", ONION[1:], ONION.replace("2", "1"), "a.onion"]
)
@pytest.mark.parametrize("qtype", ["A", "AAAA", "MX"])
def test_malformed_onion_names_do_not_exist(tor, name, qtype):
    tor >> query(name, qtype) << reply("NXDOMAIN")


def test_onion_names_do_not_exist_without_tor(socks):
    socks >> query(ONION) << reply("NXDOMAIN")
    assert len(socks.resolver.names) == 0


@pytest.mark.parametrize("name", ["localhost", "a.localhost"])
def test_localhost(tor, name):
    """RFC 6761 §6.3."""
    tor >> query(name) << reply("NOERROR", f"{name} 60 A 127.0.0.1")
    tor >> query(name, "AAAA") << reply("NOERROR", f"{name} 60 AAAA ::1")
    tor >> query(name, "MX") << reply("NOERROR")


@pytest.mark.parametrize(
    "name",
    [
        "invalid",
        "a.invalid",
        "host.local",
        "a b.local",
        "relay.exit",
        "i2p",
        "x.i2p",
        "a.alt",
        "home.arpa",
        "router.home.arpa",
        "_dns.resolver.arpa",
    ],
)
@pytest.mark.parametrize("qtype", ["A", "AAAA", "PTR", "TXT"])
def test_names_that_do_not_exist_anywhere(tor, name, qtype):
    tor >> query(name, qtype) << reply("NXDOMAIN")
    assert tor.resolver.counters["dns-local"] == name.endswith("local")


def test_names_for_testing_are_names(tor):
    """`.test` may be a private zone of the server's."""
    tor >> query("www.test") << asks_tor(1, "www.test")


def test_avne_itself(tor):
    tor >> query("Avne.internal") << reply("NOERROR", "Avne.internal 60 A 10.213.0.1")
    tor >> query("avne.internal", "AAAA") << reply("NOERROR", "avne.internal 60 AAAA fd61:766e:6500::1")
    tor >> query("avne.internal", "MX") << reply("NOERROR")
    tor >> query("1.0.213.10.in-addr.arpa", "PTR")
    tor << reply("NOERROR", "1.0.213.10.in-addr.arpa 60 PTR avne.internal")
    tor >> query("2.0.213.10.in-addr.arpa", "PTR") << reply("NXDOMAIN")
    tor >> query("x.avne.internal") << reply("NXDOMAIN")
