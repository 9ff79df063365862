# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest's connection and its flow at a worker, joined: the relay.

    guest ── Connection ── Flow ── Lease ── worker

The two speak nearly the same language, and the flow carries each word over:

=================  ===========================================================
from the guest     to the worker
=================  ===========================================================
SYN (parked)       OPEN
data               DATA; the receive window is the credit that is left
FIN                SHUT, after the data
RST                RESET
ACK of our data    CREDIT
=================  ===========================================================

=================  ===========================================================
from the worker    to the guest
=================  ===========================================================
OPENED             SYN-ACK, with the granted credit as its window
REFUSED            RST, ICMP or silence (verdict.py)
DATA               data
CREDIT             a larger window
SHUT               FIN, after the data
RESET, or death    RST, after the data
=================  ===========================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from avne.ipc.lane import Piece
from avne.limits import INLINE_BELOW, MAX_PAYLOAD
from avne.netstack.tcp.connection import Timer
from avne.netstack.verdict import Verdict, verdict
from avne.netstack.wire.icmp import Unreachable

if TYPE_CHECKING:
    from avne.netstack.stack import Stack
    from avne.netstack.tcp.connection import Connection
    from avne.netstack.upstreams import Lease, Payload

# How long a SYN that must stay unanswered is remembered: Linux gives up after 127 s (6 retries).
SILENCE_SECONDS = 135.0

_ICMP = {
    Verdict.NETWORK_UNREACHABLE: Unreachable.NETWORK,
    Verdict.HOST_UNREACHABLE: Unreachable.HOST,
    Verdict.PROHIBITED: Unreachable.PROHIBITED,
}


class Flow:
    """The `App` of a connection and the `Session` of its lease."""

    __slots__ = ("_parts", "_parts_bytes", "_shut", "connection", "lease", "mapped", "stack", "syn")

    def __init__(self, stack: Stack, syn: bytes, mapped: bytes | None) -> None:
        self.stack = stack
        self.syn: bytes | None = syn  # the beginning of the frame, for an ICMP error to quote
        self.mapped = mapped  # the mapped address, which stays taken as long as we live
        self.connection: Connection
        self.lease: Lease | None = None
        # Data of this turn; [start, end] where it is in the worker's slab already.
        self._parts: list[memoryview | list[int]] = []
        self._parts_bytes = 0
        self._shut = False  # the guest's FIN has come, SHUT has not been sent

    # ---- what the guest's connection says -----------------------------------------

    def established(self, now: float) -> None:
        pass  # OPENED came before

    def received(self, payload: memoryview, now: float) -> None:
        if not self._parts:
            self.stack.wake_flow(self)
        if payload is self.stack.text:
            self._received_text(payload)
        else:
            self._parts.append(payload)
        self._parts_bytes += len(payload)
        if self._parts_bytes >= MAX_PAYLOAD:
            self.flush()

    def _received_text(self, text: memoryview) -> None:
        """`text` is in the room of the stack's slab: it is ours if we take it, else to be copied now."""
        assert self.lease is not None
        size = len(text)
        slab = self.stack.slab
        if slab is None or self.lease.worker.slab is not slab or size < INLINE_BELOW:
            self._parts.append(memoryview(bytes(text)))
            if self.lease.worker.slab is not slab and size >= INLINE_BELOW:
                self.stack.slab = self.lease.worker.slab  # there is likely to be more of this flow
            return
        last = self._parts[-1] if self._parts else None
        if isinstance(last, list) and last[1] - last[0] + size <= MAX_PAYLOAD and slab.grow(last[1], size):
            last[1] += size
        else:
            offset = slab.take(size)
            self._parts.append([offset, offset + size])

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
        """Hand this turn's data to the worker, in messages of at most MAX_PAYLOAD bytes."""
        lease = self.lease
        if lease is None:
            return
        parts, self._parts = self._parts, []
        size, self._parts_bytes = self._parts_bytes, 0
        if lease.over:
            self.stack.account.discarded += size
            for part in parts:
                if isinstance(part, list) and lease.worker.slab is not None:
                    lease.worker.slab.give_back(part[0])
            return
        plain: list[memoryview] = []
        for part in parts:
            if isinstance(part, list):
                self._send(lease, plain)
                plain = []
                assert lease.worker.slab is not None
                lease.send(Piece(part[0], lease.worker.slab.memory[part[0] : part[1]]))
            else:
                plain.append(part)
        self._send(lease, plain)
        if self._shut:
            self._shut = False
            lease.shut()

    def _send(self, lease: Lease, parts: list[memoryview]) -> None:
        if parts:
            whole = parts[0] if len(parts) == 1 else memoryview(b"".join(parts))
            for at in range(0, len(whole), MAX_PAYLOAD):
                lease.send(whole[at : at + MAX_PAYLOAD])

    # ---- what the worker says ------------------------------------------------------

    def opened(self, credit: int, now: float) -> None:
        self._remark("opened")
        self._unpark()
        self.stack.count("opened")
        self.connection.accept(credit)

    def refused(self, kind: str, code: int, now: float) -> None:
        what = verdict(kind, code)
        self.stack.count(f"refused-{code:#04x}")
        self._remark(f"refused by {kind}, code {code:#04x}: {what.value}")
        self.answer(what, now)

    def answer(self, what: Verdict, now: float) -> None:
        """Answer the parked SYN with something other than a SYN-ACK."""
        connection = self.connection
        if what is Verdict.REFUSED:
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
        """Whether the guest may still have bytes for the upstream."""
        return self.lease is not None and not self.lease.over and not self.connection.fin_received
