# SPDX-License-Identifier: GPL-3.0-or-later
"""A plain, truthful SOCKS 5 server (RFC 1928, RFC 1929): CONNECT only.

* The reply is what connect(2) said: refused 05, host unreachable (and unknown names) 04, network
  unreachable 03, not allowed 02, timeout 06 after `timeout` seconds.
* Bytes go both ways by splice(2).  A direction that ends is passed on alone (half-close), and RST
  as RST.  A unix socket cannot carry RST: a test of that uses the TCP listener.
* Names are looked up in the zone itself.

Each connection has a thread.  Started as ``python -m tests.bed.socks CONFIG NETNS``: listens on unix
sockets, and on the loopback of the network namespace NETNS (a descriptor), which need not be its own.
It writes one line of JSON, ``{"port": …}``, when it listens, and a line of counters for each line read.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import ipaddress
import json
import os
import select
import socket
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.bed import places
from tests.bed.namespaces import network_of
from tests.bed.tornet.socks_client import receive_exactly
from tests.bed.tornet.zone import Zone, reverse_address

PIPE = 1 << 20
RESET_GRACE = 1.0  # seconds for the bytes before a reset, with a target that does not read
REPLY = {
    errno.ECONNREFUSED: 5,
    errno.EHOSTUNREACH: 4,
    errno.ENETUNREACH: 3,
    errno.EACCES: 2,
    errno.EPERM: 2,
    errno.ETIMEDOUT: 6,
}


class Refused(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Direction:
    """Bytes on their way from one socket to the other, held by a pipe."""

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self.source, self.target = source, target
        self.read_end, self.write_end = os.pipe2(os.O_CLOEXEC)
        fcntl.fcntl(self.write_end, fcntl.F_SETPIPE_SZ, PIPE)
        self.held = 0
        self.total = 0
        self.ended = False  # the source has said all
        self.finished = False  # and the target knows
        self.reset = False  # what the source has said ends with RST, though reading may not say so
        self.refused = False  # the target takes nothing more

    def move(self) -> bool:
        """Read and write once, as much as goes without waiting; whether anything went."""
        got = put = 0
        if not self.held and not self.ended:
            try:
                got = self.held = self._read()
                self.ended = not got
            except BlockingIOError:
                pass
            except OSError:  # comes behind the last byte
                self.ended = self.reset = True
            self.total += got
        if self.held:
            try:
                put = self._splice(self.read_end, self.target.fileno(), self.held)
                self.held -= put
            except BlockingIOError:
                pass
            except OSError:
                self.held = 0
                self.ended = self.finished = self.refused = True
        if self.ended and not self.held and not self.finished:
            self.finished = True
            if not self.reset:
                with contextlib.suppress(OSError):
                    self.target.shutdown(socket.SHUT_WR)
        return got + put > 0

    def _read(self) -> int:
        size = self._splice(self.source.fileno(), self.write_end, PIPE)
        if not size:  # the end, or a byte of urgent data, which splice(2) does not pass
            size = os.write(self.write_end, self.source.recv(4096))
        return size

    @staticmethod
    def _splice(source: int, target: int, size: int) -> int:
        return os.splice(source, target, size, flags=os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK)

    def close(self) -> None:
        os.close(self.read_end)
        os.close(self.write_end)


class Relay:
    """Two sockets joined, until both directions have ended or one socket was reset.

    A reset is passed on behind the bytes that came before it.  Linux tells of it in one of three ways:
    reading fails behind the last byte, or, when a write was told before, simply ends there; and
    behind a FIN only POLLERR tells.
    """

    def __init__(self, near: socket.socket, far: socket.socket, reset: bool) -> None:
        self.up, self.down = Direction(near, far), Direction(far, near)
        self.down.reset = reset
        self._both = (self.up, self.down)
        self._poller = select.poll()
        self._watched = {near.fileno(), far.fileno()}
        for sock in (near, far):
            sock.setblocking(False)
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)  # RFC 6093 §5
            self._poller.register(sock, 0)

    def run(self) -> None:
        try:
            while not (self.up.finished and self.down.finished):
                if not self._wait():
                    self._reset()
                    return
                for direction, back in (self._both, self._both[::-1]):
                    while direction.move() and direction.source.fileno() not in self._watched:
                        pass  # no event will tell of the rest
                    back.reset |= direction.refused
                    if direction.reset and direction.finished:
                        self._reset()
                        return
        finally:
            self.up.close()
            self.down.close()

    def _wait(self) -> bool:
        """Until something can go on; False when a target has not taken in time what came before a reset."""
        wanted = dict.fromkeys((self.up.source.fileno(), self.down.source.fileno()), 0)
        for direction in self._both:
            if direction.held:
                wanted[direction.target.fileno()] |= select.POLLOUT
            elif not direction.ended:
                wanted[direction.source.fileno()] |= select.POLLIN
        for fd in self._watched:
            self._poller.modify(fd, wanted[fd])
        broken = any(direction.reset for direction in self._both)
        found = self._poller.poll(RESET_GRACE * 1000 if broken else None)
        for fd, events in found:
            if events & select.POLLERR:
                self._failed(fd)
            if events & select.POLLERR or (events & select.POLLHUP and not wanted[fd]):
                # It says nothing new any more: it would wake us for ever.
                self._poller.unregister(fd)
                self._watched.discard(fd)
        return bool(found)

    def _failed(self, fd: int) -> None:
        for direction in self._both:
            if direction.source.fileno() == fd:
                direction.reset = True
            else:
                direction.held, direction.ended, direction.finished = 0, True, True

    def _reset(self) -> None:
        for direction in self._both:
            direction.source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Socks:
    def __init__(self, config: dict[str, Any]) -> None:
        self._timeout: float = config["timeout"]
        self._zone = Zone(places.ZONE, [places.V4, places.V6], places.FAILING)
        self._lock = threading.Lock()
        self.counters = {"open": 0, "total": 0, "up": 0, "down": 0}

    def _count(self, **changes: int) -> None:
        with self._lock:
            for key, change in changes.items():
                self.counters[key] += change

    def listen(self, sock: socket.socket, credentials: list[str] | None) -> None:
        sock.listen(1024)

        def accept() -> None:
            while True:
                client, _ = sock.accept()
                threading.Thread(target=self._serve, args=(client, credentials), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()

    def _serve(self, client: socket.socket, credentials: list[str] | None) -> None:
        self._count(open=1, total=1)
        with contextlib.suppress(OSError), client:
            if client.family != socket.AF_UNIX:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._greet(client, credentials)
            try:
                far, reset = self._connect(*self._request(client))
            except Refused as refused:
                client.sendall(bytes([5, refused.code, 0, 1]) + bytes(6))
            else:
                with far:
                    client.sendall(_success(far))
                    relay = Relay(client, far, reset)
                    relay.run()
                    self._count(up=relay.up.total, down=relay.down.total)
        self._count(open=-1)

    def _greet(self, client: socket.socket, credentials: list[str] | None) -> None:
        _version, count = receive_exactly(client, 2)
        methods = receive_exactly(client, count)
        wanted = 2 if credentials else 0
        if wanted not in methods:
            client.sendall(b"\x05\xff")
            raise ConnectionError("no method in common")
        client.sendall(bytes([5, wanted]))
        if credentials:
            receive_exactly(client, 1)
            given = [_counted(client).decode(errors="replace") for _ in range(2)]
            client.sendall(b"\x01\x00" if given == credentials else b"\x01\x01")
            if given != credentials:
                raise ConnectionError("wrong credentials")

    def _request(self, client: socket.socket) -> tuple[list[str], int]:
        """The addresses and the port that a client asks for."""
        _version, command, _reserved, kind = receive_exactly(client, 4)
        if kind == 1:
            hosts = [socket.inet_ntop(socket.AF_INET, receive_exactly(client, 4))]
        elif kind == 4:
            hosts = [socket.inet_ntop(socket.AF_INET6, receive_exactly(client, 16))]
        elif kind == 3:
            hosts = [_counted(client).decode("ascii", "replace")]
        else:
            raise Refused(8)
        (port,) = struct.unpack("!H", receive_exactly(client, 2))
        if command != 1:
            raise Refused(7)
        return (self._look_up(hosts[0]) if kind == 3 else hosts), port

    def _look_up(self, name: str) -> list[str]:
        with contextlib.suppress(ValueError):
            return [str(ipaddress.ip_address(name))]
        name = name.lower().rstrip(".")
        delay = self._zone.delay(name)
        time.sleep(self._timeout if delay is None else delay)
        if delay is None:
            raise Refused(6)
        addresses = None if self._zone.label(name) == "servfail" else self._zone.addresses(name)
        if not addresses or reverse_address(name):
            raise Refused(4)
        return addresses

    def _connect(self, hosts: list[str], port: int) -> tuple[socket.socket, bool]:
        """To the first address that answers; else what the last one said.

        With it, whether the server has reset the connection already: connect(2) says so of one that was made.
        """
        code = 1
        for host in hosts:
            far = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            far.settimeout(self._timeout)
            reset = False
            try:
                far.connect((host, port))
            except ConnectionResetError:
                reset = True
            except OSError as error:
                far.close()
                code = 6 if isinstance(error, TimeoutError) else REPLY.get(error.errno or 0, 1)
                continue
            far.settimeout(None)
            far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return far, reset
        raise Refused(code)


def _counted(client: socket.socket) -> bytes:
    return receive_exactly(client, receive_exactly(client, 1)[0])


def _success(far: socket.socket) -> bytes:
    host, port = far.getsockname()[:2]
    address = ipaddress.ip_address(host)
    return bytes([5, 0, 0, 1 if address.version == 4 else 4]) + address.packed + struct.pack("!H", port)


def unix_listener(path: str) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    os.chmod(path, 0o666)
    return sock


def main(config: dict[str, Any], namespace: int) -> None:
    server = Socks(config)
    server.listen(unix_listener(config["path"]), None)
    server.listen(unix_listener(config["path_auth"]), config["credentials"])
    with network_of(namespace):
        tcp = socket.socket()
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    tcp.bind(("127.0.0.1", config["port"]))
    server.listen(tcp, None)
    print(json.dumps({"port": tcp.getsockname()[1]}), flush=True)
    for _line in sys.stdin:
        print(json.dumps(server.counters), flush=True)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), int(sys.argv[2]))
