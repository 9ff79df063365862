# SPDX-License-Identifier: GPL-3.0-or-later
"""The upstreams of a worker, and which of them a message is for: the rules of router.py with objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from avne.ipc.messages import Capability, Code
from avne.upstream import kinds
from avne.upstream.base import Log, OpenError, Upstream
from avne.upstream.patterns import Host
from avne.upstream.router import Ask, Blocked, ByName, Router
from avne.upstream.spec import UpstreamSpec


class Route:
    """An upstream, by its number among all: the same in all workers, which have the same rules."""

    __slots__ = ("number", "rule", "upstream")

    def __init__(self, number: int, rule: int, upstream: Upstream) -> None:
        self.number = number
        self.rule = rule  # that chose it, from 0
        self.upstream = upstream


class Routes:
    """Raises `AvneError` where an upstream cannot be made."""

    def __init__(
        self, router: Router, resolver: tuple[str, int] | None, log: Log, about: Mapping[str, Any]
    ) -> None:
        self._router = router
        self._resolver = resolver
        self._log = log
        self._told: set[int] = set()
        made: dict[UpstreamSpec, Upstream] = {}
        by_rule = [kinds.make(rule.upstream, made) for rule in router.rules]
        self.upstreams = list(dict.fromkeys(by_rule))
        self.default = by_rule[-1]
        self._routes = [
            Route(self.upstreams.index(upstream), rule, upstream) for rule, upstream in enumerate(by_rule)
        ]
        for upstream in self.upstreams:
            upstream.begin(log, about)

    @property
    def capabilities(self) -> Capability:
        """Of the default upstream, and whether names have to be asked about."""
        judged = not self._router.is_uniform or self.default.judges_names
        return self.default.capabilities | (Capability.ROUTES if judged else Capability(0))

    def pick(self, host: str, port: int) -> Route:
        """Who is asked for a connection."""
        return self._routes[self._router.route(host, port)]

    def refusal(self, route: Route, error: OpenError) -> OpenError:
        """`error` with the rule that is why, which is told to the log once."""
        if error.code != Code.BLOCKED or not self._router.rules[route.rule].blocks:
            return error
        self._tell(route.rule)
        return OpenError(error.code, f"rule {route.rule + 1}: {error.detail}")

    def asked(self, what: str) -> Upstream:
        """Who may resolve a name or an address.  Raises `OpenError` where nobody may."""
        way = self._router.name(what)
        if isinstance(way, Ask):
            upstream = self._routes[way.rule].upstream
            upstream.admit_name(what)
            return upstream
        if isinstance(way, Blocked):
            self._tell(way.rule)
            raise OpenError(Code.BLOCKED, f"rule {way.rule + 1}")
        raise OpenError(Code.BY_NAME, "rules differ about it")

    def judge(self, what: str) -> Code:
        """The answer to a ROUTE: SUCCEEDED, BY_NAME or BLOCKED."""
        onion = Host.of(what).is_onion
        try:
            upstream = self.asked(what)
        except OpenError as error:
            if onion and error.code == Code.BY_NAME and not self._leads_to_tor(what):
                return Code.BLOCKED
            return Code(error.code)
        if onion:  # RFC 7686 §2: not for anybody but Tor
            return Code.BY_NAME if Capability.RESOLVE in upstream.capabilities else Code.BLOCKED
        # The resolver is asked by way of a connection, which has a rule of its own.
        if self._resolver is not None and self.pick(*self._resolver).upstream is not upstream:
            return Code.BY_NAME
        return Code.SUCCEEDED

    def _leads_to_tor(self, what: str) -> bool:
        """Whether a rule has chosen a way for this onion name, or Tor is among its ways."""
        way = self._router.name(what)
        return isinstance(way, ByName) and (way.chosen or Capability.RESOLVE in self.default.capabilities)

    def _tell(self, rule: int) -> None:
        if rule not in self._told:
            self._told.add(rule)
            self._log("info", "blocked", {"rule": rule + 1, "name": self._router.rules[rule].text})
