# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules' table: the first match wins, and nobody is asked about a name that is not theirs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avne.errors import AvneError
from avne.ipc.messages import Code
from avne.upstream import kinds, patterns
from avne.upstream.base import OpenError
from avne.upstream.patterns import Host
from avne.upstream.router import MAX_RULES, OURS, Ask, Blocked, ByName, Router, parse_rule, table
from avne.upstream.routes import Routes
from avne.upstream.spec import UpstreamSpec

TOR = UpstreamSpec("tor", ("127.0.0.1", 9050))
PLAIN = UpstreamSpec("socks5", ("127.0.0.1", 1080))
ONION = "a" * 55 + "d.onion"


def router(*rules: str, default: UpstreamSpec = TOR, **only: bool) -> Router:
    rows = []
    for text in rules:
        pattern, upstream = parse_rule(text)
        rows.append((pattern, default if upstream == "default" else kinds.parse(upstream), "--rule"))
    return table(rows, default, **only)


def kind(table: Router, host: str, port: int) -> str:
    return table.rules[table.route(host, port)].upstream.label()


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [
        ("x.i2p", 80, "http"), ("x.i2p", 25, "http"), ("mail.example", 25, "block"), ("1.2.3.4", 25, "block"),
        ("example.org", 80, "tor"), ("10.9.9.9", 80, "socks5"), ("10.9", 80, "socks5"), ("::1", 80, "tor"),
        ("avne.internal", 80, "pages"), ("AVNE.internal.", 81, "pages"), ("avne.internal", 25, "pages"),
        (ONION, 80, "tor"),
    ],
)  # fmt: skip
def test_the_first_match_wins(host: str, port: int, expected: str) -> None:
    rules = router("*.i2p=http://127.0.0.1:4444", "*:25=block", "10.0.0.0/8=socks5://h:1", "*.i2p=block")
    assert kind(rules, host, port) == expected


@pytest.mark.parametrize(
    ("host", "port", "onion", "https"),
    [
        ("example.org", 443, "block", "tor"), ("example.org", 80, "block", "block"), (ONION, 80, "tor",
        "tor"), ("192.0.2.1", 443, "block", "tor"), ("192.0.2.1", 80, "block", "block"), ("x.onion.example",
        80, "block", "block"), ("avne.internal", 80, "pages", "pages"), ("192.0.2.1", 53, "block", "tor"),
        ("2001:db8::1", 80, "block", "block"),
    ],
)  # fmt: skip
def test_the_two_options_stand_before_every_rule(host: str, port: int, onion: str, https: str) -> None:
    assert kind(router("*=default", onion_only=True), host, port) == onion
    assert kind(router("*=default", https_only=True), host, port) == https


@pytest.mark.parametrize(
    ("rules", "name", "way"),
    [
        # Without rules about it a name goes where everything does.
        ([], "example.org", Ask(1)),
        (["*:25=block"], "example.org", Ask(2)),
        (["10.0.0.0/8=block", "*.i2p=block"], "example.org", Ask(3)),
        # A rule about names has to see them: an address would have lost it.
        (["*.i2p=http://127.0.0.1:4444"], "x.i2p", ByName(True)),
        (["*.org:80=block"], "example.org", ByName(True)),
        (["example.org=default"], "example.org", ByName(True)),
        # Ports decide between upstreams: neither is to learn the other one's names.
        (["*:80=socks5://h:1"], "example.org", ByName(False)),
        (["*:80=socks5://h:1", "*=block"], "example.org", Ask(0)),
        (["*=socks5://h:1"], "example.org", Ask(0)),
        # Nothing can be reached there.
        (["*.org=block"], "example.org", Blocked(0)),
        (["*:80=block", "*=block:no"], "example.org", Blocked(0)),
        (["*=log+block"], "example.org", Blocked(0)),
        (["*.i2p:80=http://h:1", "*.i2p=block"], "x.i2p", ByName(True)),
        # Names of addresses.
        (["10.0.0.0/8=socks5://h:1"], "10.1.2.3", Ask(0)),
        (["10.0.0.0/8=block"], "10.1.2.3", Blocked(0)),
        (["10.0.0.0/8:80=socks5://h:1"], "10.1.2.3", ByName(False)),
        (["10.0.0.0/8=block"], "11.1.2.3", Ask(2)),
    ],
)
def test_who_may_be_asked_about_a_name(rules: list[str], name: str, way: Any) -> None:
    assert router(*rules).name(name) == way


def test_only_a_rule_about_them_touches_the_environment_s_own_pages() -> None:
    assert kind(router("*=default", "*:80=block"), "avne.internal", 80) == "pages"
    assert kind(router("avne.internal=block"), "avne.internal", 80) == "block"
    assert kind(router(".internal=http://h:1"), "avne.internal", 80) == "http"


def test_the_options_and_names() -> None:
    assert router(onion_only=True).name("example.org") == Blocked(0)
    assert router(onion_only=True).name(ONION) == Ask(2)
    assert router(https_only=True).name("example.org") == Ask(2)


HOSTS = ["a.i2p", "i2p", "b.example", "example", ONION, "10.0.0.1", "11.0.0.1", "::1", "avne.internal"]
RULES = st.lists(
    st.tuples(
        st.sampled_from(["*", "*.i2p", ".example", "i2p", "10.0.0.0/8", "[::1]", "*.onion", "b.example"]),
        st.sampled_from(["", ":80", ":25,443"]),
        st.sampled_from(["block", "default", "socks5://h:1", "http://h:2"]),
    ).map(lambda row: f"{row[0]}{row[1]}={row[2]}"),
    max_size=6,
)


