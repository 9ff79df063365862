# SPDX-License-Identifier: GPL-3.0-or-later
"""Open flows: moves bytes between their sockets and their peers.

In the netstack the peer of a flow is the guest's connection (netstack/leases.py), in a worker the messages
for a netstack elsewhere (upstream/frames.py).  What a flow owes and may do is in relay.py; here is the I/O.

Sockets are watched edge-triggered: an event marks a flow readable, and it stays in `_ready`
until its socket is empty or its credit is used up.  Each turn serves a few of them, one payload
each, so that no flow waits for another's bulk.  What a peer says is only noted, and done by `write` and
`take_turn`: so all that a turn brings for a socket is one system call, and a peer is never called
from within its own call.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from avne.confine.rules import call, one_of
from avne.confine.runtime import NONBLOCKING, SENDMSG, SENDTO
from avne.ipc.credit import Budget
from avne.ipc.pace import Bucket, Pace
from avne.ipc.pool import Pool
from avne.ipc.relay import Payload, Relay, Step
from avne.limits import HALF_CLOSED_MAX, LOCAL_BUFFER, MAX_BURST, MAX_PAYLOAD

SYSCALLS: Final = (
    "recvfrom", SENDTO, SENDMSG, "shutdown", "close", "epoll_ctl", "getpeername", NONBLOCKING,
    call("setsockopt", one_of(1, socket.SOL_SOCKET), one_of(2, socket.SO_LINGER, socket.SO_RCVBUF)),
)  # fmt: skip

READS_PER_TURN: Final = 16
_LEAST_ROOM: Final = 64 << 10  # of the pool, to read into
TICK: Final = 1.0  # how often quiet and lingering flows are looked at
DRAIN_LINGER: Final = 1.0  # for a flow's end after its last byte was written

# Not for writing, which would wake us once for each new socket; see `_block`.
_EVENTS: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
_HANGUP: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)

Log = Callable[[str, str, dict[str, Any]], None]  # level, event, fields


class Peer(Protocol):
    """The other side of a flow.  After `on_gone` it hears nothing more."""

    def on_data(self, payload: memoryview, now: float) -> None:
        """Bytes from the socket, never more than granted; they stay as they are while they are looked at."""

    def on_credit(self, count: int, now: float) -> None:
        """`send` may be called with that many bytes more."""

    def on_hangup(self, now: float) -> None:
        """The upstream has closed, which needs proof: `judge` is to follow."""

    def on_end(self, now: float) -> None:
        """The server's end, after its last byte."""

    def on_reset(self, code: int, now: float) -> None:
        """The flow broke; `on_gone` follows."""

    def on_gone(self, now: float) -> None:
        """It is closed."""


class Stream:
    """An open flow: its socket and its books."""

    __slots__ = ("blocked", "closed", "due", "fd", "number", "pace", "peer", "readable", "relay", "scheduled",
                 "sock", "watched")  # fmt: skip

    def __init__(self, number: int, sock: socket.socket, peer: Peer, relay: Relay, pace: Pace | None) -> None:
        self.number = number  # for the log
        self.sock = sock
        self.fd = sock.fileno()
        self.peer = peer
        self.relay = relay
        self.pace = pace
        self.closed = False
        self.readable = False
        self.scheduled = False  # is in the ready queue
        self.due = False  # is to be written to, or to be settled
        self.blocked = False  # takes nothing until an event says so
        self.watched = False  # for that event


