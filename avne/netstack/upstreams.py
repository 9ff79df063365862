# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker side of the stack: who the workers are, and which flow is with whom.

A `Session` is one numbered flow: a guest's connection (flows.py) or a stream of our
own (the resolver's).  This table gives it a worker, by a `Lease` (leases.py) that checks every message
against what that worker may say now, and passes it on.  A message that breaks the rules ends the worker that
sent it (`Malformed`), never the stack.
"""

from __future__ import annotations

import socket
from collections import deque
from typing import Any

from avne.errors import Malformed
from avne.ipc import messages
from avne.ipc.credit import Budget
from avne.ipc.messages import Capability, ResolveKind, encode
from avne.ipc.pace import Pace
from avne.ipc.streams import Streams
from avne.netstack.leases import Attachment, FrameLease, Lease, Payload, Session, SocketLease
from avne.netstack.tokens import Tokens

Message = tuple[bytes, bytes, Payload | None]  # worker, header, payload


class Worker:
    """One connected worker."""

    __slots__ = ("capabilities", "flows", "gives_sockets", "identity", "kind", "resolves")

    def __init__(self, identity: bytes, kind: str, capabilities: Capability, gives_sockets: bool) -> None:
        self.identity = identity
        self.kind = kind
        self.gives_sockets = gives_sockets  # it is on this machine
        self.capabilities = capabilities
        self.flows: dict[int, Lease] = {}
        self.resolves: set[int] = set()


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
        self._last_flow = 0
        self._paces: dict[int, Pace] = {}

    @property
    def capabilities(self) -> Capability | None:
        """What the upstream can do; None while there is no worker."""
        for worker in self.workers.values():
            return worker.capabilities
        return None

    @property
    def flows(self) -> int:
        return sum(len(worker.flows) for worker in self.workers.values())

    def join(self, identity: bytes, message: list[Any]) -> Worker:
        """HELLO.  Raises `Malformed` for another version, a second greeting or a peer that
        is no worker of ours: ZeroMQ gives those without an identity one that is not text."""
        _, _, version, kind, capabilities = message
        if version != messages.WIRE_VERSION or identity in self.workers or not identity.isascii():
            raise Malformed("wire-hello")
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
        return worker.resolves

    def open(self, session: Session, host: str, port: int, owner: str = "") -> Lease | None:
        """A new flow at the least loaded worker; None while there is none.  `owner`: of owners.py."""
        worker = min(self.workers.values(), key=lambda w: len(w.flows), default=None)
        if worker is None:
            return None
        self._last_flow += 1
        kind = SocketLease if worker.gives_sockets else FrameLease
        lease = kind(self, worker, self._last_flow, session)
        worker.flows[lease.flow] = lease
        token = self.tokens.token(host, owner)
        header = encode(messages.OPEN, lease.flow, host, port, lease.grant, token)
        self.messages.append((worker.identity, header, None))
        return lease

    def pace(self, upstream: int, rate: int) -> Pace | None:
        """What bounds the flows of this upstream, with whichever worker they are."""
        if not rate:
            return None
        return self._paces.setdefault(upstream, Pace(rate))

    def resolve(self, query: int, kind: ResolveKind, what: str) -> bool:
        """Ask a worker; False while there is none."""
        worker = min(self.workers.values(), key=lambda w: len(w.resolves), default=None)
        if worker is None:
            return False
        worker.resolves.add(query)
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

    def resolved(self, worker: Worker, query: int) -> bool:
        """Whether `query` was this worker's to answer."""
        if query in worker.resolves:
            worker.resolves.remove(query)
            return True
        return False
