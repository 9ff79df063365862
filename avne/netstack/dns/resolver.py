# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine that answers the guest's questions about names.

Theory of operation
    A question is answered at once when it can be: names of special use, onion names, what the
    cache knows.  Any other gets a plan, the ways to its answer in order of preference (plan.py), and the
    next way is tried when one fails.  When every way has failed the answer is SERVFAIL; without a
    configured resolver, NOTIMP to what only it could answer.

    What was found passes untouched, or with mapped addresses instead of real ones (mapping.py).

    Where the worker has rules about names (ROUTES), it is asked first (ROUTE), for a question of any type: a
    name that goes to an upstream of its own is asked of nobody, and mapped; one that is blocked is NXDOMAIN.

    Equal questions share one plan however many clients ask.  A client that repeats a query (same
    ID) while it is under way gets one answer.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Final, NamedTuple

from avne.errors import Malformed
from avne.ipc.messages import Capability, Code, ResolveKind
from avne.limits import DNS_MAX_PENDING, DNS_MAX_WAITING
from avne.netstack.addresses import is_mapped
from avne.netstack.dns import format as dns
from avne.netstack.dns import mapping, message, plan, response, special
from avne.netstack.dns.cache import Cache
from avne.netstack.dns.commands import Answer, CloseStream, Command, Log, OpenStream, Resolve, SendStream
from avne.netstack.dns.message import Query
from avne.netstack.dns.names import Names
from avne.netstack.dns.pipeline import PAUSE, Pipeline
from avne.netstack.dns.plan import ASK, MAP, RESOLVE, ROUTE
from avne.netstack.dns.response import Response

__all__ = [
    "Answer", "CloseStream", "Command", "Config", "Log", "OpenStream", "Resolve", "Resolver", "SendStream",
]  # fmt: skip

RESOLVE_TIMEOUT: Final = 15.0  # Tor may have to build a circuit first
RESOLVE_TTL: Final = 60  # where RESOLVE tells none

_SERVFAIL: Final = Response(dns.SERVFAIL)


class Config(NamedTuple):
    """`resolver`: host and port of a DNS server; `mode`: one of `plan.MODES`; `mapped_ttl`: the TTL, in
    seconds, of a mapped address where there is no real one to go by."""

    resolver: tuple[str, int] | None = None
    mode: str = plan.TRUTHFUL
    mapped_ttl: int = 300


class _Client(NamedTuple):
    client: object
    query: Query
    udp: bool


class _Question:
    """What is being found out, and who waits for it."""

    __slots__ = ("clients", "deadline", "plan", "query", "routing")

    def __init__(self, query: Query, plan: list[int]) -> None:
        self.query = query  # the first one that asked
        self.plan = plan  # ways that are left
        self.clients: dict[tuple[object, int], _Client] = {}  # by client and message ID
        self.deadline = 0.0  # of RESOLVE or ROUTE
        self.routing = False  # ROUTE is under way


