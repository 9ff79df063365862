# SPDX-License-Identifier: GPL-3.0-or-later
"""A SOCKS5 server whose every answer is the test's: replies, splits, authentication, silence.

``python -m tests.upstream.socks_server PATH`` serves a unix socket in a process of its own, which a
test may kill: a Tor that dies.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Callable
from typing import NamedTuple, Self

Stream = Callable[[socket.socket, str], None]

RESOLVE, RESOLVE_PTR = 0xF0, 0xF1


class Request(NamedTuple):
    command: int
    atyp: int
    address: bytes  # as on the wire
    port: int
    username: bytes | None
    password: bytes | None
    methods: bytes


def echo(sock: socket.socket, _host: str) -> None:
    while data := sock.recv(65536):
        sock.sendall(data)


def reply_bytes(code: int, address: bytes = b"\x01\0\0\0\0", port: int = 0) -> bytes:
    return bytes((5, code, 0)) + address + port.to_bytes(2, "big")


class SocksServer:
    """Serves until closed; attributes may be changed at any time."""

    def __init__(self, path: str | None = None, stream: Stream = echo) -> None:
        self.reply = reply_bytes(0)
        self.answers: dict[int, bytes] = {}  # command → reply, before `reply`
        self.split = False  # send each byte of the negotiation alone
        self.credentials: tuple[bytes, bytes] | None = None
        self.method: bytes | None = None  # the whole method reply
        self.auth_reply = b"\x01\0"
        self.trailing = b""  # sent in one write with the reply
        self.gate: threading.Event | None = None  # a request waits for it
        self.asks_for = 0  # bytes that are there before the gate opens, which sets `came`
        self.came = threading.Event()
        self.mute = False  # greetings are not answered
        self.stream = stream
        self.requests: list[Request] = []
        self.greetings = 0
        self._connections: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        if path is None:
            self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
            self.address: str | tuple[str, int] = self._listener.getsockname()[:2]
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(path)
            self._listener.listen(512)
            self.address = path
        self._spawn(self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End like a process that exits: everything at once."""
        if self._listener.fileno() < 0:
            return
        self._listener.shutdown(socket.SHUT_RDWR)
        if self.gate:
            self.gate.set()
        self.hang_up()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()
        self._listener.close()

    def hang_up(self) -> None:
        """End all connections."""
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    @property
    def connections(self) -> int:
        with self._lock:
            return len(self._connections)

    def serve_forever(self) -> None:
        self._threads[0].join()

    def _spawn(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._connections.add(connection)
            self._spawn(self._serve, connection)

    def _serve(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError, EOFError):
            host = self._negotiate(sock)
            if host is not None:
                self.stream(sock, host)
            with self._lock:
                self._connections.discard(sock)

    def _send(self, sock: socket.socket, data: bytes) -> None:
        if self.split:
            if sock.family == socket.AF_INET:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in data:
                sock.sendall(bytes((byte,)))
        else:
            sock.sendall(data)

    def _negotiate(self, sock: socket.socket) -> str | None:
        """The host of a request that was granted."""
        _, count = _exactly(sock, 2)
        methods = _exactly(sock, count)
        self.greetings += 1
        if self.mute:
            while sock.recv(100):
                pass
            return None
        username = password = None
        if self.method is not None:
            self._send(sock, self.method)
        elif self.credentials is None:
            self._send(sock, b"\x05\x00" if 0 in methods else b"\x05\x02")
        else:
            self._send(sock, b"\x05\x02" if 2 in methods else b"\x05\xff")
        if self.method == b"\x05\x02" or (self.method is None and (self.credentials or 0 not in methods)):
            _exactly(sock, 1)
            username = _exactly(sock, _exactly(sock, 1)[0])
            password = _exactly(sock, _exactly(sock, 1)[0])
            good = self.credentials in (None, (username, password))
            self._send(sock, self.auth_reply if good else b"\x01\x01")
            if not good:
                return None
        _, command, _, atyp = _exactly(sock, 4)
        size = {1: 4, 4: 16}.get(atyp) or _exactly(sock, 1)[0]
        address = _exactly(sock, size)
        port = int.from_bytes(_exactly(sock, 2), "big")
        self.requests.append(Request(command, atyp, address, port, username, password, methods))
        if self.asks_for:
            while len(sock.recv(self.asks_for, socket.MSG_PEEK)) < self.asks_for:
                pass
            self.came.set()
        if self.gate:
            self.gate.wait()
        reply = self.answers.get(command, self.reply)
        self._send(sock, reply + self.trailing)
        if reply[1:2] != b"\0" or command != 1:
            return None
        return address.decode() if atyp == 3 else socket.inet_ntop({1: 2, 4: 10}[atyp], address)


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def tor_stream(sock: socket.socket, host: str) -> None:
    """What the killable Tor's destinations do, by their name."""
    if host == "whole":
        sock.sendall(b"all of it")
    elif host == "half":
        sock.sendall(b"half of")
        _exactly(sock, 1)
    elif host == "flood":
        while True:
            sock.sendall(bytes(65536))
    elif host == "answer":  # on request, and then the end
        _exactly(sock, 1)
        sock.sendall(b"answer")
    else:
        echo(sock, host)


def main() -> None:
    server = SocksServer(sys.argv[1], tor_stream)
    print("ready", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
