# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules: which upstream a destination gets.  The first that matches wins.  Sans-IO.

The table is, in this order: --onion-only and --https-only, the user's rules, ``avne.internal=pages``, and
``*=`` the upstream of the settings.

A connection comes with a name or an address.  A name that was resolved comes as its address, which no rule of
names knows any more; and whoever resolves a name learns it.  So `name` decides before anybody is asked:

* all that the name may match goes to one upstream, and by rules that are not about names: that one may be
  asked;
* nothing but blocks: the name does not exist;
* else nobody is asked: the program gets an address that stands for the name, and the connection comes by
  name.

The resolver of the settings is exempt from --https-only, so that avne itself can ask it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from avne.errors import AvneError
from avne.upstream import patterns
from avne.upstream.patterns import OWN_NAME, Host, Pattern, Shape
from avne.upstream.spec import UpstreamSpec

MAX_RULES: Final = 500
MAX_TEXT: Final = 32 << 10  # characters of their patterns: they are told to the workers in one message
DEFAULT: Final = "default"  # on the right side of a rule: the upstream of the settings

_BLOCK: Final = UpstreamSpec("block")


class Rule(NamedTuple):
    """`origin`: where it was written."""

    pattern: Pattern
    upstream: UpstreamSpec
    origin: str

    @property
    def text(self) -> str:
        return f"{self.pattern.text}={self.upstream.redacted()}"

    @property
    def blocks(self) -> bool:
        return next(layer for layer in self.upstream.layers() if layer.inner is None).kind == "block"


class Ask(NamedTuple):
    """A name's way: the number of the rule whose upstream may be asked for it."""

    rule: int


class ByName(NamedTuple):
    """Nobody is to be asked.  `chosen`: a rule about names is why."""

    chosen: bool


class Blocked(NamedTuple):
    """By this rule, whatever the port."""

    rule: int


class Router:
    """`rules`: the whole table; the last two match everything, one of them the environment's own pages."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        assert rules[-1].pattern.shape is Shape.ANY
        assert not rules[-1].pattern.ports
        self.rules = tuple(rules)
        self._is_plain = self.is_uniform

    def route(self, host: str, port: int) -> int:
        """The number of the first rule that matches, from 0."""
        if self._is_plain and OWN_NAME not in host.lower():
            return len(self.rules) - 1
        destination = Host.of(host)
        for number, rule in enumerate(self.rules):
            if rule.pattern.matches_host(destination) and rule.pattern.matches_port(port):
                return number
        raise AssertionError

    def name(self, text: str) -> Ask | ByName | Blocked:
        """What may be done to find out about a name, or about an address's name."""
        host = Host.of(text)
        matching = []
        for number, rule in enumerate(self.rules):
            if rule.pattern.matches_host(host):
                matching.append(number)
                if not rule.pattern.ports:
                    break
        ways = [number for number in matching if not self.rules[number].blocks]
        if not ways:
            return Blocked(matching[0])
        chosen = any(self.rules[number].pattern.by_name for number in matching)
        if chosen or len({self.rules[number].upstream for number in ways}) > 1:
            return ByName(chosen)
        return Ask(ways[0])

    @property
    def is_uniform(self) -> bool:
        """Whether all names may be asked for in the same way: then none needs to be asked about."""
        return all(rule.origin == OURS for rule in self.rules)

    def to_config(self) -> dict[str, Any]:
        """As the `rules` of a worker's configuration; `from_config` is the inverse."""
        upstreams = list(dict.fromkeys(rule.upstream for rule in self.rules))
        return {
            "upstreams": [upstream.to_config() for upstream in upstreams],
            "rules": [
                [rule.pattern.text, upstreams.index(rule.upstream), rule.origin == OURS]
                for rule in self.rules
            ],
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Router:
        upstreams = [UpstreamSpec.from_config(fields) for fields in config["upstreams"]]
        return cls(
            [
                Rule(_pattern(text), upstreams[number], OURS if ours else "")
                for text, number, ours in config["rules"]
            ]
        )


OURS: Final = "avne"
ONION_ONLY: Final = "(--onion-only)"
HTTPS_ONLY: Final = "(--https-only)"
_GUARDS: Final = {
    ONION_ONLY: Pattern(ONION_ONLY, Shape.BEYOND_ONIONS),
    HTTPS_ONLY: Pattern(HTTPS_ONLY, Shape.BEYOND_ONIONS, ports=((1, 442), (444, 65535))),
}


def _pattern(text: str) -> Pattern:
    return _GUARDS.get(text) or patterns.parse(text)


def table(
    written: Sequence[tuple[Pattern, UpstreamSpec, str]],
    default: UpstreamSpec,
    onion_only: bool = False,
    https_only: bool = False,
    resolver: tuple[str, int] | None = None,
) -> Router:
    """The table of the user's rules (with their origins) and what surrounds them.  Raises `AvneError`."""
    if len(written) > MAX_RULES or sum(len(row[0].text) for row in written) > MAX_TEXT:
        raise AvneError(
            "there are too many rules", "For a long list of names use a filter: hosts:FILE+UPSTREAM."
        )
    guards = []
    if https_only and resolver is not None and not onion_only:
        host = f"[{resolver[0]}]" if ":" in resolver[0] else resolver[0]
        guards.append(Rule(patterns.parse(f"{host}:{resolver[1]}"), default, HTTPS_ONLY))
    guards += [
        Rule(_GUARDS[text], _BLOCK, text)
        for text, wanted in ((ONION_ONLY, onion_only), (HTTPS_ONLY, https_only))
        if wanted
    ]
    return Router(
        [
            *guards,
            *(Rule(*row) for row in written),
            Rule(patterns.parse(OWN_NAME), UpstreamSpec("pages"), OURS),
            Rule(patterns.parse("*"), default, OURS),
        ]
    )


def parse_rule(text: str) -> tuple[Pattern, str]:
    """``PATTERN=UPSTREAM`` → the pattern, and the text of the upstream.  Raises `AvneError`."""
    left, equals, right = text.partition("=")
    if not equals or not right.strip():
        shown = f" {left!r}" if not equals and "@" not in left else ""
        raise AvneError(f"the rule{shown} has no =UPSTREAM", patterns.CURE)
    return patterns.parse(left.strip()), right.strip()
