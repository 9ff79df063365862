# SPDX-License-Identifier: GPL-3.0-or-later
"""A flow's place at a worker: what its owner (`Session`) says and hears, whoever carries the bytes.

The worker negotiates.  One of this machine then gives the flow's socket to us, and its bytes are moved here
(`SocketLease`, ipc/streams.py); one elsewhere keeps it, and the bytes are messages (`FrameLease`).
The credits are the same: what they grant is what may wait.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Final, Protocol

from avne.errors import Malformed
from avne.ipc import messages
from avne.ipc.credit import Account
from avne.ipc.messages import Capability, Code, encode
from avne.ipc.verdict import Verdict
from avne.limits import CREDIT_MAX, EARLY_MAX, EARLY_PIECE, MAX_PAYLOAD

if TYPE_CHECKING:
    from avne.ipc.streams import Stream
    from avne.netstack.upstreams import Upstreams, Worker

_HALF_CLOSE: Final = int(Capability.HALF_CLOSE)
_PROOF: Final = int(Capability.PROOF)

Payload = bytes | memoryview
Attachment = Payload | socket.socket | None  # what comes with a message


class Session(Protocol):
    """What a flow's owner hears."""

    lease: Lease | None

    def opened(self, credit: int, now: float) -> None: ...
    def refused(self, verdict: Verdict, code: int, detail: str, now: float) -> None: ...
    def data(self, payload: Payload, now: float) -> None: ...
    def credit(self, count: int, now: float) -> None: ...
    def shut(self, now: float) -> None: ...
    def reset(self, code: int, now: float) -> None: ...


class Lease:
    """What both kinds share: the order of events, and the account of what comes down."""

    __slots__ = ("_account", "_opened", "_shut_received", "_shut_sent", "asked", "flow", "over", "received",
                 "sent", "session", "up_credit", "upstreams", "worker")  # fmt: skip

    def __init__(self, upstreams: Upstreams, worker: Worker, flow: int, session: Session) -> None:
        self.upstreams = upstreams
        self.worker = worker
        self.flow = flow
        self.session = session
        # Host, port, owner, by whom; if others may be asked.
        self.asked: tuple[str, int, str, tuple[bytes, ...]] | None = None
        self.over = False  # nothing more is said; what has come may still be in use
        self.up_credit = 0  # bytes we may still send
        self.sent = self.received = 0  # bytes
        self._account = Account(upstreams.budget)  # of what may come
        self._opened = self._shut_sent = self._shut_received = False

    @property
    def needs_worker(self) -> bool:
        """Whether it would end with its worker."""
        return True

    @property
    def is_early(self) -> bool:
        """Whether bytes are taken though it is not open yet."""
        return False

    # ---- what the session calls ------------------------------------------------------------

    def go_ahead(self) -> bool:
        """Whether EARLY_MAX bytes may be sent, and SHUT said, before `opened`: then they count as granted."""
        return False

    @property
    def grant(self) -> int:
        """What may come."""
        return self._account.outstanding

    def send(self, parts: list[memoryview]) -> None:
        """Bytes for the upstream; never more than it has granted."""
        size = sum(map(len, parts))
        assert size <= self.up_credit, "more than the upstream granted"
        self.up_credit -= size
        self.sent += size
        self._carry(parts)

    def consumed(self, count: int, now: float) -> None:
        """The session is done with `count` bytes of `data`: more may come."""
        if self.over:
            self._account.drop(count)
        elif credit := self._account.done(count, now):
            self._grant(credit)

    def release(self) -> None:
        """The session looks at nothing of `data` any more."""
        self._account.close()

    def shut(self) -> None:
        """No more `send`."""
        self._shut_sent = True
        self._shut()
        self._forget_if_over()

    def reset(self, code: int = Code.SUCCEEDED) -> None:
        """Nothing more either way, at once."""
        if not self.over:
            self._end()
            self._reset(code)

    # ---- what the worker says --------------------------------------------------------------

    def receive(self, kind: int, message: list[Any], attachment: Attachment, now: float) -> None:
        """A message of this flow from its worker.  Raises `Malformed` for one out of turn."""
        raise NotImplementedError

    def lost(self, now: float) -> None:
        """The worker is gone."""
        self._end()
        self._abandon()
        self.session.reset(Code.UPSTREAM_DOWN, now)

    # ---- what the kinds do -----------------------------------------------------------------

    def _carry(self, parts: list[memoryview]) -> None:
        raise NotImplementedError

    def _grant(self, credit: int) -> None:
        raise NotImplementedError

    def _shut(self) -> None:
        raise NotImplementedError

    def _reset(self, code: int) -> None:
        self._say(messages.RESET, int(code))

    def _abandon(self) -> None:
        """There is no worker to be told of the end."""

    def _data(self, payload: Payload, now: float) -> None:
        if len(payload) > self._account.outstanding or self._shut_received:
            raise Malformed("wire-credit")
        self._account.received(len(payload))
        self.received += len(payload)
        self.session.data(payload, now)

    def _credit(self, count: int, now: float) -> None:
        self.up_credit += count
        if self.up_credit > CREDIT_MAX:
            raise Malformed("wire-credit")
        self.session.credit(count, now)

    def _open(self, credit: int, more: int, now: float) -> None:
        """`credit` bytes may be sent, of which the session does not know `more` yet."""
        self._opened = True
        self.up_credit = credit
        self.session.opened(more, now)

    def _refused(self, message: list[Any], now: float) -> None:
        _, _, code, verdict, detail = message
        self._end()
        if code == Code.UPSTREAM_DOWN and self.upstreams.open_elsewhere(self):
            return
        self.session.refused(Verdict(verdict), code, detail, now)

    def _was_shut(self, now: float) -> None:
        if self._shut_received:
            raise Malformed("wire-turn")
        self._shut_received = True
        self.session.shut(now)
        self._forget_if_over()

    def _was_reset(self, code: int, now: float) -> None:
        if not self.over:
            self._end()
            self.session.reset(code, now)

    def _forget_if_over(self) -> None:
        if self._shut_sent and self._shut_received:
            self._end()

    def _end(self) -> None:
        self.over = True
        self._account.end()
        self.worker.flows.pop(self.flow, None)

    def _say(self, kind: int, *fields: int | bytes) -> None:
        self.upstreams.messages.append((self.worker.identity, encode(kind, self.flow, *fields), None))


