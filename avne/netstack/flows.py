# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest's connection and its flow at an upstream, joined: the relay.

    guest ── Connection ── Flow ── Lease ── socket, or a worker elsewhere

The two speak nearly the same language, and the flow carries each word over:

=================  ===========================================================
from the guest     to the lease
=================  ===========================================================
SYN (parked)       open
data               data; the receive window is the credit that is left
FIN                shut, after the data
RST                reset
ACK of our data    credit
=================  ===========================================================

=================  ===========================================================
from the lease     to the guest
=================  ===========================================================
opened             SYN-ACK, with the granted credit as its window (earlier: --optimistic)
refused            RST, ICMP or silence, as the worker says; RST if it was early
data               data
credit             a larger window
shut               FIN, after the data
reset, or death    RST, after the data
=================  ===========================================================
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from avne.ipc.verdict import Verdict
from avne.limits import EARLY_MAX
from avne.netstack.tcp import state
from avne.netstack.tcp.connection import Timer
from avne.netstack.wire.icmp import Unreachable

if TYPE_CHECKING:
    from avne.netstack.leases import Lease, Payload
    from avne.netstack.stack import Stack
    from avne.netstack.tcp.connection import Connection

# How long a SYN that must stay unanswered is remembered: Linux gives up after 127 s (6 retries).
SILENCE_SECONDS = 135.0

_ICMP = {
    Verdict.NETWORK_UNREACHABLE: Unreachable.NETWORK,
    Verdict.HOST_UNREACHABLE: Unreachable.HOST,
    Verdict.PROHIBITED: Unreachable.PROHIBITED,
}


class Flow:
    """The `App` of a connection and the `Session` of its lease."""

    __slots__ = ("_parts", "_shut", "connection", "lease", "mapped", "own_down", "own_up", "stack", "syn")

    def __init__(self, stack: Stack, syn: bytes | None, mapped: bytes | None) -> None:
        self.stack = stack
        self.syn = syn  # the beginning of the frame, for an ICMP error to quote; None once it is answered
        self.mapped = mapped  # the mapped address, which stays taken as long as we live
        self.connection: Connection
        self.lease: Lease | None = None
        self._parts: list[memoryview] = []  # data of this turn
        self._shut = False  # the guest's FIN has come, and was not passed on yet
        self.own_up = self.own_down = 0  # bytes of the connection that are not the lease's (proxy.py)

    def open(self, host: str, port: int, now: float) -> None:
        """Ask a worker for the other half, once it is known whose we are."""
        self.stack.owners.find(self.connection.key, partial(self._open_as, host, port), now)

    def _open_as(self, host: str, port: int, owner: str, now: float) -> None:
        if self.connection.app is not self:
            return  # given up meanwhile
        self.lease = self.stack.upstreams.open(self, host, port, owner)
        if self.lease is None:
            self.stack.count("no-worker")
            self._no_worker(now)
        elif port in self.stack.optimistic and self._is_parked and self.lease.go_ahead():
            self.stack.count("optimistic")
            self.connection.accept(EARLY_MAX)

    @property
    def _is_parked(self) -> bool:
        return self.connection.state is state.PARKED

    def _no_worker(self, now: float) -> None:
        """A new one is on its way: drop the SYN; the guest repeats it within a second."""
        self.connection.close(True, now)

    # ---- what the guest's connection says -----------------------------------------

    def established(self, now: float) -> None:
        pass  # nothing hangs on it

    def received(self, payload: memoryview, now: float) -> None:
        if not self._parts:
            self.stack.wake_flow(self)
        stack = self.stack
        self._parts.append(stack.pool.keep(len(payload)) if payload is stack.text else payload)

    def received_fin(self, now: float) -> None:
        self._shut = True
        self.stack.wake_flow(self)

    def acked(self, count: int, now: float) -> None:
        if self.lease is not None:
            self.lease.consumed(count, now)

    def closed(self, reset: bool, now: float) -> None:
        if self.lease is not None:
            self.flush()  # a server can read what came before a reset, too
            if reset:
                self.lease.reset()
            self.lease.release()
            self.stack.account.flow_ended(self)
            self.lease = None
        self._unpark()
        self.stack.forget(self)

    def _unpark(self) -> None:
        """The SYN has its answer: it no longer counts as half open."""
        if self.syn is not None:
            self.syn = None
            self.stack.half_open -= 1

    def flush(self) -> None:
        """Hand on this turn's data."""
        parts, self._parts = self._parts, []
        lease = self.lease
        if lease is None:
            return
        if lease.over:
            self.stack.account.discarded += sum(map(len, parts))
            return
        if parts:
            lease.send(parts)
        if self._shut:
            self._shut = False
            lease.shut()

    # ---- what the upstream says ------------------------------------------------------

    def opened(self, credit: int, now: float) -> None:
        self._remark("opened")
        self._unpark()
        self.stack.count("opened")
        if self._is_parked:
            self.connection.accept(credit)
        else:
            self.connection.grant(credit)

    def refused(self, verdict: Verdict, code: int, detail: str, now: float) -> None:
        self.stack.count(f"refused-{code:#04x}")
        self.stack.account.refused(code, detail)
        if self.lease is not None:
            self._remark(f"refused by {self.lease.worker.kind}, code {code:#04x}: {verdict.answer}")
        self.answer(verdict, now)

    def answer(self, what: Verdict, now: float) -> None:
        """Answer the parked SYN with something other than a SYN-ACK, or take the early one back."""
        connection = self.connection
        if what is Verdict.REFUSED or not self._is_parked:
            connection.abort(now)
        elif what is Verdict.SILENCE:
            self._unpark()
            connection.start_timer(Timer.TIME_WAIT, now + SILENCE_SECONDS)
        else:
            assert self.syn is not None
            self.stack.internet.send_unreachable(self.syn, _ICMP[what], now)
            connection.close(True, now)

    def data(self, payload: Payload, now: float) -> None:
        self.connection.write(memoryview(payload))

    def credit(self, count: int, now: float) -> None:
        self.connection.grant(count)

    def shut(self, now: float) -> None:
        self.connection.shutdown()

    def reset(self, code: int, now: float) -> None:
        self._remark(f"reset, code {code:#04x}")
        self.stack.count(f"reset-{code:#04x}")
        self.connection.reset(now)

    def _remark(self, said: str) -> None:
        """For the capture, if there is one: what the upstream has said."""
        if self.stack.capture is not None and self.lease is not None:
            worker = self.lease.worker.identity.decode()
            text = f"flow {self.lease.flow} at {worker}: {said}"
            self.stack.capture.remark(self.connection.key, text)

    # ---- the end of the environment ----------------------------------------------

    @property
    def owes(self) -> bool:
        """Whether the guest may still have bytes for the upstream: not before its SYN is answered."""
        lease = self.lease
        if lease is None or lease.over:
            return False
        return lease.is_early or (self.syn is None and not self.connection.fin_received)
