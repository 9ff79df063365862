# SPDX-License-Identifier: GPL-3.0-or-later
"""A plain, truthful SOCKS 5 server (RFC 1928, RFC 1929): CONNECT only.  SOCKS4A and HTTP, too: dialects.py.

* The reply is what connect(2) said: refused 05, host unreachable (and unknown names) 04, network
  unreachable 03, not allowed 02, timeout 06 after `timeout` seconds.
* Bytes go both ways (splicing.py).  A direction that ends is passed on alone (half-close), and RST
  as RST.  A unix socket cannot carry RST: a test of that uses the TCP listener.
* Names are looked up in the zone itself.

Each connection has a thread.  Started as ``python -m tests.bed.socks CONFIG NETNS``: listens on unix
sockets, in the world itself (for chains), and on the loopback of the network namespace NETNS (a descriptor),
which need not be its own.
It writes one line of JSON, ``{"port": …}``, when it listens, and a line of counters for each line read.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import json
import os
import socket
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.bed import places
from tests.bed.dialects import Http, Socks4
from tests.bed.namespaces import network_of
from tests.bed.splicing import Relay
from tests.bed.tornet.socks_client import receive_exactly
from tests.bed.tornet.zone import Zone, reverse_address

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

    def listen(
        self, sock: socket.socket, credentials: list[str] | None, dialect: Socks4 | Http | None = None
    ) -> None:
        sock.listen(1024)

        def accept() -> None:
            while True:
                client, _ = sock.accept()
                threading.Thread(target=self._serve, args=(client, credentials, dialect), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()

    def _serve(
        self, client: socket.socket, credentials: list[str] | None, dialect: Socks4 | Http | None
    ) -> None:
        self._count(open=1, total=1)
        with contextlib.suppress(OSError), client:
            if client.family != socket.AF_UNIX:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not dialect:
                self._greet(client, credentials)
            try:
                asked = dialect.ask(client, self._look_up) if dialect else self._request(client)
                far, reset = self._connect(*asked)
            except Refused as refused:
                refusal = bytes([5, refused.code, 0, 1]) + bytes(6)
                client.sendall(dialect.refusal(refused.code) if dialect else refusal)
            else:
                with far:
                    client.sendall(dialect.success(far) if dialect else _success(far))
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
    for name, dialect in (("socks4", Socks4), ("http", Http)):
        for suffix, credentials in (("", None), ("-auth", config["credentials"])):
            path = os.path.join(os.path.dirname(config["path"]), f"{name}{suffix}")
            server.listen(unix_listener(path), credentials, dialect(credentials))
    for port, credentials in ((places.PROXY, None), (places.PROXY_AUTH, config["credentials"])):
        inside = socket.socket()
        inside.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        inside.bind((places.V4, port))
        server.listen(inside, credentials)
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