class Resolver:
    """`token(n)` gives n random bytes.  What is to be done is queued in `commands`."""

    def __init__(self, config: Config, token: Callable[[int], bytes]) -> None:
        self.commands: deque[Command] = deque()
        self.counters: Counter[str] = Counter()
        self.names = Names()
        self._mode = config.mode
        self._mapped_ttl = config.mapped_ttl
        self._cache = Cache()
        self._capabilities: Capability | None = None
        self._cached_with: Capability | None = None
        self._questions: dict[bytes, _Question] = {}
        self._waiting = 0
        self._resolving: dict[int, _Question] = {}  # by query ID, in the order of their deadlines
        self._last_id = 0
        self._pipeline = None if config.resolver is None else Pipeline(*config.resolver, token, self.commands)

    def query(self, wire: bytes, client: object, udp: bool, now: float) -> None:
        """A query from `client` (hashable; what `Answer` carries back).

        Raises `Malformed` for what gets no answer.
        """
        query = message.parse(wire)
        known = self._known(query, now)
        if known is not None:
            self._answer(_Client(client, query, udp), *known)
            return
        question = self._questions.get(query.key) or _Question(query, self._plan(query))
        begins = not question.clients
        if begins and not question.plan:
            self._answer(_Client(client, query, udp), Response(dns.NOTIMP))
            return
        if len(self._questions) + begins > DNS_MAX_PENDING or self._waiting >= DNS_MAX_WAITING:
            self._count("dns-overload")
            self._answer(_Client(client, query, udp), _SERVFAIL)
            return
        self._waiting += (client, query.number) not in question.clients
        question.clients[client, query.number] = _Client(client, query, udp)
        if begins:
            self._questions[query.key] = question
            self._advance(question, now)
        else:
            self._count("dns-shared")

    def upstream_changed(self, capabilities: Capability | None) -> None:
        """What the upstream can do now; None: there is no worker."""
        if capabilities is None:
            self._resolving.clear()
            if self._pipeline is not None:
                self._pipeline.reset()
            for question in list(self._questions.values()):
                self._finish(question, _SERVFAIL, 0.0)
        elif capabilities != self._cached_with:
            self._cache.clear()  # another upstream sees other names
            self._cached_with = capabilities
        self._capabilities = capabilities

    def renew(self, now: float) -> None:
        """New circuits are wanted: what the old ones have told is forgotten; mapped addresses stay."""
        self._cache.clear()
        if self._pipeline is not None:
            self._pipeline.renew(now)
            self._take_results(now)

    def resolved(self, query_id: int, code: int, answers: list[str], ttl: int, now: float) -> None:
        """The answer to a `Resolve`; `ttl` 0: it tells none."""
        question = self._resolving.pop(query_id, None)
        if question is None:  # too late
            return
        if question.routing:
            self._routed(question, code, now)
            return
        query = question.query
        ttl = min(ttl or RESOLVE_TTL, response.MAX_TTL)
        try:
            if code != Code.SUCCEEDED or not answers:
                raise Malformed("resolve-failed")
            if query.qtype == dns.PTR:
                found = response.pointer(query.labels, query.qtype, answers[0], ttl)
            else:
                found = response.addresses(query.labels, query.qtype, answers, ttl)
        except Malformed as error:
            self._count(f"dns-{error.reason}")
            self._advance(question, now)
        else:
            self._settle(question, found, now)

    def stream_opened(self, stream: int, now: float) -> None:
        if self._pipeline is not None:
            self._pipeline.opened(stream)

    def stream_data(self, stream: int, data: bytes, now: float) -> None:
        if self._pipeline is not None:
            self._pipeline.received(stream, data, now)
            self._take_results(now)

    def stream_closed(self, stream: int, code: int, now: float) -> None:
        """The stream could not be opened, or has ended."""
        if self._pipeline is not None:
            self._pipeline.closed(stream, now)
            self._take_results(now)

    def poll_at(self) -> float | None:
        """When `handle_timer` is due; None: not by itself."""
        if not self._questions and (self._pipeline is None or self._pipeline.idle):
            return None
        due = [question.deadline for question in self._resolving.values()][:1]
        pipeline = None if self._pipeline is None else self._pipeline.poll_at()
        if pipeline is not None:
            due.append(pipeline)
        return min(due, default=None)

    def handle_timer(self, now: float) -> None:
        if not self._questions and (self._pipeline is None or self._pipeline.idle):
            return
        for query_id, question in list(self._resolving.items()):
            if question.deadline > now:
                break
            del self._resolving[query_id]
            self._count("dns-resolve-timeout")
            if question.routing:
                self._finish(question, _SERVFAIL, now)
            else:
                self._advance(question, now)
        if self._pipeline is not None:
            self._pipeline.handle_timer(now)
            self._take_results(now)

    def _known(self, query: Query, now: float) -> tuple[Response, int] | None:
        """The answer that needs nobody else, and its age in seconds."""
        if query.error:
            self._count("dns-refused")
            return Response(query.error), 0
        local = self._pointer_to_mapped(query) or self._special(query)
        if local is not None:
            self._count("dns-local" if query.labels[-1] == b"local" else "dns-special")
            return local, 0
        if self._capabilities is None:
            self._count("dns-no-worker")
            return _SERVFAIL, 0
        if special.is_onion(query.labels) and not self._capabilities & Capability.ROUTES:
            # A subdomain may hold any octet, also one that no proxy request can carry.
            if self._capabilities & Capability.RESOLVE and query.host is not None:
                return self._map(query, self._mapped_ttl, now) or _SERVFAIL, 0
            return Response(dns.NXDOMAIN), 0  # RFC 7686 §2: not for anybody but Tor
        cached = self._cache.get(query, now)
        if cached is not None:
            self._count("dns-cached")
        return cached

    def _special(self, query: Query) -> Response | None:
        """What a special use of the name says, unless a rule may lead to the system that knows it."""
        if special.is_elsewhere(query.labels) and Capability.ROUTES in (self._capabilities or Capability(0)):
            return None
        return special.answer(query.labels, query.qtype)

    def _pointer_to_mapped(self, query: Query) -> Response | None:
        if query.qtype != dns.PTR:
            return None
        address = special.reversed_address(query.labels)
        name = None if address is None else self.names.name_of(address)
        return None if name is None else response.pointer(query.labels, dns.PTR, name, special.TTL)

    def _plan(self, query: Query) -> list[int]:
        """The ways to the answer, best first."""
        capabilities = self._capabilities or Capability(0)
        if special.is_elsewhere(query.labels):
            return [ROUTE]
        ways = plan.ways(self._mode, query, Capability.RESOLVE in capabilities)
        if self._pipeline is None:
            ways = [way for way in ways if way != ASK]
        return [ROUTE, *ways] if Capability.ROUTES in capabilities else ways

    def _advance(self, question: _Question, now: float) -> None:
        """Try the next way that is open."""
        query, pipeline = question.query, self._pipeline
        while question.plan:
            known = self._cache.get(
                query, now
            )  # another type's question has shown that there is no such name
            if known is not None:
                self._finish(question, known[0], now, known[1])
                return
            way = question.plan.pop(0)
            if way in (RESOLVE, ROUTE):
                question.routing = way == ROUTE
                self._resolve(question, now)
                return
            if way == MAP:
                # Where only the resolver's absence kept us from the truth, not for long.
                absent = pipeline is not None and not question.plan
                ttl = min(self._mapped_ttl, int(PAUSE)) if absent else self._mapped_ttl
                mapped = self._map(query, ttl, now, only=not question.plan)
                if mapped is not None:
                    self._finish(question, mapped, now)
                    return
            elif pipeline is not None and pipeline.usable(now):
                self._count("dns-ask")
                pipeline.ask(message.ask(query), dns.lower(query.question), query.key, now)
                return
        self._finish(question, _SERVFAIL, now)

    def _resolve(self, question: _Question, now: float) -> None:
        query = question.query
        self._count("dns-route" if question.routing else "dns-resolve")
        if question.routing:
            kind, what = ResolveKind.ROUTE, special.subject(query.labels)
        elif query.qtype == dns.PTR:
            kind, what = ResolveKind.NAME, special.reversed_text(query.labels)
        else:
            kind, what = ResolveKind.ADDRESS, query.host or ""
        self._last_id += 1
        question.deadline = now + RESOLVE_TIMEOUT
        self._resolving[self._last_id] = question
        self.commands.append(Resolve(self._last_id, kind, what))

    def _routed(self, question: _Question, code: int, now: float) -> None:
        """What may be done about a name: anything but to go on is final."""
        question.routing = False
        query = question.query
        if code == Code.SUCCEEDED and question.plan:
            self._advance(question, now)
            return
        found = _SERVFAIL
        if code == Code.SUCCEEDED:
            found = Response(dns.NXDOMAIN if special.is_elsewhere(query.labels) else dns.NOTIMP)
        elif code == Code.BLOCKED:
            found = Response(dns.NXDOMAIN)
        elif code == Code.BY_NAME:
            found = Response(dns.NOERROR)
            if query.host is not None and query.qtype in (dns.A, dns.AAAA):
                found = self._map(query, self._mapped_ttl, now) or _SERVFAIL
        self._finish(question, found, now)

    def _take_results(self, now: float) -> None:
        assert self._pipeline is not None
        results = self._pipeline.results
        while results:
            key, found = results.popleft()
            question = self._questions[key]
            # FORMERR, NOTIMP, REFUSED …: it does not serve us, so that another way may know more.
            serves = found is not None and found.rcode in (dns.NOERROR, dns.SERVFAIL, dns.NXDOMAIN)
            if found is None or (question.plan and not serves):
                self._advance(question, now)
            else:
                self._settle(question, found, now)

    def _settle(self, question: _Question, found: Response, now: float) -> None:
        """There is an answer: make it what the guest may have."""
        if any(map(is_mapped, found.addresses)):
            # A foreign name must not lead to what one of our addresses stands for (rebinding).
            self._count("dns-rebinding")
            found = _SERVFAIL
        elif plan.maps(self._mode, question.query):
            try:
                found = self._rewritten(question.query, found, now)
            except Malformed as error:
                self._count(f"malformed-{error.reason}")
                found = _SERVFAIL
        self._finish(question, found, now)

    def _rewritten(self, query: Query, found: Response, now: float) -> Response:
        """With mapped addresses, as many as are left."""
        turned_away = self.names.turned_away
        mapped = mapping.rewrite(self.names, query, found, now)
        if self.names.turned_away != turned_away:
            self._count("dns-names-full")
        if mapped is not found:
            self._count("dns-mapped")
        return mapped

    def _map(self, query: Query, ttl: int, now: float, only: bool = True) -> Response | None:
        """The mapped address, unasked; `only`: there is no other way to one."""
        mapped = mapping.alone(self.names, query, ttl, now, only)
        self._count("dns-names-full" if mapped is None else "dns-mapped")
        return mapped

    def _finish(self, question: _Question, found: Response, now: float, age: int = 0) -> None:
        """Answer everybody who waits; `age`: how long we have known it, in seconds."""
        del self._questions[question.query.key]
        self._waiting -= len(question.clients)
        if not age:
            self._cache.put(question.query, found, now)
        for client in question.clients.values():
            self._answer(client, found, age)

    def _answer(self, client: _Client, found: Response, age: int = 0) -> None:
        self._count(f"dns-rcode-{found.rcode}")
        wire = message.reply(client.query, found, age, client.udp)
        self.commands.append(Answer(client.client, wire))

    def _count(self, what: str) -> None:
        self.counters[what] += 1
