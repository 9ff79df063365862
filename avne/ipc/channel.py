# SPDX-License-Identifier: GPL-3.0-or-later
"""The ZeroMQ line between the netstack and workers elsewhere: the only file of theirs that imports zmq.

It is imported where there is such a worker, and not before: libzmq costs 40 ms of CPU to load, and 4 MiB.
The netstack binds one `Router`, each worker connects one `Dealer` under an identity that is
never used again.  A message is a header frame (`messages.encode`) and, for DATA, a payload
frame; the router sees the sender's identity in front.

No high-water mark: a ROUTER silently drops what exceeds it.  The bound is the protocol's
instead.  Credits bound the payload bytes in flight, and all other messages answer or accompany
something that `limits` counts (flows, half-open flows, pending questions).

With `Keys` it is CURVE's: both ends prove theirs before the first message, and nobody else is let in.  The
router asks `admission` about each peer, in the process's own loop; what it refused, and that a peer has gone,
is in its `news`.

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
import struct
from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

import zmq

from avne.confine.rules import call, one_of, without
from avne.confine.runtime import PROT_EXEC, SENDTO
from avne.ipc import admission
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
    "mlock", "munlock",  # libsodium's, for keys
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

_MAX_FRAME: Final = max(MAX_HEADER, MAX_PAYLOAD)
_CURVE_EXTRA: Final = 33  # bytes of a frame that is encrypted: name, nonce, authenticator, flags (RFC 26)

_ZAP: Final = "inproc://zeromq.zap.01"
_HANDSHAKE_BOUND: Final = 5000  # ms, of a peer that has connected
_CONNECT_BOUND: Final = 10000  # ms
_EVENT: Final = struct.Struct("=Hi")  # zmq_socket_monitor(3): event, value
_REFUSALS: Final = {
    int(zmq.Event.HANDSHAKE_FAILED_AUTH): "unknown-key",
    int(zmq.Event.HANDSHAKE_FAILED_PROTOCOL): "no-key",
    int(zmq.Event.HANDSHAKE_FAILED_NO_DETAIL): "no-handshake",
}
_DISCONNECTED: Final = int(zmq.Event.DISCONNECTED)
_CLOSED: Final = int(zmq.Event.CLOSED)  # of a socket that did not come to connect
_WATCHED: Final = sum(_REFUSALS) | _DISCONNECTED | _CLOSED

LOST, UNREACHABLE = "lost", "unreachable"


class Keys(NamedTuple):
    """Of 32 bytes each.  `theirs`: those that may join, or the one of the netstack."""

    secret: bytes
    public: bytes
    theirs: Collection[bytes]


class _Channel:
    """What both ends share."""

    def __init__(self, kind: int) -> None:
        self._context = zmq.Context(io_threads=1)
        self._socket = socket = self._context.socket(kind)
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.SNDHWM, 0)
        socket.set(zmq.RCVHWM, 0)
        # libzmq cuts off a peer whose frame is larger.
        socket.set(zmq.MAXMSGSIZE, _MAX_FRAME)
        socket.set(zmq.HANDSHAKE_IVL, _HANDSHAKE_BOUND)
        self._monitor: zmq.Socket[bytes] | None = None

    def _secure(self, keys: Keys) -> None:
        self._socket.set(zmq.MAXMSGSIZE, _MAX_FRAME + _CURVE_EXTRA)
        self._socket.set(zmq.CURVE_SECRETKEY, keys.secret)
        self._socket.set(zmq.CURVE_PUBLICKEY, keys.public)
        self._monitor = self._socket.get_monitor_socket(_WATCHED)
        self._monitor.set(zmq.LINGER, 0)
        _has_message(self._monitor)  # it signals nothing before it was looked at once

    def others(self) -> list[int]:
        """Further descriptors, of the same nature: `news` is to be called after their signals."""
        return [] if self._monitor is None else [int(self._monitor.get(zmq.FD))]

    def news(self) -> Iterator[tuple[str, str]]:
        """What became of connections: LOST, UNREACHABLE or why one was refused; and by which address."""
        while self._monitor is not None and _has_message(self._monitor):
            frames = self._monitor.recv_multipart(_NOBLOCK)
            event, _ = _EVENT.unpack(frames[0])
            if event == _DISCONNECTED:
                yield LOST, ""
            elif event == _CLOSED:
                yield UNREACHABLE, ""
            else:
                yield _REFUSALS[event], ""

    def fileno(self) -> int:
        """The descriptor that signals a change; see the module's text before use."""
        return int(self._socket.get(zmq.FD))

    def pending(self) -> bool:
        """Whether a message can be received now."""
        return bool(int(self._socket.get(_EVENTS)) & _POLLIN)

    def close(self) -> None:
        """Drop what is unsent and end the I/O thread."""
        if self._monitor is not None:
            self._socket.disable_monitor()
            self._monitor.close(0)
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


