# SPDX-License-Identifier: GPL-3.0-or-later
"""The other protocols of the world's proxy: SOCKS4A and HTTP CONNECT.  What they reach is socks.py's."""

from __future__ import annotations

import base64
import socket
import struct
from collections.abc import Callable

from tests.bed.tornet.socks_client import receive_exactly

LookUp = Callable[[str], list[str]]
# A SOCKS5 reply as an HTTP status, as common proxies have it.
STATUS = {1: 500, 2: 403, 3: 503, 4: 503, 5: 502, 6: 504, 7: 405, 8: 400}


class Unwelcome(ConnectionError):
    """It was told so already."""


def _until_nul(client: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\0"):
        data += receive_exactly(client, 1)
    return data[:-1]


class Socks4:
    """With names: the address 0.0.0.x says that one follows."""

    def __init__(self, credentials: list[str] | None) -> None:
        self._credentials = credentials

    def ask(self, client: socket.socket, look_up: LookUp) -> tuple[list[str], int]:
        version, command, port = struct.unpack("!BBH", receive_exactly(client, 4))
        address = receive_exactly(client, 4)
        user = _until_nul(client).decode()
        named = address[:3] == bytes(3) and address[3]
        name = _until_nul(client).decode("ascii") if named else socket.inet_ntoa(address)
        if (version, command) != (4, 1):
            raise ConnectionError("no SOCKS4 CONNECT")
        if self._credentials and user != self._credentials[0]:
            client.sendall(b"\0\x5d" + bytes(6))
            raise Unwelcome(user)
        return look_up(name), port

    def success(self, far: socket.socket) -> bytes:
        return b"\0\x5a" + bytes(6)

    def refusal(self, code: int) -> bytes:
        return b"\0\x5b" + bytes(6)


class Http:
    """CONNECT only."""

    def __init__(self, credentials: list[str] | None) -> None:
        pair = ":".join(credentials or []).encode()
        self._wanted = f"Basic {base64.b64encode(pair).decode()}" if credentials else None

    def ask(self, client: socket.socket, look_up: LookUp) -> tuple[list[str], int]:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += receive_exactly(client, 1)
        first, *rest = head.decode("ascii").split("\r\n")
        fields = dict(line.split(": ", 1) for line in rest if line)
        method, target, version = first.split(" ")
        if (method, version, fields["Host"]) != ("CONNECT", "HTTP/1.1", target):
            raise ConnectionError("no CONNECT")
        if self._wanted and fields.get("Proxy-Authorization") != self._wanted:
            client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            raise Unwelcome(target)
        host, _, port = target.rpartition(":")
        return look_up(host.strip("[]")), int(port)

    def success(self, far: socket.socket) -> bytes:
        return b"HTTP/1.1 200 Connection established\r\nVia: 1.1 bed\r\n\r\n"

    def refusal(self, code: int) -> bytes:
        return f"HTTP/1.1 {STATUS[code]} No\r\nContent-Length: 2\r\n\r\nno".encode()
