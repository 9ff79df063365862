# SPDX-License-Identifier: GPL-3.0-or-later
"""The server's side of SOCKS5 (RFC 1928) and of HTTP's CONNECT (RFC 9110 §9.3.6), without a socket.

Feed what the client sends to `receive` until `wanted` is there, the destination, or `over`: it gets no
further.  Either way send `output`.  `reply` makes the last word before the bytes of the connection itself, or
instead of them.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final, NamedTuple

from avne.ipc.verdict import Verdict

MAX_HEAD: Final = 8192  # bytes of a request (RFC 9112 §3 wants 8,000 at least)

# SOCKS5.
_VERSION: Final = 5
_NO_AUTHENTICATION, _NO_METHOD = 0, 0xFF
_CONNECT: Final = 1
_ADDRESS_SIZES: Final = {1: 4, 4: 16}
_NAME: Final = 3
_FAILURE, _BAD_COMMAND, _BAD_ADDRESS_TYPE = 1, 7, 8
_REPLIES: Final = {
    Verdict.REFUSED: 5,
    Verdict.NETWORK_UNREACHABLE: 3,
    Verdict.HOST_UNREACHABLE: 4,
    Verdict.PROHIBITED: 2,
    Verdict.SILENCE: 6,
}

# HTTP: status, reason, and the error type of RFC 9209 §2.3.
_STATUS: Final = {
    Verdict.REFUSED: ("502 Bad Gateway", "connection_refused"),
    Verdict.NETWORK_UNREACHABLE: ("502 Bad Gateway", "destination_ip_unroutable"),
    Verdict.HOST_UNREACHABLE: ("502 Bad Gateway", "destination_unavailable"),
    Verdict.PROHIBITED: ("403 Forbidden", "destination_ip_prohibited"),
    Verdict.SILENCE: ("504 Gateway Timeout", "connection_timeout"),
}
_REQUEST_LINE: Final = re.compile(rb"([!-~]+) ([!-~]+) HTTP/1\.[0-9]")
_AUTHORITY: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:/@?#]+)):([0-9]{1,5})")


class Destination(NamedTuple):
    """Where a client wants to go: an `address` of 4 or 16 bytes, or else a `name` as it was sent."""

    address: bytes | None
    name: str
    port: int


class Handshake:
    """What both have in common."""

    def __init__(self) -> None:
        self.output = b""
        self.wanted: Destination | None = None
        self.over = False
        self._data = b""

    @property
    def rest(self) -> bytes:
        """What came behind the request: the destination's."""
        return self._data

    def receive(self, data: bytes) -> None:
        """The client's next bytes, as they come."""
        self._data += data
        if not self._read() and len(self._data) > MAX_HEAD:
            self._refuse_size()

    def reply(self, verdict: Verdict | None) -> bytes:
        """The answer to the request; None: there is a connection."""
        raise NotImplementedError

    def no_way(self) -> bytes:
        """The answer where there is nobody to carry it."""
        raise NotImplementedError

    def _read(self) -> bool:
        """Whether the request is whole, or can be none."""
        raise NotImplementedError

    def _refuse_size(self) -> None:
        raise NotImplementedError

    def _refuse(self, answer: bytes) -> bool:
        self.output += answer
        self.over = True
        return True


class Socks5(Handshake):
    """No authentication, and CONNECT only."""

    def __init__(self) -> None:
        super().__init__()
        self._greeted = False

    def reply(self, verdict: Verdict | None) -> bytes:
        return _socks_reply(0 if verdict is None else _REPLIES[verdict])

    def no_way(self) -> bytes:
        return _socks_reply(_FAILURE)

    def _read(self) -> bool:
        if self._data and self._data[0] != _VERSION:  # SOCKS4, HTTP …: no word of ours would be understood
            return self._refuse(b"")
        if not self._greeted:
            if len(self._data) < 2 or len(self._data) < 2 + self._data[1]:
                return False
            methods, self._data = self._data[2 : 2 + self._data[1]], self._data[2 + self._data[1] :]
            if _NO_AUTHENTICATION not in methods:
                return self._refuse(bytes((_VERSION, _NO_METHOD)))
            self._greeted = True
            self.output += bytes((_VERSION, _NO_AUTHENTICATION))
            return self._read()
        return self._request()

    def _request(self) -> bool:
        """RFC 1928 §4: version, command, a zero, type of address, address, port."""
        data = self._data
        if len(data) < 5:
            return False
        command, kind = data[1], data[3]
        start = 5 if kind == _NAME else 4
        size = data[4] if kind == _NAME else _ADDRESS_SIZES.get(kind)
        if size is None:
            return self._refuse(_socks_reply(_BAD_ADDRESS_TYPE))
        end = start + size
        if len(data) < end + 2:
            return False
        if command != _CONNECT:
            return self._refuse(_socks_reply(_BAD_COMMAND))
        host, port = data[start:end], int.from_bytes(data[end : end + 2], "big")
        self._data = data[end + 2 :]
        if kind == _NAME:
            self.wanted = _destination(host.decode("latin-1"), port)
        else:
            self.wanted = Destination(host, "", port)
        return True

    def _refuse_size(self) -> None:
        self._refuse(b"")


class Connect(Handshake):
    """HTTP/1.x; a request's fields say nothing to us."""

    def reply(self, verdict: Verdict | None) -> bytes:
        if verdict is None:
            return b"HTTP/1.1 200 Connection Established\r\n\r\n"
        status, error = _STATUS[verdict]
        return _http(status, f"Proxy-Status: avne; error={error}\r\n")

    def no_way(self) -> bytes:
        return _http("503 Service Unavailable", "Proxy-Status: avne; error=proxy_internal_error\r\n")

    def _read(self) -> bool:
        end = re.search(rb"\r?\n\r?\n", self._data)  # a lone LF is a line's end as well (RFC 9112 §2.2)
        if end is None or end.end() > MAX_HEAD:
            return False
        line = self._data.lstrip(b"\r\n").split(b"\n", 1)[0].rstrip(b"\r")
        self._data = self._data[end.end() :]
        request = _REQUEST_LINE.fullmatch(line)
        if request is None:
            return self._refuse(_http("400 Bad Request"))
        if request[1] != b"CONNECT":
            return self._refuse(_http("405 Method Not Allowed", "Allow: CONNECT\r\n"))
        authority = _AUTHORITY.fullmatch(request[2].decode("ascii"))
        if authority is None or int(authority[3]) > 65535:
            return self._refuse(_http("400 Bad Request"))
        self.wanted = _destination(authority[1] or authority[2], int(authority[3]))
        return True

    def _refuse_size(self) -> None:
        self._refuse(_http("431 Request Header Fields Too Large"))


def _destination(host: str, port: int) -> Destination:
    """Also a name may be an address as text."""
    try:
        return Destination(ipaddress.ip_address(host).packed, "", port)
    except ValueError:
        return Destination(None, host, port)


def _socks_reply(code: int) -> bytes:
    """RFC 1928 §6, without a bound address: there is none to tell."""
    return bytes((_VERSION, code, 0, 1)) + bytes(6)


def _http(status: str, fields: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\n{fields}Content-Length: 0\r\nConnection: close\r\n\r\n".encode()
