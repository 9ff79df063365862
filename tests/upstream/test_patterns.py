# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avne.errors import AvneError
from avne.upstream.patterns import Host, Shape, parse


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*", [("a", 1), ("1.2.3.4", 9), ("::1", 2)], []),
        ("*:25", [("a", 25)], [("a", 26)]),
        ("*:1-3,7", [("a", 1), ("a", 3), ("a", 7)], [("a", 4), ("a", 8)]),
        (
            "example.org",
            [("example.org", 1), ("EXAMPLE.org.", 2)],
            [("a.example.org", 1), ("xexample.org", 1)],
        ),
        ("*.i2p", [("a.i2p", 80), ("b.A.i2P", 80)], [("i2p", 80), ("ai2p", 80), ("a.i2p.org", 80)]),
        (".i2p", [("a.i2p", 80), ("i2p", 80)], [("ai2p", 80)]),
        ("*.example.org:443", [("a.example.org", 443)], [("a.example.org", 80)]),
        ("Bücher.example", [("xn--bcher-kva.example", 1)], [("bucher.example", 1)]),
        ("192.0.2.7", [("192.0.2.7", 1), ("::ffff:192.0.2.7", 1)], [("192.0.2.8", 1), ("a", 1)]),
        # What a proxy's inet_aton(3) would take for that address.
        (
            "10.0.0.0/8",
            [("10.1.2.3", 1), ("10.1", 1), ("0xa.1", 1), ("167772161", 1)],
            [("11.0.0.1", 1), ("10.x", 1)],
        ),
        ("0.0.0.0/0", [("255.255.255.255", 1)], [("::1", 1), ("a", 1)]),
        ("127.0.0.1:9050", [("127.0.0.1", 9050)], [("127.0.0.1", 9051)]),
        ("2001:db8::/32", [("2001:db8:1::2", 1), ("[2001:DB8::]", 1)], [("2001:db9::", 1)]),
        ("[2001:db8::/32]:80", [("2001:db8::", 80)], [("2001:db8::", 81)]),
        ("[2001:db8::]/32:80", [("2001:db8::", 80)], [("2001:db8::", 81)]),
        ("::ffff:10.0.0.0/104", [("10.1.2.3", 1), ("::ffff:10.1.2.3", 1)], [("11.0.0.1", 1)]),
        ("[::1]:80", [("::1", 80)], [("::2", 80)]),
    ],
)
def test_what_matches(pattern: str, yes: list[tuple[str, int]], no: list[tuple[str, int]]) -> None:
    found = parse(pattern)

    def matches(host: str, port: int) -> bool:
        good = found.matches_host(Host.of(host)) and found.matches_port(port)
        assert found.why(Host.of(host), port).startswith("yes" if good else "no")
        return good

    assert all(matches(*destination) for destination in yes)
    assert not any(matches(*destination) for destination in no)


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("", "names nothing"), (":25", "names nothing"), ("*:", "no number|not numbers"),
        ("*:0", "not numbers"), ("*:65536", "not numbers"), ("*:9-8", "not numbers"), ("*:a", "no number"),
        ("*:1-", "not numbers"), ("*:٣", "no number"), ("a..b", "no name"), ("-a", "no name"),
        ("a b", "no name"), ("*.*.b",
        "no name"), ("*a", "no name"), ("1.2.3", "no address"), ("10.0.0.1/8", "bits beyond"), ("10.0.0.0/33",
        "no such size"), ("10.0.0.0/", "no such size"), ("a/8", "no network"), ("2001:db8::g", "no network"),
        ("[a]:1", "no network"), ("::/129", "no such size"), ("x" * 64, "no name"),
        ("ü" * 70 + ".de", "cannot be looked up"), ("1.2.3.256", "no address"),
    ],
)  # fmt: skip
def test_bad_patterns(pattern: str, problem: str) -> None:
    with pytest.raises(AvneError) as caught:
        parse(pattern)
    assert any(part in caught.value.problem for part in problem.split("|")), caught.value.problem
    assert "*.i2p=http" in caught.value.cure


@given(st.text("ab.*:/[]0123456789-xü ", max_size=20))
def test_whatever_is_written_is_a_pattern_or_an_error(text: str) -> None:
    try:
        pattern = parse(text)
    except AvneError:
        return
    assert parse(pattern.text) == pattern
    pattern.why(Host.of("a.b"), 80)


@given(st.ip_addresses(), st.integers(0, 128))
def test_networks_agree_with_the_standard_library(address: ipaddress.IPv4Address, bits: int) -> None:
    network = ipaddress.ip_network((address, min(bits, address.max_prefixlen)), strict=False)
    pattern = parse(f"{network}" if network.version == 4 else f"[{network}]:1-65535")
    assert pattern.shape is Shape.NETWORK
    mapped = getattr(address, "ipv4_mapped", None)
    if mapped is None or bits >= 96:  # those are IPv4 addresses: a wider network of IPv6 does not have them
        assert pattern.matches_host(Host.of(str(address)))
    beyond = int(network.broadcast_address) + 1
    if beyond < 1 << network.max_prefixlen:
        other = type(address)(beyond)
        if getattr(other, "ipv4_mapped", None) is None:
            assert not pattern.matches_host(Host.of(str(other)))


@given(st.text(max_size=30))
def test_any_host_is_a_name_or_an_address(text: str) -> None:
    host = Host.of(text)
    assert not (host.family and host.name)