@given(RULES, st.sampled_from(HOSTS), st.booleans(), st.booleans())
def test_a_name_is_only_asked_of_who_would_carry_every_connection_to_it(
    rules: list[str], host: str, onion_only: bool, https_only: bool
) -> None:
    """Whatever address it has, as no rule about its name can be: so the answer's use goes there as well."""
    found = router(*rules, onion_only=onion_only, https_only=https_only)
    ports = {port: found.rules[found.route(host, port)] for port in (25, 53, 80, 443, 8080)}
    carriers = {rule.upstream for rule in ports.values() if not rule.blocks}
    way = found.name(host)
    if isinstance(way, Ask):
        assert carriers <= {found.rules[way.rule].upstream}
        matching = [rule for rule in found.rules if rule.pattern.matches_host(Host.of(host))]
        assert not matching[0].pattern.by_name
    elif isinstance(way, Blocked):
        assert not carriers
    assert Router.from_config(found.to_config()).name(host) == way
    assert all(
        Router.from_config(found.to_config()).route(host, port) == found.route(host, port) for port in ports
    )


@pytest.mark.parametrize("text", ["", "a", "a=", "=block", "a.b", "*:25:=block", "u:p@h"])
def test_what_is_no_rule(text: str) -> None:
    with pytest.raises(AvneError) as caught:
        parse_rule(text)
    assert "PATTERN=UPSTREAM" in caught.value.cure
    assert "u:p" not in caught.value.problem


def test_rules_are_bounded() -> None:
    row = patterns.parse("*"), TOR, "--rule"
    assert len(table([row] * MAX_RULES, TOR).rules) == MAX_RULES + 2
    with pytest.raises(AvneError, match="too many"):
        table([row] * (MAX_RULES + 1), TOR)
    with pytest.raises(AvneError, match="too many"):
        table([(patterns.parse(("x" * 60 + ".") * 4 + "x"), TOR, "--rule")] * 200, TOR)


def test_without_rules_of_the_user_s_no_name_needs_a_question() -> None:
    assert router().is_uniform
    assert router().rules[-1].origin == OURS
    assert not router("*:25=block").is_uniform
    assert not router(onion_only=True).is_uniform


# ---- with upstreams behind them -------------------------------------------------------------


def routes(
    *rules: str, default: UpstreamSpec = TOR, resolver: Any = ("1.1.1.1", 53), logs: Any = None
) -> Routes:
    def log(level: str, event: str, fields: dict[str, Any]) -> None:
        if logs is not None:
            logs.append((event, fields))

    return Routes(router(*rules, default=default), resolver, log, {"upstream": "x", "session": "s"})


def test_what_a_worker_answers_about_names() -> None:
    mixed = routes("*.i2p=http://127.0.0.1:4444", "*.test=block", "*.onion:22=socks5://h:1")
    assert mixed.judge("example.org") is Code.SUCCEEDED
    assert mixed.judge("x.i2p") is Code.BY_NAME
    assert mixed.judge("x.test") is Code.BLOCKED
    assert mixed.judge(ONION) is Code.BY_NAME
    plain = routes("*:25=block", default=PLAIN)
    assert plain.judge("example.org") is Code.SUCCEEDED
    assert plain.judge(ONION) is Code.BLOCKED, "RFC 7686: it is not for a plain proxy to see"
    assert routes("*.onion=tor://h:1", default=PLAIN).judge(ONION) is Code.BY_NAME
    assert routes("*:80=http://h:1", default=PLAIN).judge(ONION) is Code.BLOCKED
    assert routes("*:80=http://h:1").judge(ONION) is Code.BY_NAME, "some of its ports lead to Tor"


def test_a_name_is_not_asked_of_a_resolver_that_is_reached_another_way() -> None:
    rule = "10.0.0.0/8=socks5://h:1"
    assert routes(rule, resolver=("10.0.0.1", 53)).judge("example.org") is Code.BY_NAME
    assert routes(rule, resolver=("1.1.1.1", 53)).judge("example.org") is Code.SUCCEEDED
    assert routes(rule, resolver=None).judge("example.org") is Code.SUCCEEDED


def test_who_resolves_is_who_carries() -> None:
    some = routes("*.i2p=http://127.0.0.1:4444", "*.test=block")
    assert some.asked("example.org") is some.default
    for name, code in (("x.i2p", Code.BY_NAME), ("x.test", Code.BLOCKED)):
        with pytest.raises(OpenError) as caught:
            some.asked(name)
        assert caught.value.code == code


def test_a_block_is_told_once_with_its_rule() -> None:
    logs: list[Any] = []
    some = routes("*:25=block:no mail", logs=logs)
    for _ in range(2):
        route = some.pick("mail.example", 25)
        with pytest.raises(OpenError) as caught:
            route.upstream.dialogue("mail.example", 25)
        error = some.refusal(route, caught.value)
        assert (error.code, error.detail) == (Code.BLOCKED, "rule 1: blocked by a rule: no mail")
    assert logs == [("blocked", {"rule": 1, "name": "*:25=block:no mail"})]
    other = OpenError(Code.CONNECTION_REFUSED, "x")
    assert some.refusal(some.pick("a", 80), other) is other


def test_equal_upstreams_are_one_and_have_one_number() -> None:
    some = routes("*.a=socks5://h:1", "*.b=socks5://h:1", "*.c=block")
    numbers = [some.pick(host, 80).number for host in ("x.a", "x.b", "x.c", "avne.internal", "x")]
    assert numbers == [0, 0, 1, 2, 3]
