# SPDX-License-Identifier: GPL-3.0-or-later
"""The bookkeeping of one flow: credits both ways, bytes that wait, and how it ends.  Sans-IO.

Up is from the program to the upstream's socket, down the other way.  `Streams` moves the bytes and reports
here what it did; `steps` says what is to be done next.  Who is at the other side of the flow, the guest's
connection in the netstack or messages in a worker, is the `peer` here.

Credit.  Down, the peer says how much it can hold, and no more is read from the socket: a slow
program costs the server's window, not memory.  Up, an account (ipc/credit.py) says what the peer
may send.

Ends.  An end of the peer's direction is passed on once its bytes are written.  Tor
has no half-close: there the socket stays open until the server's own end, or until it has been
quiet for 30 s, which is reported as a reset because the answer may be incomplete.
An end of the server's direction is passed on, too; where it could as well be the upstream's death
it needs a verdict first (upstream/canary.py).  After a failed write the rest of the answer is still
read, but the end is a reset, because bytes of the program are lost.  A reset of the server's is passed
on behind the bytes that came before it, but waits no longer than 1 s for a program that does not read them.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from itertools import islice
from typing import Final

from avne.errors import Malformed
from avne.ipc.credit import Account, Budget
from avne.ipc.messages import Code
from avne.limits import COPY_BELOW, CREDIT_MAX

RESET_GRACE: Final = 1.0  # seconds for a program to read what came before a reset
QUIET: Final = 30.0  # seconds without a byte until a flow whose program has ended its side is given up

# Smaller payloads are gathered: a byte each would cost a hundred times its size to hold.
_GATHER_BELOW: Final = COPY_BELOW
_GATHER_UP_TO: Final = 64 << 10
_WRITE_PIECES: Final = 16  # of one write: 1 MiB, where they are the text of large segments


Payload = bytes | bytearray | memoryview


class Step(Enum):
    """What is done next with a flow."""

    SHUT_SOCKET = 1  # shutdown(SHUT_WR)
    TELL_END = 2
    TELL_RESET = 3  # with `reset_code`, and close
    CLOSE = 4


class Relay:
    """One open flow.  Methods named receive_* take what the peer says and raise `Malformed`."""

    __slots__ = (
        "_account", "_gathered", "_head_offset", "_last_byte", "_queue",
        "broken", "down_credit", "ended", "half_close", "hung_up", "proven", "reset_code", "shut_received",
        "shut_sent", "socket_shut", "write_failed",
    )  # fmt: skip

    def __init__(self, budget: Budget, down_credit: int, half_close: bool, proof_needed: bool) -> None:
        self._account = Account(budget, budget.first())
        self.half_close = half_close
        self.down_credit = down_credit  # bytes that may be read from the socket and sent down
        self._queue: deque[Payload] = deque()
        self._head_offset = 0  # of the first of the queue, already written
        self._gathered: bytearray | None = None  # the last of the queue, if it may grow
        self._last_byte = 0.0
        self.shut_received = False
        self.socket_shut = False
        self.broken = False  # the peer has reset the connection, but bytes may be there to read
        self.hung_up = False  # the peer has closed, but bytes may be there to read
        self.ended = False  # the last byte was read
        self.proven: bool | None = None if proof_needed else True  # that the end is the server's
        self.shut_sent = False
        self.write_failed = False
        self.reset_code: int = Code.GENERAL_FAILURE

    @property
    def grant(self) -> int:
        """The credit of OPENED."""
        return self._account.outstanding

    @property
    def queued(self) -> int:
        """Bytes that wait for the socket."""
        return self._account.waiting

    # Up.

    def receive_data(self, payload: bytes | memoryview, now: float) -> None:
        size = len(payload)
        if size > self._account.outstanding or self.shut_received:
            raise Malformed("wire-credit")
        self._last_byte = now
        self._account.received(size)
        if self.write_failed:
            self._account.drop(size)
        elif size >= _GATHER_BELOW:
            self._queue.append(payload)
            self._gathered = None
        elif self._gathered is not None and len(self._gathered) + size <= _GATHER_UP_TO:
            self._gathered += payload
        else:
            self._gathered = bytearray(payload)
            self._queue.append(self._gathered)

    def receive_shut(self, now: float) -> None:
        if self.shut_received:
            raise Malformed("wire-turn")
        self.shut_received = True
        self._last_byte = now

    def heads(self) -> list[Payload]:
        """The bytes to write next, in order; only while `queued`, and to be let go before more come."""
        queue = self._queue
        first = queue[0]
        if self._head_offset:
            first = memoryview(first)[self._head_offset :]
        return [first] if len(queue) == 1 else [first, *islice(queue, 1, _WRITE_PIECES)]

    def wrote(self, size: int, now: float) -> int:
        """`size` bytes of the heads are with the kernel.  Gives the credit to return, mostly 0."""
        self._last_byte = now
        queue = self._queue
        offset = self._head_offset + size
        while queue and offset >= len(queue[0]):
            head = queue.popleft()
            offset -= len(head)
            if head is self._gathered:
                self._gathered = None
        self._head_offset = offset
        return self._account.done(size, now)

    def fail_write(self) -> None:
        """The socket takes nothing more: what waits is lost."""
        self.write_failed = True
        self._account.drop(self._account.waiting)
        self._queue.clear()
        self._head_offset = 0
        self._gathered = None

    # Down.

    def receive_credit(self, size: int) -> None:
        self.down_credit += size
        if self.down_credit > CREDIT_MAX:
            raise Malformed("wire-credit")

    def read(self, size: int, now: float) -> None:
        """`size` bytes were read from the socket and sent down."""
        self.down_credit -= size
        self._last_byte = now

    # Ends.

    def judge(self, alive: bool) -> None:
        """Whether the upstream lived after it hung up on this flow."""
        self.proven = alive
        if not alive:
            self.reset_code = Code.UPSTREAM_DOWN

    def hang_up(self) -> bool:
        """The peer has closed, though bytes may be left to read.  True if `judge` has to follow."""
        first = not self.hung_up
        self.hung_up = True
        return first and self.proven is None

    def break_off(self, now: float) -> None:
        """The peer has reset the connection; reading tells that only where no end came before."""
        self.broken = True
        self._last_byte = now

    def steps(self) -> list[Step]:
        """What is due now; each is given once.  After TELL_RESET or CLOSE the flow is over."""
        due = []
        if self.shut_received and not self.queued and self.half_close and not self.socket_shut:
            self.socket_shut = True
            if not self.write_failed:
                due.append(Step.SHUT_SOCKET)
        if self.ended and not self.shut_sent:
            if self.write_failed:
                return [Step.TELL_RESET]
            if self.proven is False:
                return [Step.TELL_RESET]
            if self.proven:
                self.shut_sent = True
                due.append(Step.TELL_END)
        if self.shut_sent:
            if self.write_failed or self.broken:
                due.append(Step.TELL_RESET)
            elif self.shut_received and not self.queued:
                due.append(Step.CLOSE)
        return due

    def quiet_until(self, least_credit: int = 1) -> float | None:
        """When `give_up` is due; None while the flow may be silent for as long as it likes.

        Only where the program's end could not be passed on, and never while it is the program
        that does not read, so that less than `least_credit` is left; or where a reset waits for just that.
        """
        if self.broken:
            return None if self.ended else self._last_byte + RESET_GRACE
        if self.half_close or not self.shut_received or self.queued or self.ended:
            return None
        if self.down_credit < least_credit:
            return None
        return self._last_byte + QUIET

    def give_up(self) -> None:
        """The flow has been quiet for too long: the next step is a reset."""
        self.ended = True
        self.proven = False
        if not self.broken:
            self.reset_code = Code.UPSTREAM_TIMEOUT

    def release(self) -> None:
        """The flow is over: give back what it holds of the budget."""
        self._account.close()
        self._queue.clear()