def _has_message(socket: zmq.Socket[bytes]) -> bool:
    return bool(int(socket.get(_EVENTS)) & _POLLIN)


class Router(_Channel):
    """The netstack's end: talks to every worker by its identity."""

    def __init__(self, listen_fd: int, endpoint: str, keys: Keys | None = None) -> None:
        """Serve `listen_fd`, a listening socket bound to `endpoint` ("tcp://ADDRESS:PORT", "ipc://PATH").

        The socket is made by the supervisor: this process can make none.  The
        descriptor belongs to the router from here on; a file to whoever bound it.
        """
        super().__init__(zmq.ROUTER)
        self._keys = keys
        self._zap: zmq.Socket[bytes] | None = None
        self._socket.set(zmq.ROUTER_MANDATORY, 1)
        self._socket.set(zmq.IPV6, int("[" in endpoint))
        if keys:
            self._zap = self._context.socket(zmq.REP)
            self._zap.set(zmq.LINGER, 0)
            self._zap.bind(_ZAP)
            self._socket.set(zmq.CURVE_SERVER, 1)
            self._socket.set(zmq.ZAP_DOMAIN, admission.DOMAIN)
            self._secure(keys)
        self._socket.set(zmq.USE_FD, listen_fd)
        self._socket.bind(endpoint)

    def close(self) -> None:
        if self._zap is not None:
            self._zap.close(0)
        super().close()

    def others(self) -> list[int]:
        return [*super().others(), *([] if self._zap is None else [int(self._zap.get(zmq.FD))])]

    def news(self) -> Iterator[tuple[str, str]]:
        """Of who asks to be let in as well."""
        while self._zap is not None and self._keys and _has_message(self._zap):
            frames = self._zap.recv_multipart(_NOBLOCK)
            reply, why = admission.answer(frames, self._keys.theirs)
            self._zap.send_multipart(reply)
            if why:
                yield why, admission.address(frames)
        for what, address in super().news():
            if what not in ("unknown-key", UNREACHABLE):  # told above; of our own listening socket
                yield what, address

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

    def __init__(self, endpoint: str, identity: bytes, keys: Keys | None = None) -> None:
        """With `keys` it connects once: the next connection is another worker's."""
        super().__init__(zmq.DEALER)
        self._socket.set(zmq.IDENTITY, identity)
        if keys:
            self._socket.set(zmq.IPV6, int("[" in endpoint))
            self._socket.set(zmq.RECONNECT_IVL, -1)
            self._socket.set(zmq.CONNECT_TIMEOUT, _CONNECT_BOUND)
            (server,) = keys.theirs
            self._socket.set(zmq.CURVE_SERVERKEY, server)
            self._secure(keys)
        self._socket.connect(endpoint)

    def send(self, header: bytes, payload: Payload | None = None) -> None:
        """Queue a message for the netstack, also while it is not there yet; drop it where that has gone."""
        socket = self._socket
        try:
            if payload is None:
                socket.send(header, _NOBLOCK)
            else:
                socket.send(header, _MORE | _NOBLOCK)
                socket.send(payload, _NOBLOCK)
        except zmq.Again:  # no connection is left, and none comes
            pass

    def receive(self) -> tuple[bytes, bytes, Payload | None] | None:
        """``(b"", header, payload)``, or None when there is nothing.  Raises `BadFrames`."""
        if not self.pending():
            return None
        return self._rest(b"", self._socket.recv(_NOBLOCK))
