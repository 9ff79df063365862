# SPDX-License-Identifier: GPL-3.0-or-later
"""The ZeroMQ line between the netstack and workers elsewhere: the only file that imports zmq.

It is imported where there is such a worker, and not before: libzmq costs 40 ms of CPU to load, and 4 MiB.
The netstack binds one `Router`, each worker connects one `Dealer` under an identity that is
never used again.  A message is a header frame (`messages.encode`) and, for DATA, a payload
frame; the router sees the sender's identity in front.

No high-water mark: a ROUTER silently drops what exceeds it.  The bound is the protocol's
instead.  Credits bound the payload bytes in flight, and all other messages answer or accompany
something that `limits` counts (flows, half-open flows, pending questions).

`fileno()` is an edge-triggered signal and no more (ZMQ_FD in zmq_getsockopt(3)).  It may be put
in a level-triggered epoll, but before the process sleeps it must have received until None, and
*after its last send* have seen `pending()` false, or it can sleep on a message that is there.

Costs (2 cores, per message): 64 bytes ≈ 2 µs to send and 2 µs to receive; a payload of
256 KiB ≈ 80 µs to send, mostly its copy into the message, and 5 µs to receive without one.
Received as `bytes` it would be 30–50 µs more; sending without a copy needs a buffer that nobody
touches until ZeroMQ's thread is done with it, and its bookkeeping costs what it saves.
"""

from __future__ import annotations

import errno
import fcntl
import signal
import socket
from typing import Final

import zmq

from avne.confine.rules import call, one_of, without
from avne.confine.runtime import PROT_EXEC, SENDTO
from avne.ipc.messages import BadFrames
from avne.limits import MAX_HEADER, MAX_PAYLOAD

# libzmq's, in its threads and in ours, with those that it has for each peer that comes.
SYSCALLS: Final = (
    "read", "write", "close", "poll", "ppoll", "epoll_wait", "epoll_pwait", "epoll_ctl", "getpid",
    "accept4", "recvfrom", SENDTO, "getsockname", "getpeername", "getsockopt", "clock_nanosleep",
    call("fcntl", one_of(1, fcntl.F_GETFL, fcntl.F_SETFL)),
    call("mprotect", without(2, PROT_EXEC)),
    call("rt_sigprocmask", one_of(0, signal.SIG_BLOCK, signal.SIG_UNBLOCK, signal.SIG_SETMASK)),
    call("setsockopt", one_of(1, socket.IPPROTO_TCP), one_of(2, socket.TCP_NODELAY)),
    "restart_syscall", "exit",
)  # fmt: skip

Payload = bytes | memoryview

# Smaller payloads are copied out: they share libzmq's receive buffer and would keep all of it.
_COPY_BELOW: Final = 32 << 10

# Plain integers: pyzmq's enums cost half a microsecond a call.
_MORE: Final = int(zmq.SNDMORE)
_NOBLOCK: Final = int(zmq.NOBLOCK)
_EVENTS: Final = int(zmq.EVENTS)
_RCVMORE: Final = int(zmq.RCVMORE)
_POLLIN: Final = int(zmq.POLLIN)


class _Channel:
    """What both ends share."""

    def __init__(self, kind: int) -> None:
        self._context = zmq.Context(io_threads=1)
        self._socket = socket = self._context.socket(kind)
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.SNDHWM, 0)
        socket.set(zmq.RCVHWM, 0)
        # libzmq cuts off a peer whose frame is larger.
        socket.set(zmq.MAXMSGSIZE, max(MAX_HEADER, MAX_PAYLOAD))

    def fileno(self) -> int:
        """The descriptor that signals a change; see the module's text before use."""
        return int(self._socket.get(zmq.FD))

    def pending(self) -> bool:
        """Whether a message can be received now."""
        return bool(int(self._socket.get(_EVENTS)) & _POLLIN)

    def close(self) -> None:
        """Drop what is unsent and end the I/O thread."""
        self._socket.close(0)
        self._context.term()

    def _rest(self, peer: bytes, header: bytes) -> tuple[bytes, bytes, Payload | None]:
        """The message that `header` begins, with its payload if there is one."""
        socket = self._socket
        if not socket.get(_RCVMORE):
            return peer, header, None
        frame = socket.recv(copy=False)
        if frame.more:
            while socket.get(_RCVMORE):
                socket.recv()
            raise BadFrames(peer)
        # Not `.buffer` for small ones: see _COPY_BELOW.
        return peer, header, frame.bytes if len(frame) < _COPY_BELOW else frame.buffer


class Router(_Channel):
    """The netstack's end: talks to every worker by its identity."""

    def __init__(self, listen_fd: int, endpoint: str) -> None:
        """Serve `listen_fd`, a listening unix socket bound to `endpoint` ("ipc://PATH").

        The socket is made by the supervisor: this process need not see the path.  The
        descriptor belongs to the router from here on; the file to whoever bound it.
        """
        super().__init__(zmq.ROUTER)
        self._socket.set(zmq.ROUTER_MANDATORY, 1)
        self._socket.set(zmq.USE_FD, listen_fd)
        self._socket.bind(endpoint)

    def send(self, peer: bytes, header: bytes, payload: Payload | None = None) -> bool:
        """Queue a message for `peer`; False when there is no such peer (any more)."""
        socket = self._socket
        try:
            socket.send(peer, _MORE)
        except zmq.ZMQError as error:
            if error.errno == errno.EHOSTUNREACH:
                return False
            raise
        if payload is None:
            socket.send(header)
        else:
            socket.send(header, _MORE)
            socket.send(payload)
        return True

    def receive(self) -> tuple[bytes, bytes, Payload | None] | None:
        """``(peer, header, payload)``, or None when there is nothing.  Raises `BadFrames`."""
        if not self.pending():  # 2 µs; an exception costs 4
            return None
        peer = self._socket.recv(_NOBLOCK)
        return self._rest(peer, self._socket.recv())


class Dealer(_Channel):
    """A worker's end: its only peer is the netstack, which comes out as ``b""``."""

    def __init__(self, endpoint: str, identity: bytes) -> None:
        super().__init__(zmq.DEALER)
        self._socket.set(zmq.IDENTITY, identity)
        self._socket.connect(endpoint)

    def send(self, header: bytes, payload: Payload | None = None) -> None:
        """Queue a message for the netstack, also while it is not there yet."""
        socket = self._socket
        if payload is None:
            socket.send(header)
        else:
            socket.send(header, _MORE)
            socket.send(payload)

    def receive(self) -> tuple[bytes, bytes, Payload | None] | None:
        """``(b"", header, payload)``, or None when there is nothing.  Raises `BadFrames`."""
        if not self.pending():
            return None
        return self._rest(b"", self._socket.recv(_NOBLOCK))