class Streams:
    """All of them.  The caller sets `now` at the start of each turn.

    With less credit than `least_read` bytes a flow waits for more, so that its last bytes do not go alone:
    it has to come where nothing is under way (ipc/credit.py leaves three quarters of CREDIT_MIN).
    """

    def __init__(self, epoll: select.epoll, log: Log, pool: Pool, least_read: int = 1) -> None:
        self.now = 0.0
        self.bytes_up = self.bytes_down = 0
        self.draining = False
        self.closing: list[socket.socket] = []  # until this turn's events are done: they name descriptors
        self._epoll = epoll
        self._log = log
        self._pool = pool
        self._least_read = least_read
        self._private = memoryview(bytearray(_LEAST_ROOM))  # where there is no room in the pool
        self._budget = Budget()
        self._by_fd: dict[int, Stream] = {}
        self._ready: deque[Stream] = deque()
        self._due: deque[Stream] = deque()
        self._quiet: dict[Stream, None] = {}  # those that `give_up` may hit, the oldest first
        self._lingering: dict[Stream, float] = {}  # while draining: when to close at the latest
        self._tick_at = 0.0
        self._paused: dict[Stream, None] = {}  # those that wait for their pace, the longest first
        self._resume_at = float("inf")

    def __len__(self) -> int:
        return len(self._by_fd)

    # ---- what peers call -------------------------------------------------------------------

    def adopt(
        self,
        number: int,
        sock: socket.socket,
        peer: Peer,
        credit: int,
        half_close: bool,
        proof: bool,
        pace: Pace | None = None,
    ) -> Stream:
        """A new flow on a connected socket; the peer grants `credit` bytes down.

        `stream.relay.grant` is what may be sent up.  Raises OSError for what is no socket.
        """
        sock.setblocking(False)
        if _is_local(sock):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LOCAL_BUFFER)
        stream = Stream(number, sock, peer, Relay(self._budget, credit, half_close, proof), pace)
        self._epoll.register(stream.fd, _EVENTS)
        self._by_fd[stream.fd] = stream
        if self.draining:
            self._touch(stream)
        return stream

    def send(self, stream: Stream, payload: bytes | memoryview) -> None:
        """Bytes for the socket.  Raises `Malformed` where they are more than was granted."""
        if not stream.closed:
            stream.relay.receive_data(payload, self.now)
            self._touch(stream)

    def grant(self, stream: Stream, count: int) -> None:
        """The peer can take that much more.  Raises `Malformed` where it is too much."""
        if not stream.closed:
            stream.relay.receive_credit(count)
            self._schedule(stream)

    def shut(self, stream: Stream) -> None:
        """No more `send`.  Raises `Malformed` for a second time."""
        if stream.closed:
            return
        stream.relay.receive_shut(self.now)
        if not stream.relay.half_close:
            self._quiet[stream] = None
            self._bound_quiet()
        self._touch(stream)

    def reset(self, stream: Stream) -> None:
        """Write what the socket takes of what waits, and close it, with a RST for the server."""
        if not stream.closed:
            if stream.relay.queued and not stream.blocked:
                self._write(stream)
            _reset_on_close(stream.sock)
            self._remove(stream)

    def refuse(self, sock: socket.socket) -> None:
        """Close a connected socket that nobody wants, with a RST for the server."""
        _reset_on_close(sock)
        self.closing.append(sock)

    def judge(self, stream: Stream, alive: bool) -> None:
        """The answer to `on_hangup`: whether the upstream lived after it."""
        if not stream.closed:
            stream.relay.judge(alive)
            self._touch(stream)

    # ---- what the loop calls ---------------------------------------------------------------

    def on_event(self, fd: int, mask: int) -> bool:
        """An event of epoll; False where the descriptor is no flow's (any more)."""
        stream = self._by_fd.get(fd)
        if stream is None:
            return False
        if mask & _HANGUP:
            self._hang_up(stream)
        if mask & select.EPOLLERR:
            stream.relay.break_off(self.now)
            self._quiet[stream] = None
            self._touch(stream)
        if mask & (select.EPOLLIN | _HANGUP):
            stream.readable = True
            self._schedule(stream)
        if stream.blocked and mask & (select.EPOLLOUT | _HANGUP):
            stream.blocked = False
            self._touch(stream)
        return True

    def take_turn(self) -> None:
        """Read from some of those that have something, write, close what ended."""
        ready = self._ready
        if ready:
            for _ in range(min(len(ready), READS_PER_TURN)):
                stream = ready.popleft()
                stream.scheduled = False
                if not stream.closed:
                    self._read(stream)
        if self._due:
            self.write()
        if self.closing:
            for sock in self.closing:
                sock.close()
            self.closing.clear()

    def write(self) -> None:
        """Do what has been noted for later: write, and take the steps that are due."""
        due = self._due
        while due:
            stream = due.popleft()
            stream.due = False
            if not stream.closed:
                if stream.relay.queued and not stream.blocked:
                    self._write(stream)
                self._settle(stream)

    @property
    def waiting(self) -> bool:
        """Whether there is something to do at once."""
        return bool(self._ready or self._due or self.closing)

    def poll_at(self) -> float:
        """When a turn is due; in the past while there is something to do."""
        if self.waiting:
            return self.now
        return min(self._tick_at, self._resume_at) if self._quiet or self._lingering else self._resume_at

    def handle_timer(self) -> None:
        now = self.now
        if now >= self._resume_at:
            self._resume()
        if now < self._tick_at or not (self._quiet or self._lingering):
            return
        self._tick_at = now + TICK
        for stream in list(self._quiet):
            due = stream.relay.quiet_until(self._least_read)
            if due is not None and now >= due:
                why = "reset-unread" if stream.relay.broken else "quiet-after-half-close"
                self._log("info", why, {"flow": stream.number})
                stream.relay.give_up()
                self._touch(stream)
        for stream, until in list(self._lingering.items()):
            if now >= until:
                self._remove(stream)

    def drain(self) -> None:
        """Finish what waits to be written, then close; what the servers still say is dropped."""
        self.draining = True
        for stream in self._by_fd.values():
            self._touch(stream)
            self._schedule(stream)

    # ---- inside ----------------------------------------------------------------------------

    def _touch(self, stream: Stream) -> None:
        if not stream.due:
            stream.due = True
            self._due.append(stream)

    def _schedule(self, stream: Stream) -> None:
        enough = stream.relay.down_credit >= self._least_read or self.draining
        if stream.readable and not stream.scheduled and enough:
            stream.scheduled = True
            self._ready.append(stream)

    def _pause(self, stream: Stream, bucket: Bucket) -> None:
        """Its pace lets nothing pass now."""
        self._paused[stream] = None
        self._resume_at = min(self._resume_at, bucket.next_at())

    def _resume(self) -> None:
        self._resume_at = float("inf")
        paused, self._paused = self._paused, {}
        for stream in paused:
            self._schedule(stream)
            self._touch(stream)

    def _bound_quiet(self) -> None:
        """Most of those have been closed by their programs: there must not be ever more of them."""
        if len(self._quiet) > HALF_CLOSED_MAX:
            oldest = next(iter(self._quiet))
            del self._quiet[oldest]
            oldest.relay.give_up()
            self._touch(oldest)

    def _hang_up(self, stream: Stream) -> None:
        if stream.relay.hang_up():
            stream.peer.on_hangup(self.now)

    def _read(self, stream: Stream) -> None:
        """One payload from the socket to the peer, never more than its credit."""
        relay = stream.relay
        room = self._pool.room(_LEAST_ROOM)
        buffer = self._private if room is None else room
        most = MAX_PAYLOAD if self.draining else min(MAX_PAYLOAD, relay.down_credit)
        size = min(most, len(buffer))
        pace = stream.pace
        if pace is not None:
            size = min(size, pace.down.allowed(self.now))
            if not size:
                self._pause(stream, pace.down)
                return
        if size > MAX_BURST:
            size -= size % MAX_BURST  # a rest of some hundred bytes costs as much as a whole one
        try:
            got = stream.sock.recv_into(buffer, size)
        except BlockingIOError:
            stream.readable = False
            return
        except OSError:
            self._break(stream)
            return
        if got == 0:
            stream.readable = False
            relay.ended = True
            self._hang_up(stream)  # if the event is still to come
            self._touch(stream)
            return
        if pace is not None:
            pace.down.take(got)
        # A short read means an empty socket (epoll(7)), unless its end is still to be read.
        stream.readable = got == size or relay.hung_up
        if not self.draining:
            self.bytes_down += got
            relay.read(got, self.now)
            payload = memoryview(bytes(buffer[:got])) if room is None else self._pool.keep(got)
            stream.peer.on_data(payload, self.now)
        if not stream.closed:
            self._schedule(stream)

    def _write(self, stream: Stream) -> None:
        """As much as the socket takes."""
        relay, sock = stream.relay, stream.sock
        credit = 0
        try:
            while relay.queued:
                heads = relay.heads()
                if stream.pace is not None and not (heads := self._paced(stream, stream.pace.up, heads)):
                    break
                sent = sock.send(heads[0]) if len(heads) == 1 else sock.sendmsg(heads)
                if stream.pace is not None:
                    stream.pace.up.take(sent)
                self.bytes_up += sent
                credit += relay.wrote(sent, self.now)
        except BlockingIOError:
            self._block(stream)
        except OSError:
            relay.fail_write()
        if credit:
            stream.peer.on_credit(credit, self.now)

    def _paced(self, stream: Stream, bucket: Bucket, heads: list[Payload]) -> list[Payload]:
        """What of `heads` may be written now; nothing: it pauses."""
        most = bucket.allowed(self.now)
        if not most:
            self._pause(stream, bucket)
            return []
        return [heads[0][:most]]

    def _block(self, stream: Stream) -> None:
        """Wait for the event that it takes more."""
        stream.blocked = True
        if not stream.watched:
            stream.watched = True
            self._epoll.modify(stream.fd, _EVENTS | select.EPOLLOUT)

    def _settle(self, stream: Stream) -> None:
        """Take the steps that are due."""
        if self.draining:
            self._settle_drained(stream)
            return
        relay = stream.relay
        if not (relay.shut_received or relay.ended):
            return
        for step in relay.steps():
            if step is Step.SHUT_SOCKET:
                _shut(stream.sock)
            elif step is Step.TELL_END:
                stream.peer.on_end(self.now)
            elif step is Step.TELL_RESET:
                self._break(stream)
            else:
                self._remove(stream)

    def _settle_drained(self, stream: Stream) -> None:
        """Close only after the peer has: an earlier close could cut off what it has not read yet."""
        relay = stream.relay
        if relay.queued:
            return
        if relay.ended:
            self._remove(stream)
        elif stream not in self._lingering:
            self._lingering[stream] = self.now + DRAIN_LINGER
            _shut(stream.sock)

    def _break(self, stream: Stream) -> None:
        """Tell the peer that the flow broke."""
        if not stream.closed:
            stream.peer.on_reset(stream.relay.reset_code, self.now)
            self._remove(stream)

    def _remove(self, stream: Stream) -> None:
        if stream.closed:
            return
        stream.closed = True
        stream.relay.release()
        del self._by_fd[stream.fd]
        self._epoll.unregister(stream.fd)
        self.closing.append(stream.sock)
        self._quiet.pop(stream, None)
        self._lingering.pop(stream, None)
        self._paused.pop(stream, None)
        peer = stream.peer
        del stream.peer  # which knows the stream: no cycle is left
        peer.on_gone(self.now)


def _is_local(sock: socket.socket) -> bool:
    """Whether it is TCP to this machine, so that no round trip has to fit into its buffer."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    try:
        host = str(sock.getpeername()[0])
    except OSError:
        return False  # it is broken already, which its events tell
    return host.startswith("127.") or host == "::1"


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the next read or write says the same
        sock.shutdown(socket.SHUT_WR)


def _reset_on_close(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
