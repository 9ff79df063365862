# SPDX-License-Identifier: GPL-3.0-or-later
"""The bookkeeping of one flow: credits both ways, bytes that wait, and how it ends.  Sans-IO.

Up is from the netstack to the upstream's socket, down the other way.  The worker moves the
bytes and reports here what it did; `steps` says what is to be done next.

Credit.  Down, the netstack says how much it can hold, and no more is read from the socket: a
slow program costs the server's window, not memory.  Up, an account (ipc/credit.py) says what the
netstack may send.

Ends.  An end of the netstack's direction (SHUT) is passed on once its bytes are written.  Tor
has no half-close: there the socket stays open until the server's own end, or until it has been
quiet for 30 s, which is reported as a reset because the answer may be incomplete.
An end of the server's direction becomes SHUT; where it could as well be the upstream's death
it needs a verdict first (canary.py).  After a failed write the rest of the answer is still
read, but the end is a RESET, because bytes of the program are lost.  A reset of the server's is passed
on behind the bytes that came before it, but waits no longer than 1 s for a program that does not read them.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Final

from avne.errors import Malformed
from avne.ipc.credit import Account, Budget
from avne.ipc.lane import Piece
from avne.ipc.messages import Code
from avne.limits import CREDIT_MAX

RESET_GRACE: Final = 1.0  # seconds for a program to read what came before a reset
QUIET: Final = 30.0  # seconds without a byte until a flow whose program has ended its side is given up

# Smaller payloads are gathered: a byte each would cost a hundred times its size to hold.
_GATHER_BELOW: Final = 16 << 10
_GATHER_UP_TO: Final = 64 << 10


class Step(Enum):
    """What the worker does next with a flow."""

    SHUT_SOCKET = 1  # shutdown(SHUT_WR)
    SEND_SHUT = 2
    SEND_RESET = 3  # with `reset_code`, and close
    CLOSE = 4


class Relay:
    """One open flow.  Methods named receive_* take the netstack's messages and raise `Malformed`.

    `returned` gets the offset of each piece of the netstack's slab when nothing of it is left to write.
    """

    __slots__ = (
        "_account", "_gathered", "_half_close", "_head_offset", "_last_byte", "_queue",
        "_returned", "broken", "down_credit", "ended", "hung_up", "proven", "reset_code", "shut_received",
        "shut_sent", "socket_shut", "write_failed",
    )  # fmt: skip

    def __init__(
        self, budget: Budget, returned: list[int], down_credit: int, half_close: bool, proof_needed: bool
    ) -> None:
        self._account = Account(budget)
        self._returned = returned
        self._half_close = half_close
        self.down_credit = down_credit  # bytes that may be read from the socket and sent down
        self._queue: deque[bytes | bytearray | memoryview | Piece] = deque()
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

    def receive_data(self, payload: bytes | memoryview | Piece, now: float) -> None:
        piece = isinstance(payload, Piece)
        size = len(payload.view) if isinstance(payload, Piece) else len(payload)
        if size > self._account.outstanding or self.shut_received:
            raise Malformed("wire-credit")
        self._last_byte = now
        self._account.received(size)
        if self.write_failed:
            self._account.drop(size)
            self._done_with(payload)
            return
        if piece or size >= _GATHER_BELOW:
            self._queue.append(payload)
            self._gathered = None
        elif self._gathered is not None and len(self._gathered) + size <= _GATHER_UP_TO:
            assert not isinstance(payload, Piece)
            self._gathered += payload
        else:
            assert not isinstance(payload, Piece)
            self._gathered = bytearray(payload)
            self._queue.append(self._gathered)

    def _done_with(self, payload: bytes | bytearray | memoryview | Piece) -> None:
        if isinstance(payload, Piece):
            self._returned.append(payload.offset)

    def receive_shut(self, now: float) -> None:
        if self.shut_received:
            raise Malformed("wire-turn")
        self.shut_received = True
        self._last_byte = now

    def head(self) -> memoryview:
        """The bytes to write next; only while `queued`, and to be released before more come."""
        head = self._queue[0]
        view = head.view if isinstance(head, Piece) else memoryview(head)
        return view[self._head_offset :]

    def wrote(self, size: int, now: float) -> int:
        """`size` bytes of the head are with the kernel.  Gives the credit to return, mostly 0."""
        self._last_byte = now
        self._head_offset += size
        head = self._queue[0]
        if self._head_offset == (len(head.view) if isinstance(head, Piece) else len(head)):
            self._done_with(self._queue.popleft())
            if head is self._gathered:
                self._gathered = None
            self._head_offset = 0
        return self._account.done(size, now)

    def fail_write(self) -> None:
        """The socket takes nothing more: what waits is lost."""
        self.write_failed = True
        self._account.drop(self._account.waiting)
        self._drop_queue()
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
        """What is due now; each is given once.  After SEND_RESET or CLOSE the flow is over."""
        due = []
        if self.shut_received and not self.queued and self._half_close and not self.socket_shut:
            self.socket_shut = True
            if not self.write_failed:
                due.append(Step.SHUT_SOCKET)
        if self.ended and not self.shut_sent:
            if self.write_failed:
                return [Step.SEND_RESET]
            if self.proven is False:
                return [Step.SEND_RESET]
            if self.proven:
                self.shut_sent = True
                due.append(Step.SEND_SHUT)
        if self.shut_sent:
            if self.write_failed or self.broken:
                due.append(Step.SEND_RESET)
            elif self.shut_received and not self.queued:
                due.append(Step.CLOSE)
        return due

    def quiet_until(self) -> float | None:
        """When `give_up` is due; None while the flow may be silent for as long as it likes.

        Only where the program's end could not be passed on, and never while it is the program
        that does not read; or where a reset waits for just that.
        """
        if self.broken:
            return None if self.ended else self._last_byte + RESET_GRACE
        if self._half_close or not self.shut_received or self.queued or self.ended or not self.down_credit:
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
        self._drop_queue()

    def _drop_queue(self) -> None:
        for payload in self._queue:
            self._done_with(payload)
        self._queue.clear()
