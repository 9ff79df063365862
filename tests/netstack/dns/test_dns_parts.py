# SPDX-License-Identifier: GPL-3.0-or-later
"""The cache, the framing and the mapped names."""

from __future__ import annotations

import sys

import pytest
from dns_playbook import query_wire
from hypothesis import given, settings
from hypothesis import strategies as st

from avne.errors import Malformed
from avne.limits import DNS_MAX_UDP, DNS_NAME_GRACE, DNS_NAMES
from avne.netstack.addresses import is_mapped
from avne.netstack.dns.cache import Cache
from avne.netstack.dns.format import NXDOMAIN
from avne.netstack.dns.framing import Framing, frame_reply
from avne.netstack.dns.message import Query, parse
from avne.netstack.dns.names import Names
from avne.netstack.dns.response import Response

# ---- cache -----------------------------------------------------------------------------


def kept(ttl: int, size: int = 0) -> Response:
    return Response(0, ttl, body=bytes(size))


def asked(name: str, qtype: str = "A", flags: str = "") -> Query:
    return parse(query_wire(name, qtype, edns=1232, flags=flags))


K = asked("k")


def test_cache_keeps_for_the_ttl():
    cache = Cache()
    cache.put(K, kept(10), 100.0)
    assert cache.get(K, 100.9) == (kept(10), 0)
    assert cache.get(K, 109.9) == (kept(10), 9)
    assert cache.get(K, 110.0) is None
    assert len(cache) == 0
    assert cache.get(asked("other"), 100.0) is None


def test_cache_takes_the_newer_answer():
    cache = Cache()
    cache.put(K, kept(10), 100.0)
    cache.put(asked("K"), kept(20), 105.0)
    assert cache.get(K, 112.0) == (kept(20), 7)
    assert len(cache) == 1


@pytest.mark.parametrize(("response", "entries"), [(kept(0), 0), (kept(1, 4096), 1), (kept(1, 4097), 0)])
def test_cache_does_not_take_everything(response, entries):
    cache = Cache()
    cache.put(K, response, 0.0)
    assert len(cache) == entries


def test_cache_drops_the_least_recently_used():
    cache = Cache(3)
    a, b, c, d = map(asked, "abcd")
    for query in (a, b, c):
        cache.put(query, kept(9), 0.0)
    cache.get(a, 1.0)
    cache.put(d, kept(9), 1.0)
    assert [cache.get(query, 1.0) is not None for query in (a, b, c, d)] == [True, False, True, True]
    cache.clear()
    assert len(cache) == 0


def test_no_such_name_is_kept_for_every_type_of_it():
    """RFC 2308 §5; but not for who wants signatures, nor for a name below or above."""
    cache = Cache()
    cache.put(K, Response(NXDOMAIN, 9), 0.0)
    assert cache.get(asked("K", "MX"), 1.0) == (Response(NXDOMAIN, 9), 1)
    assert cache.get(asked("k", flags="do"), 1.0) is None
    assert cache.get(asked("k.k"), 1.0) is None
    assert cache.get(asked("k", "MX"), 9.0) is None


def test_types_are_no_letters():
    """HTTPS is 65, an A; 97, an a, is another type."""
    cache = Cache()
    https = asked("k", "HTTPS")
    cache.put(https, kept(9), 0.0)
    assert cache.get(parse(query_wire("k").replace(b"\0\1\0\1", b"\0\x61\0\1")), 0.0) is None


# ---- framing ------------------------------------------------------------------------------


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=20), st.data())
def test_framing_gives_back_what_was_framed(messages, data):
    stream = b"".join(map(frame_reply, messages))
    framing, found = Framing(300), []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        found += framing.feed(stream[:cut])
        stream = stream[cut:]
    assert found == messages


@pytest.mark.parametrize("head", [b"\0\0", (DNS_MAX_UDP + 1).to_bytes(2, "big"), b"\xff\xff"])
def test_framing_is_bounded(head):
    """The length tells at once; nothing is collected."""
    with pytest.raises(Malformed, match="dns-frame-size"):
        Framing().feed(frame_reply(b"good") + head)


def test_framing_takes_the_largest():
    framing = Framing()
    assert framing.feed(frame_reply(bytes(DNS_MAX_UDP))[:-1]) == []
    assert framing.feed(b"\0") == [bytes(DNS_MAX_UDP)]


# ---- names ----------------------------------------------------------------------------------

KEEP = 300 + DNS_NAME_GRACE


def test_one_name_has_one_pair_of_addresses():
    names = Names()
    v4, v6 = names.map("a.example", 300, 0.0)
    assert (v4.hex(), v6.hex()) == ("c6120100", "fd61766e650000010000000000000100")
    assert names.map("a.example", 300, 1.0) == (v4, v6)
    assert names.map("b.example", 300, 1.0) == (bytes.fromhex("c6120101"), v6[:-1] + b"\1")
    assert names.name_of(v4) == names.name_of(v6) == "a.example"
    assert len(names) == 2


@pytest.mark.parametrize(
    "address",
    [
        "c6120000", "c61200ff", "c6120102", "c613ffff", "c0000201", "0a000001",
        "fd61766e650000010000000000000000", "fd61766e6500000100000000000000ff",
        "fd61766e65000001ffffffffffffffff", "fd61766e650000000000000000000100",
    ],
)  # fmt: skip
def test_addresses_without_a_name(address):
    names = Names()
    names.map("a.example", 300, 0.0)
    names.map("b.example", 300, 0.0)
    assert names.name_of(bytes.fromhex(address)) is None


