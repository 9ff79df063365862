# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker side of the stack: who the workers are, and which flow is with whom.

A `Session` is one numbered flow: a guest's connection (flows.py) or a stream of our
own (the resolver's).  This table gives it a worker, by a `Lease` (leases.py) that checks every message
against what that worker may say now, and passes it on.  A message that breaks the rules ends the worker that
sent it (`Malformed`), never the stack.

A new flow goes to the worker with the fewest.  Where workers have upstreams of their own, one whose upstream
is down refuses everything at once, and would always have the fewest: what it refuses so is tried at the
others, and it is passed over for a while.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from avne.errors import Malformed
from avne.ipc import messages
from avne.ipc.credit import Budget
from avne.ipc.messages import Capability, Code, ResolveKind, encode
from avne.ipc.pace import Pace
from avne.ipc.streams import Streams
from avne.netstack.leases import Attachment, FrameLease, Lease, Payload, Session, SocketLease
from avne.netstack.tokens import Tokens

Message = tuple[bytes, bytes, Payload | None]  # worker, header, payload

PASSED_OVER = 16  # flows and queries that a worker does not get after its upstream was down


class Question(NamedTuple):
    """What a query is about, and who was asked before."""

    kind: ResolveKind
    what: str
    tried: tuple[bytes, ...]


class Worker:
    """One connected worker."""

    __slots__ = (
        "capabilities", "flows", "gives_sockets", "identity", "kind", "leaving", "passed_over", "resolves",
    )  # fmt: skip

    def __init__(self, identity: bytes, kind: str, capabilities: Capability, gives_sockets: bool) -> None:
        self.identity = identity
        self.kind = kind
        self.gives_sockets = gives_sockets  # it is on this machine
        self.capabilities = capabilities
        self.flows: dict[int, Lease] = {}
        self.resolves: dict[int, Question] = {}
        self.leaving = False  # it gets nothing new, and DRAIN when it is needed no more
        self.passed_over = 0  # how many more times

    @property
    def is_needed(self) -> bool:
        """Whether something of ours would end with it."""
        return bool(self.resolves) or any(lease.needs_worker for lease in self.flows.values())


class Upstreams:
    """All workers.  Outgoing messages are queued in `messages`, in order.

    `streams` are the sockets of those that give them; the caller serves them.
    """

    streams: Streams

    def __init__(self) -> None:
        self.messages: deque[Message] = deque()
        self.lanes: set[bytes] = set()  # of workers of this machine that have joined, or are about to
        self.workers: dict[bytes, Worker] = {}
        self.budget = Budget()
        self.tokens = Tokens()
        self.spread = False  # the workers have upstreams of their own
        self.kind = ""  # of all upstreams, where workers elsewhere may bring another one
        self._last_flow = 0
        self._paces: dict[tuple[int, int], Pace] = {}
        self.leaving: list[Worker] = []

    @property
    def capabilities(self) -> Capability | None:
        """What all upstreams can do, ROUTES if any; None while there is no worker."""
        if not self.workers:
            return None
        can, routes = ~Capability(0), Capability(0)
        for worker in self.workers.values():
            can &= worker.capabilities
            routes |= worker.capabilities & Capability.ROUTES
        return can | routes

    @property
    def flows(self) -> int:
        return sum(len(worker.flows) for worker in self.workers.values())

    def rows(self) -> list[list[Any]]:
        """For `avne workers`: identity, kind, flows, whether it is leaving."""
        workers = self.workers.values()
        return [[w.identity.decode(), w.kind, len(w.flows), w.leaving] for w in workers]

    def join(self, identity: bytes, message: list[Any]) -> Worker:
        """HELLO.  Raises `Malformed` for another version, a second greeting or a peer that
        is no worker of ours: ZeroMQ gives those without an identity one that is not text."""
        _, _, version, kind, capabilities = message
        if version != messages.WIRE_VERSION or identity in self.workers or not identity.isascii():
            raise Malformed("wire-hello")
        if self.kind and identity not in self.lanes and kind != self.kind:
            raise Malformed("wire-kind")
        worker = Worker(identity, kind, Capability(capabilities), identity in self.lanes)
        self.workers[identity] = worker
        self.messages.append((identity, encode(messages.READY, 0), None))
        return worker

    def leave(self, identity: bytes, now: float) -> set[int]:
        """The worker is gone: its flows are reset; gives the queries it leaves unanswered."""
        self.lanes.discard(identity)
        worker = self.workers.pop(identity, None)
        if worker is None:
            return set()
        for lease in list(worker.flows.values()):
            lease.lost(now)
        return set(worker.resolves)

    def open(
        self, session: Session, host: str, port: int, owner: str = "", tried: tuple[bytes, ...] = ()
    ) -> Lease | None:
        """A new flow at the least loaded worker but those `tried`; None while there is none.

        `owner`: of owners.py.
        """
        worker = self._choose(tried, lambda w: len(w.flows))
        if worker is None:
            return None
        self._last_flow += 1
        kind = SocketLease if worker.gives_sockets else FrameLease
        lease = kind(self, worker, self._last_flow, session)
        if self.spread:
            lease.asked = host, port, owner, (*tried, worker.identity)
        worker.flows[lease.flow] = lease
        token = self.tokens.token(host, owner)
        header = encode(messages.OPEN, lease.flow, host, port, lease.grant, token)
        self.messages.append((worker.identity, header, None))
        return lease

    def _choose(self, tried: tuple[bytes, ...], load: Callable[[Worker], int]) -> Worker | None:
        if len(self.workers) == 1 and not tried:  # mostly
            (only,) = self.workers.values()
            return None if only.leaving else only
        candidates = [
            worker for worker in self.workers.values() if not worker.leaving and worker.identity not in tried
        ]
        chosen = min(candidates, key=lambda w: (w.passed_over > 0, load(w)), default=None)
        for worker in candidates:
            worker.passed_over = max(0, worker.passed_over - 1)
        return chosen

    def open_elsewhere(self, lease: Lease) -> bool:
        """The lease's upstream is down: whether another worker is asked for the same."""
        if lease.asked is None:
            return False
        lease.worker.passed_over = PASSED_OVER
        session = lease.session
        another = self.open(session, *lease.asked)
        if another is None:
            return False
        lease.release()
        session.lease = another
        return True

    def retire(self, identity: bytes) -> bool:
        """Nothing new for this worker, and its end when it is not needed; False where there is none such."""
        worker = self.workers.get(identity)
        if worker is None:
            return False
        if not worker.leaving:
            worker.leaving = True
            self.leaving.append(worker)
        return True

    def let_go(self) -> None:
        """End the leaving workers that are not needed: the flows that they have left go on without them."""
        for worker in list(self.leaving):
            if self.workers.get(worker.identity) is not worker:
                self.leaving.remove(worker)
            elif not worker.is_needed:
                self.leaving.remove(worker)
                worker.flows.clear()
                self.messages.append((worker.identity, encode(messages.DRAIN, 0), None))

    def pace(self, upstream: int, rate: int) -> Pace | None:
        """What bounds the flows of this upstream, with whichever worker they are."""
        if not rate:
            return None
        return self._paces.setdefault((upstream, rate), Pace(rate))

    def resolve(self, query: int, kind: ResolveKind, what: str, tried: tuple[bytes, ...] = ()) -> bool:
        """Ask a worker that is not one of `tried`; False while there is none."""
        worker = self._choose(tried, lambda w: len(w.resolves))
        if worker is None:
            return False
        worker.resolves[query] = Question(kind, what, (*tried, worker.identity))
        header = encode(messages.RESOLVE, query, int(kind), what, self.tokens.token(what))
        self.messages.append((worker.identity, header, None))
        return True

    def drain(self) -> None:
        """Nothing more will be asked: workers finish what they hold and end."""
        for identity in self.workers:
            self.messages.append((identity, encode(messages.DRAIN, 0), None))

    def receive(self, worker: Worker, message: list[Any], attachment: Attachment, now: float) -> None:
        """A message about a flow.  Raises `Malformed`."""
        kind, flow = message[0], message[1]
        lease = worker.flows.get(flow)
        if lease is not None:
            lease.receive(kind, message, attachment, now)
        elif not 0 < flow <= self._last_flow:
            raise Malformed("wire-flow")
        elif isinstance(attachment, socket.socket):
            self.streams.refuse(attachment)  # it crossed our RESET on the wire

    def resolved(self, worker: Worker, query: int, code: int) -> bool:
        """Whether this answers `query`: it was this worker's to answer, and nobody else is asked now."""
        question = worker.resolves.pop(query, None)
        if question is None:
            return False
        if code == Code.UPSTREAM_DOWN and self.spread:
            worker.passed_over = PASSED_OVER
            return not self.resolve(query, *question)
        return True
