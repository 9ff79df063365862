# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections from outside to a program inside: those that the user has asked for (avne run -p, --onion).

    somebody outside ── socket ── Stream ── Inbound ── Connection ── the program's listening socket

The supervisor listens and accepts; the socket comes by the control line, and is moved like an upstream's.
Towards the program we open actively (RFC 9293 §3.10.1), from the gateway's address.  What it refuses, or
what does not answer, is a reset for who came; so is every end that is not both sides' own.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from avne.ipc.credit import Account
from avne.limits import MAX_FLOWS, TUN_MTU
from avne.netstack import addresses
from avne.netstack.tcp import isn
from avne.netstack.tcp.connection import Connection
from avne.netstack.wire import ip, tcp

if TYPE_CHECKING:
    from avne.ipc.streams import Stream
    from avne.netstack.stack import Stack

# The gateway's ports: above all that it listens on, so that no key is a connection's of the program's to it.
_FIRST_PORT: Final = 32768
_PORTS: Final = 65536 - _FIRST_PORT
_TRIES: Final = 16
_MSS: Final = TUN_MTU - tcp.HEADER - ip.HEADER_V4  # MUST-67
_NO_LINGER: Final = struct.pack("ii", 0, 0)


class Inbound:
    """One of them: the `App` of its connection and the `Peer` of its stream.

    The socket comes with a linger time of 0 (socket(7)), so that our own death is a reset; a whole
    connection's end takes that back.
    """

    __slots__ = ("_account", "_broken", "_inlet", "_is_open", "_stack", "_stream", "connection")

    def __init__(self, inlet: Inlet, stack: Stack, sock: socket.socket, port: int) -> None:
        """Raises OSError for what is no socket."""
        self._inlet = inlet
        self._stack = stack
        self._account = Account(stack.upstreams.budget)  # of what comes from outside
        self._is_open = False
        self._broken = False  # it does not end as both sides have said
        self.connection: Connection
        try:
            self._stream: Stream = stack.upstreams.streams.adopt(
                port, sock, self, self._account.outstanding, True, False
            )
        except OSError:
            self._account.close()
            raise

    def start(self, connection: Connection) -> None:
        self.connection = connection
        connection.grant(self._stream.relay.grant)
        connection.open_active()

    @property
    def owes(self) -> bool:
        """Whether the program may still have bytes for who came."""
        return self._is_open and not self._stream.closed and not self.connection.fin_received

    # ---- what the program's connection says -----------------------------------------

    def established(self, now: float) -> None:
        self._is_open = True
        self._stack.count("inbound-opened")

    def received(self, payload: memoryview, now: float) -> None:
        stack = self._stack
        stack.account.from_inside += len(payload)
        kept = stack.pool.keep(len(payload)) if payload is stack.text else payload
        stack.upstreams.streams.send(self._stream, kept)

    def received_fin(self, now: float) -> None:
        self._stack.upstreams.streams.shut(self._stream)

    def acked(self, count: int, now: float) -> None:
        if self._stream.closed:
            self._account.drop(count)
        elif credit := self._account.done(count, now):
            self._stack.upstreams.streams.grant(self._stream, credit)

    def closed(self, reset: bool, now: float) -> None:
        self._account.close()
        if not self._is_open:
            self._stack.count("inbound-refused")
        if reset:
            self._broken = True
            self._stack.upstreams.streams.reset(self._stream)

    # ---- what the socket says ------------------------------------------------------------

    def on_data(self, payload: memoryview, now: float) -> None:
        self._account.received(len(payload))
        self._stack.account.to_inside += len(payload)
        self.connection.write(payload)

    def on_credit(self, count: int, now: float) -> None:
        self.connection.grant(count)

    def on_hangup(self, now: float) -> None:
        """Its end is its own: there is nobody to ask."""

    def on_end(self, now: float) -> None:
        self.connection.shutdown()

    def on_reset(self, code: int, now: float) -> None:
        self._broken = True
        self.connection.reset(now)

    def on_gone(self, now: float) -> None:
        if not self._broken:
            with contextlib.suppress(OSError):  # it has gone by itself
                self._stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self._inlet.ended += 1


class Inlet:
    """All of them.  `taken` and `ended` count those that the supervisor has not been told of yet."""

    def __init__(self, stack: Stack, token: Callable[[int], bytes]) -> None:
        self._stack = stack
        self._secret = token(16)
        self._last = int.from_bytes(token(2), "big")
        self.taken = self.ended = 0

    def take(self, fds: list[int], port: int, now: float) -> None:
        """A connected socket for the program's `port`; none where the kernel gave us no descriptor."""
        self.taken += 1
        if fds:
            self.open(socket.socket(fileno=fds[0]), port, now)
        else:
            self._drop()

    def news(self) -> tuple[int, int]:
        """`taken` and `ended`, which begin anew."""
        news = self.taken, self.ended
        self.taken = self.ended = 0
        return news

    def open(self, sock: socket.socket, port: int, now: float) -> None:
        """A connection to the program for `sock`, which is ours from here on."""
        stack = self._stack
        stack.count("inbound")
        guest, gateway = addresses.TUN[0], addresses.GATEWAY[0]
        ours = self._free(guest + gateway + port.to_bytes(2, "big"))
        if ours is None or len(stack.connections) >= MAX_FLOWS:
            stack.upstreams.streams.refuse(sock)
            self._drop()
            return
        try:
            inbound = Inbound(self, stack, sock, port)
        except OSError:  # no socket, or one that epoll does not take
            sock.close()
            self._drop()
            return
        key = guest + gateway + port.to_bytes(2, "big") + ours.to_bytes(2, "big")
        template = tcp.HeaderTemplate(gateway, ours, guest, port)
        connection = Connection(stack, inbound, key, template, isn.initial(now, key, self._secret), _MSS)
        stack.connections[key] = connection
        inbound.start(connection)

    def _drop(self) -> None:
        self._stack.count("inbound-dropped")
        self.ended += 1

    def _free(self, ends: bytes) -> int | None:
        """The next port of the gateway's that has no connection with these, in TIME-WAIT neither."""
        for _ in range(_TRIES):
            self._last += 1
            port = _FIRST_PORT + self._last % _PORTS
            if ends + port.to_bytes(2, "big") not in self._stack.connections:
                return port
        return None