def test_address_is_not_used_again_while_an_answer_is_remembered():
    names = Names(2)
    a, _ = names.map("a", 300, 0.0)
    names.map("b", 300, 10.0)
    assert names.map("c", 300, KEEP - 0.1) is None
    assert names.name_of(a) == "a"
    names.map("a", 300, KEEP - 0.1)  # answered again
    assert names.map("c", 300, KEEP + 9.9) is None
    assert names.map("c", 300, KEEP + 10.0) == (
        bytes.fromhex("c6120101"),
        bytes.fromhex("fd61766e650000010000000000000101"),
    )
    assert names.map("b", 300, KEEP + 10.0) is None
    assert (names.name_of(a), names.name_of(bytes.fromhex("c6120101"))) == ("a", "c")


def test_address_is_not_used_again_while_a_flow_holds_it():
    names = Names(1)
    v4, v6 = names.map("a", 300, 0.0)
    names.hold(v4)
    names.hold(v6)
    assert names.map("b", 300, 10 * KEEP) is None
    names.release(v4)
    assert names.map("b", 300, 10 * KEEP) is None
    names.release(v6)
    assert names.map("b", 300, 10 * KEEP) == (v4, v6)


def test_release_does_not_shorten_the_memory():
    names = Names(1)
    v4, _ = names.map("a", 300, 0.0)
    names.hold(v4)
    assert names.map("b", 300, 1.0) is None
    names.release(v4)
    assert names.map("b", 300, KEEP - 0.1) is None
    assert names.map("b", 300, KEEP) is not None


@pytest.mark.parametrize("address", ["c6120101", "c6120000", "fd61766e65000001ffffffffffffffff"])
def test_flow_to_an_address_without_a_name(address):
    """A flow may hold what has no name, and let it go after it got one."""
    names = Names(2)
    held = bytes.fromhex(address)
    names.hold(held)
    names.map("a", 300, 0.0)
    names.map("b", 300, 0.0)
    names.release(held)
    with pytest.raises(KeyError):
        names.release(held)
    assert names.map("c", 300, KEEP) is not None


def test_full_pool_is_not_searched_for_every_name():
    """A guest that asks without end costs one round, not one per question."""
    names = Names(1000)
    for n in range(1000):
        names.map(f"n{n}", 300, 0.0)
    assert names.map("more", 300, 1.0) is None
    names._shelves[0].until = None  # type: ignore[assignment]  # what a round would read
    assert names.map("more", 300, KEEP - 1.0) is None


def test_every_index_is_of_the_pools_and_memory_is_small():
    names = Names()
    for n in range(DNS_NAMES):
        names.map(f"host{n}.example.com", 300, 0.0)
    assert len(names) == DNS_NAMES
    v4, v6 = names.map(f"host{DNS_NAMES - 1}.example.com", 300, 0.0)
    assert is_mapped(v4)
    assert is_mapped(v6)
    assert names.name_of(v4) == names.name_of(v6) == f"host{DNS_NAMES - 1}.example.com"
    assert names.map("one.more", 300, 1.0) is None
    shelf = names._shelves[0]
    size = sum(map(sys.getsizeof, (names._index, shelf.names, shelf.until))) + DNS_NAMES * (70 + 28)
    assert size < 200 * DNS_NAMES


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["map", "hold", "release", "wait"]),
            st.integers(0, 5),
            st.sampled_from([1.0, 900.0, KEEP]),
        ),
        max_size=60,
    )
)
def test_name_is_never_lost_too_early(steps):
    """Against a model: an address keeps its name while it is held or an answer may be remembered."""
    names, now = Names(3), 0.0
    known: dict[str, tuple[bytes, float]] = {}
    held: list[tuple[str, bytes]] = []
    for action, pick, seconds in steps:
        if action == "wait":
            now += seconds
        elif action == "map":
            pair = names.map(f"n{pick}", 300, now)
            busy = {address for address, until in known.values() if until > now} | {
                address for _, address in held
            }
            if pair is None:
                assert len(busy) == 3, "refused although an address is free"
            else:
                known = {name: entry for name, entry in known.items() if entry[0] != pair[0]}
                known[f"n{pick}"] = (pair[0], now + KEEP)
        elif action == "hold" and known:
            name, (address, _) = sorted(known.items())[pick % len(known)]
            names.hold(address)
            held.append((name, address))
        elif action == "release" and held:
            names.release(held.pop(pick % len(held))[1])
        for name, (address, until) in known.items():
            if until > now:
                assert names.name_of(address) == name
        for name, address in held:
            assert names.name_of(address) == name


def test_the_longest_answer_counts():
    names = Names(1)
    names.map("a", 86400, 0.0)
    names.map("a", 60, 1.0)
    assert names.map("b", 60, 60 + KEEP) is None
    assert names.map("b", 60, 86400 + DNS_NAME_GRACE) is not None


def test_names_without_another_address_have_room_of_their_own():
    names = Names(2, only=1)
    a, b = names.map("a", 300, 0.0), names.map("b.onion", 300, 0.0, only=True)
    assert a is not None
    assert b is not None
    assert names.map("c", 300, 0.0) is None
    v4, v6 = names.map("d.onion", 300, 0.0, only=True)
    assert (v4.hex(), names.name_of(v4), names.name_of(v6)) == ("c6120102", "d.onion", "d.onion")
    assert names.map("e.onion", 300, 0.0, only=True) is None
    assert names.turned_away == 2
    names.hold(v4)
    assert names.map("e.onion", 300, 300 + DNS_NAME_GRACE, only=True) == a
    names.map("f.onion", 300, 300 + DNS_NAME_GRACE, only=True)
    assert names.map("g.onion", 300, 300 + DNS_NAME_GRACE, only=True) is None
    names.release(v4)
    assert names.map("g.onion", 300, 300 + DNS_NAME_GRACE, only=True) == (v4, v6)
