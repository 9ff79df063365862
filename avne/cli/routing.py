# SPDX-License-Identifier: GPL-3.0-or-later
"""From settings to rules: what is parsed before anything is started, and what Tor's place adds to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from avne.config import MAX_WORKERS, Config, split_resolver, split_upstreams
from avne.errors import AvneError
from avne.upstream.patterns import Pattern
from avne.upstream.spec import UpstreamSpec

_TOR = UpstreamSpec("tor")  # the one that is found


class Written(NamedTuple):
    """One rule of the user's; no upstream: that of the settings."""

    pattern: Pattern
    upstream: UpstreamSpec | None
    origin: str


class Routing(NamedTuple):
    """All of them, and the upstream of the settings.  Layers that are Tor may have no address yet."""

    default: UpstreamSpec
    rules: tuple[Written, ...]
    onion_only: bool
    https_only: bool
    others: tuple[UpstreamSpec, ...] = ()  # which share what the default carries

    @property
    def pool(self) -> list[UpstreamSpec]:
        return [self.default, *self.others]

    @property
    def specs(self) -> list[UpstreamSpec]:
        return [*self.pool, *(rule.upstream for rule in self.rules if rule.upstream)]

    @property
    def needs_tor(self) -> bool:
        """Whether a Tor has to be found."""
        return any(layer == _TOR for spec in self.specs for layer in spec.layers())

    def direct(self) -> list[str]:
        """The patterns of what leaves past every proxy."""
        from avne.upstream.kinds import find

        def leaves(spec: UpstreamSpec) -> bool:
            return any(find(layer.kind).leaves for layer in spec.layers())

        found = [rule.pattern.text for rule in self.rules if rule.upstream and leaves(rule.upstream)]
        return [*found, "everything else"] if any(map(leaves, self.pool)) else found

    def completed(self, tor: UpstreamSpec | None, credentials: tuple[str, str]) -> Routing:
        """With the Tor that was found, and with name and password for Tor (isolation.py).

        Tor compares them only (IsolateSOCKSAuth in tor(1)).
        """
        username, password = credentials

        def complete(spec: UpstreamSpec) -> UpstreamSpec:
            if spec == _TOR and tor is not None:
                spec = tor
            if spec.kind == "tor":
                spec = spec._replace(username=username, password=password)
            return spec if spec.inner is None else spec._replace(inner=complete(spec.inner))

        rules = tuple(
            rule._replace(upstream=None if rule.upstream is None else complete(rule.upstream))
            for rule in self.rules
        )
        others = tuple(map(complete, self.others))
        return self._replace(default=complete(self.default), rules=rules, others=others)


def parse(config: Config) -> Routing:
    """Raises `AvneError` for whatever is wrong with the upstream, the rules or what they need."""
    default, *others = _parse_pool(config["upstream"])
    origins: Sequence[str] = config.origins.get("rules", ())
    rules = tuple(
        _parse(text, number, origin)
        for number, (text, origin) in enumerate(zip(config["rules"], origins, strict=True), 1)
    )
    return Routing(default, rules, config["onion_only"], config["https_only"], tuple(others))


def _parse_pool(text: str) -> list[UpstreamSpec]:
    if text == "auto":
        return [_TOR]
    from avne.upstream.kinds import parse as parse_upstream

    pool = [parse_upstream(url) for url in split_upstreams(text)]
    cure = "Write the same kind with different addresses: tor://127.0.0.1:9050,tor://127.0.0.1:9060"
    if len({spec.label() for spec in pool}) > 1:
        raise AvneError("upstreams that share the connections must be of one kind", cure)
    if len(set(pool)) < len(pool):
        raise AvneError("an upstream is there twice", cure)
    if len(pool) > MAX_WORKERS:
        raise AvneError(f"there are more than {MAX_WORKERS} upstreams", "Each needs a worker of its own.")
    return pool


def _parse(text: str, number: int, origin: str) -> Written:
    from avne.upstream.kinds import parse as parse_upstream
    from avne.upstream.router import DEFAULT, parse_rule

    try:
        pattern, upstream = parse_rule(text)
        return Written(pattern, None if upstream == DEFAULT else parse_upstream(upstream), origin)
    except AvneError as error:
        where = f"{number}. rule" if origin == "--rule" else f"{number}. rule, from {origin}"
        raise AvneError(f"the {where}: {error.problem}", error.cure) from error


def check_optimistic(config: Config, routing: Routing) -> None:
    """Raises `AvneError` where an upstream takes no bytes before it has answered."""
    if not config["optimistic"]:
        return
    from avne.ipc.messages import Capability
    from avne.upstream.filter import Filter
    from avne.upstream.kinds import find

    for spec in routing.specs:
        while issubclass(kind := find(spec.kind), Filter):
            assert spec.inner is not None
            spec = spec.inner
        if Capability.EARLY in kind.capabilities and spec.inner is None:
            continue
        if kind.kind not in ("block", "pages"):
            raise AvneError(
                f"optimistic: {spec.redacted()} may lose bytes that come before its answer; only Tor is "
                "known to pass them on",
                "Leave it out, or use nothing but Tor.",
            )


def resolver(config: Config) -> tuple[str, int] | None:
    """Host and port of the DNS server of the settings."""
    return None if config["resolver"] == "none" else split_resolver(config["resolver"])


def refuse_direct(routing: Routing) -> None:
    """Raises `AvneError` where something would leave past every proxy."""
    if direct := routing.direct():
        raise AvneError(
            f"{', '.join(direct)}: this would leave without Tor or any proxy (direct)",
            "If that is what you want, say so: --allow-direct. Else change the rule or the upstream.",
        )
