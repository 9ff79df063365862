# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker side of the stack: who the workers are, and which flow is with whom.

A `Session` is one numbered flow on the wire: a guest's connection (flows.py) or a stream of our
own (the resolver's).  This table gives it a worker, checks every message against what that
worker may say now, and passes it on.  A message that breaks the rules ends the worker that
sent it (`Malformed`), never the stack.

A worker of the same machine shares two slabs with us (ipc/slab.py): what we read from the tun for
it goes into ours; what it has read for us is in its own, and stays there until the guest has
acknowledged it.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

from avne.errors import Malformed
from avne.ipc import messages
from avne.ipc.credit import Account, Budget
from avne.ipc.lane import Piece
from avne.ipc.messages import Capability, Code, ResolveKind, encode
from avne.ipc.slab import Slab
from avne.limits import CREDIT_MAX

Payload = bytes | memoryview
Message = tuple[bytes, bytes, Payload | Piece | None]  # worker, header, payload


class Session(Protocol):
    """What a flow's owner hears from its worker.

    A payload may be in the worker's slab: it stays as it is until it was `consumed`, or `release` was called.
    """

    def opened(self, credit: int, now: float) -> None: ...
    def refused(self, kind: str, code: int, now: float) -> None: ...
    def data(self, payload: Payload, now: float) -> None: ...
    def credit(self, count: int, now: float) -> None: ...
    def shut(self, now: float) -> None: ...
    def reset(self, code: int, now: float) -> None: ...


class Worker:
    """One connected worker."""

    __slots__ = ("capabilities", "flows", "identity", "kind", "resolves", "slab")

    def __init__(self, identity: bytes, kind: str, capabilities: Capability, slab: Slab | None) -> None:
        self.identity = identity
        self.kind = kind
        self.slab = slab  # ours, which this worker reads; None for a worker elsewhere
        self.capabilities = capabilities
        self.flows: dict[int, Lease] = {}
        self.resolves: set[int] = set()


class Lease:
    """A flow's place at a worker, and the credits of its two directions."""

    __slots__ = (
        "_account", "_data_header", "_held", "_opened", "_received", "_shut_received", "_shut_sent",
        "flow", "over", "sent", "session", "up_credit", "upstreams", "worker",
    )  # fmt: skip

    def __init__(self, upstreams: Upstreams, worker: Worker, flow: int, session: Session) -> None:
        self.upstreams = upstreams
        self.worker = worker
        self.flow = flow
        self.session = session
        self.over = False  # the worker knows it no more; what it has sent may still be in use
        self.up_credit = 0  # bytes we may still send
        self.sent = 0  # bytes
        self._account = Account(upstreams.budget)  # of what the worker may send
        self._received = 0  # bytes that it has sent
        self._held: list[tuple[int, int]] | None = None  # pieces in use: (position of the end, offset)
        self._opened = self._shut_sent = self._shut_received = False
        self._data_header = encode(messages.DATA, flow)

    def send(self, payload: Payload | Piece) -> None:
        """Bytes for the upstream; never more than it has granted."""
        size = len(payload.view) if isinstance(payload, Piece) else len(payload)
        assert size <= self.up_credit, "more than the upstream granted"
        self.up_credit -= size
        self.sent += size
        self.upstreams.messages.append((self.worker.identity, self._data_header, payload))

    @property
    def received(self) -> int:
        """Bytes that the worker has sent."""
        return self._received

    @property
    def grant(self) -> int:
        """The credit of OPEN."""
        return self._account.outstanding

    def consumed(self, count: int, now: float) -> None:
        """The session is done with `count` bytes of `data`: the worker may send more."""
        if self.over:
            self._account.drop(count)
        elif credit := self._account.done(count, now):
            self._send(messages.CREDIT, credit)
        if self._held:
            self._give_back()

    def release(self) -> None:
        """The session looks at nothing of `data` any more."""
        self._account.close()
        if self._held:
            self._give_back()

    def _give_back(self) -> None:
        held = self._held
        assert held is not None
        consumed = self._received - self._account.waiting
        count = 0
        for end, offset in held:
            if end > consumed:
                break
            count += 1
            self.upstreams.returned.append((self.worker.identity, encode(messages.RETURN, 0, offset), None))
        del held[:count]

    def shut(self) -> None:
        """No more `send`."""
        self._shut_sent = True
        self._send(messages.SHUT)
        self._forget_if_over()

    def reset(self, code: int = Code.SUCCEEDED) -> None:
        """Nothing more either way, at once."""
        if not self.over:
            self._end()
            self._send(messages.RESET, int(code))

    def receive(self, kind: int, message: list[Any], payload: Payload | Piece | None, now: float) -> None:
        """A message of this flow from its worker.  Raises `Malformed` for one out of turn."""
        if self._opened == (kind in (messages.OPENED, messages.REFUSED)) and kind != messages.RESET:
            raise Malformed("wire-turn")
        if kind == messages.DATA:
            assert payload is not None
            view = payload.view if isinstance(payload, Piece) else payload
            if len(view) > self._account.outstanding or self._shut_received:
                raise Malformed("wire-credit")
            self._account.received(len(view))
            self._received += len(view)
            if isinstance(payload, Piece):
                if self._held is None:
                    self._held = []
                self._held.append((self._received, payload.offset))
            self.session.data(view, now)
        elif kind == messages.CREDIT:
            self.up_credit += message[2]
            if self.up_credit > CREDIT_MAX:
                raise Malformed("wire-credit")
            self.session.credit(message[2], now)
        elif kind == messages.SHUT:
            if self._shut_received:
                raise Malformed("wire-turn")
            self._shut_received = True
            self.session.shut(now)
            self._forget_if_over()
        elif kind == messages.OPENED:
            self._opened = True
            self.up_credit = message[2]
            self.session.opened(message[2], now)
        elif kind == messages.REFUSED:
            self._end()
            self.session.refused(self.worker.kind, message[2], now)
        elif kind == messages.RESET:
            self._end()
            self.session.reset(message[2], now)

    def lost(self, now: float) -> None:
        """The worker is gone."""
        self._end()
        self.session.reset(Code.UPSTREAM_DOWN, now)

    def _forget_if_over(self) -> None:
        if self._shut_sent and self._shut_received:
            self._end()

    def _end(self) -> None:
        self.over = True
        self._account.end()
        self.worker.flows.pop(self.flow, None)

    def _send(self, kind: int, *fields: int) -> None:
        self.upstreams.messages.append((self.worker.identity, encode(kind, self.flow, *fields), None))


class Upstreams:
    """All workers.  Outgoing messages are queued in `messages`, in order.

    `returned` are messages that may go only when the packets of the turn have been written: some of
    those may still be in the piece that is given back.
    """

    def __init__(self) -> None:
        self.messages: deque[Message] = deque()
        self.returned: deque[Message] = deque()
        self.slabs: dict[bytes, Slab] = {}  # of the lanes of workers that have joined, or are about to
        self.workers: dict[bytes, Worker] = {}
        self.budget = Budget()
        self._last_flow = 0

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
        worker = Worker(identity, kind, Capability(capabilities), self.slabs.get(identity))
        self.workers[identity] = worker
        self.messages.append((identity, encode(messages.READY, 0), None))
        return worker

    def leave(self, identity: bytes, now: float) -> set[int]:
        """The worker is gone: its flows are reset; gives the queries it leaves unanswered."""
        self.slabs.pop(identity, None)
        worker = self.workers.pop(identity, None)
        if worker is None:
            return set()
        for lease in list(worker.flows.values()):
            lease.lost(now)
        return worker.resolves

    def open(self, session: Session, host: str, port: int) -> Lease | None:
        """A new flow at the least loaded worker; None while there is none."""
        worker = min(self.workers.values(), key=lambda w: len(w.flows), default=None)
        if worker is None:
            return None
        self._last_flow += 1
        lease = Lease(self, worker, self._last_flow, session)
        worker.flows[lease.flow] = lease
        header = encode(messages.OPEN, lease.flow, host, port, lease.grant)
        self.messages.append((worker.identity, header, None))
        return lease

    def resolve(self, query: int, kind: ResolveKind, what: str) -> bool:
        """Ask a worker; False while there is none."""
        worker = min(self.workers.values(), key=lambda w: len(w.resolves), default=None)
        if worker is None:
            return False
        worker.resolves.add(query)
        header = encode(messages.RESOLVE, query, int(kind), what)
        self.messages.append((worker.identity, header, None))
        return True

    def drain(self) -> None:
        """Nothing more will be asked: workers finish what they hold and end."""
        for identity in self.workers:
            self.messages.append((identity, encode(messages.DRAIN, 0), None))

    def receive(
        self, worker: Worker, message: list[Any], payload: Payload | Piece | None, now: float
    ) -> None:
        """A message about a flow, or a piece of ours that comes back.  Raises `Malformed`."""
        kind, flow = message[0], message[1]
        lease = worker.flows.get(flow)
        if lease is not None:
            lease.receive(kind, message, payload, now)
        elif kind == messages.RETURN:
            if worker.slab is None:
                raise Malformed("wire-slab")
            worker.slab.give_back(message[2])
        elif not 0 < flow <= self._last_flow:
            raise Malformed("wire-flow")
        elif isinstance(payload, Piece):  # it crossed our RESET on the wire
            back = encode(messages.RETURN, 0, payload.offset)
            self.returned.append((worker.identity, back, None))

    def resolved(self, worker: Worker, query: int) -> bool:
        """Whether `query` was this worker's to answer."""
        if query in worker.resolves:
            worker.resolves.remove(query)
            return True
        return False