class FrameLease(Lease):
    """The bytes are messages."""

    __slots__ = ("_data_header",)

    def __init__(self, upstreams: Upstreams, worker: Worker, flow: int, session: Session) -> None:
        super().__init__(upstreams, worker, flow, session)
        self._data_header = encode(messages.DATA, flow)

    def receive(self, kind: int, message: list[Any], attachment: Attachment, now: float) -> None:
        if self._opened == (kind in (messages.OPENED, messages.REFUSED)) and kind != messages.RESET:
            raise Malformed("wire-turn")
        if kind == messages.DATA:
            assert isinstance(attachment, Payload)
            self._data(attachment, now)
        elif kind == messages.CREDIT:
            self._credit(message[2], now)
        elif kind == messages.SHUT:
            self._was_shut(now)
        elif kind == messages.OPENED:
            self._open(message[2], message[2], now)
        elif kind == messages.REFUSED:
            self._refused(message, now)
        elif kind == messages.RESET:
            self._was_reset(message[2], now)
        else:
            raise Malformed("wire-turn")

    def _carry(self, parts: list[memoryview]) -> None:
        whole = parts[0] if len(parts) == 1 else memoryview(b"".join(parts))
        for at in range(0, len(whole), MAX_PAYLOAD):
            payload = whole[at : at + MAX_PAYLOAD]
            self.upstreams.messages.append((self.worker.identity, self._data_header, payload))

    def _grant(self, credit: int) -> None:
        self._say(messages.CREDIT, credit)

    def _shut(self) -> None:
        self._say(messages.SHUT)


class SocketLease(Lease):
    """The socket is ours once it is open: this is the `Peer` of its stream."""

    __slots__ = ("_asked", "_early", "_origin", "_proof", "_stream")

    def __init__(self, upstreams: Upstreams, worker: Worker, flow: int, session: Session) -> None:
        super().__init__(upstreams, worker, flow, session)
        self._stream: Stream | None = None
        self._early: bytearray | None = None  # what was sent before there is a socket
        self._origin = 0, 0  # when and by which upstream it was opened, as the worker says it
        self._proof = False  # whether the worker will have to say what an end means
        self._asked = False  # whether the server's end was the upstream's death

    def receive(self, kind: int, message: list[Any], attachment: Attachment, now: float) -> None:
        if not self._opened:
            if kind == messages.SOCKET:
                self._adopt(message, attachment, now)
            elif kind == messages.REFUSED:
                self._refused(message, now)
            elif kind == messages.RESET:
                self._was_reset(message[2], now)
            else:
                raise Malformed("wire-turn")
        elif self._asked and kind in (messages.ALIVE, messages.RESET):
            self._asked = False
            assert self._stream is not None
            self.upstreams.streams.judge(self._stream, kind == messages.ALIVE)
        else:
            raise Malformed("wire-turn")

    def _adopt(self, message: list[Any], attachment: Attachment, now: float) -> None:
        if not isinstance(attachment, socket.socket):
            self._was_reset(Code.GENERAL_FAILURE, now)  # the kernel gives us no more descriptors
            return
        _, _, opened, upstream, capabilities, rate, early = message
        if early > len(self._early or b""):
            attachment.close()
            raise Malformed("wire-credit")
        half_close = bool(capabilities & _HALF_CLOSE)
        proof = self._proof = bool(capabilities & _PROOF)
        pace = self.upstreams.pace(upstream, rate)
        try:
            self._stream = self.upstreams.streams.adopt(
                self.flow, attachment, self, self.grant, half_close, proof, pace
            )
        except OSError as error:
            attachment.close()
            raise Malformed("wire-socket") from error
        self._origin = opened, upstream
        if self._early is None:
            self._open(self._stream.relay.grant, self._stream.relay.grant, now)
        else:
            self._catch_up(self._stream, early, now)

    def _catch_up(self, stream: Stream, written: int, now: float) -> None:
        """What the worker has not written of the early bytes goes first; what was granted for them counts."""
        assert self._early is not None
        rest = bytes(self._early[written:])
        self._early = None
        more = stream.relay.grant - len(rest) - self.up_credit
        if rest:
            self.upstreams.streams.send(stream, rest)
        self._open(self.up_credit + more, more, now)
        if self._shut_sent:
            self.upstreams.streams.shut(stream)

    @property
    def needs_worker(self) -> bool:
        return not self._opened or self._proof

    @property
    def is_early(self) -> bool:
        return self._early is not None

    def go_ahead(self) -> bool:
        if Capability.EARLY not in self.worker.capabilities:
            return False
        self._early = bytearray()
        self.up_credit = EARLY_MAX
        self.asked = None  # who has got the bytes may have passed them on: they are told to nobody else
        return True

    # ---- to the socket ---------------------------------------------------------------------

    def _carry(self, parts: list[memoryview]) -> None:
        if self._early is not None:
            for part in parts:
                self._early += part
                for at in range(0, len(part), EARLY_PIECE):
                    self._say(messages.EARLY, bytes(part[at : at + EARLY_PIECE]))
            return
        assert self._stream is not None
        for part in parts:
            self.upstreams.streams.send(self._stream, part)

    def _grant(self, credit: int) -> None:
        assert self._stream is not None
        self.upstreams.streams.grant(self._stream, credit)

    def _shut(self) -> None:
        if self._early is None:  # else it follows the early bytes
            assert self._stream is not None
            self.upstreams.streams.shut(self._stream)

    def _reset(self, code: int) -> None:
        if self._stream is None:
            super()._reset(code)
        else:
            self._abandon()

    def _abandon(self) -> None:
        if self._stream is not None:
            self.upstreams.streams.reset(self._stream)

    # ---- from the socket -------------------------------------------------------------------

    def on_data(self, payload: memoryview, now: float) -> None:
        self._data(payload, now)

    def on_credit(self, count: int, now: float) -> None:
        if not self.over:
            self._credit(count, now)

    def on_hangup(self, now: float) -> None:
        self._asked = True
        self._say(messages.ENDED, *self._origin)

    def on_end(self, now: float) -> None:
        self._was_shut(now)

    def on_reset(self, code: int, now: float) -> None:
        self._was_reset(code, now)

    def on_gone(self, now: float) -> None:
        """It is closed: nothing more goes there."""
