# SPDX-License-Identifier: GPL-3.0-or-later
"""SOCKS5 (RFC 1928, RFC 1929) through PySocks, which stays in this one file.

PySocks 1.7.1 does the negotiation, and needs these guards:

* it writes a length byte above 127 as two: a destination's name of 128 bytes or more would shift
  the request, and the guest chooses that name.  `_write_SOCKS5_address` is replaced; credentials
  are bounded by `spec`;
* it knows no unix sockets and resolves nothing of ours: we connect, and it only negotiates;
* its refusals are texts that begin with the reply's number: `_open_error` reads it back.

It reads the reply unbuffered and to the byte, so what follows on the connection is the stream's.
Nothing here resolves a destination's name.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Any, Final

import socks

from avne.ipc.messages import Capability, Code
from avne.limits import MAX_HOST
from avne.upstream.base import Attempt, OpenError, Upstream
from avne.upstream.spec import UpstreamSpec

CONNECT_TIMEOUT: Final = 10.0  # to the proxy
CHECK_TIMEOUT: Final = 10.0
REPLY_TIMEOUT: Final = 130.0  # Tor gives up by itself after 127 s at most

COMMAND_CONNECT: Final = 0x01

ANONYMOUS_GREETING: Final = b"\x05\x01\x00"  # VER, NMETHODS, "no authentication"
_WITH_PASSWORD: Final = b"\x05\x02\x00\x02"
_REFUSED_METHODS: Final = 0xFF


def greeting(spec: UpstreamSpec) -> bytes:
    """The first message to a SOCKS5 server (RFC 1928 §3)."""
    return ANONYMOUS_GREETING if spec.username is None else _WITH_PASSWORD


def is_method_reply(data: bytes) -> bool:
    """Whether `data` is a SOCKS5 server's answer to a greeting."""
    return len(data) == 2 and data[0] == 5 and data[1] in (0x00, 0x02, _REFUSED_METHODS)


def greet(sock: socket.socket, spec: UpstreamSpec) -> int:
    """Exchange greetings on a connected socket; gives the method.  Raises `OpenError`."""
    data = b""
    try:
        sock.sendall(greeting(spec))
        while len(data) < 2:
            more = sock.recv(2 - len(data))
            if not more:
                raise OpenError(Code.UPSTREAM_PROTOCOL, "it closed the connection at our greeting")
            data += more
    except TimeoutError:
        raise OpenError(Code.UPSTREAM_TIMEOUT, "it did not answer our greeting") from None
    except OSError as error:
        raise OpenError(Code.UPSTREAM_DOWN, _reason(error)) from None
    if not is_method_reply(data):
        raise OpenError(Code.UPSTREAM_PROTOCOL, "it does not speak SOCKS5")
    return data[1]


def connect(spec: UpstreamSpec, timeout: float) -> socket.socket:
    """A connection to the proxy itself.  Raises `OpenError`."""
    try:
        if isinstance(spec.address, tuple):
            sock = _connect_tcp(spec.address, timeout)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout)
            sock.connect(spec.address)
        except BaseException:
            sock.close()
            raise
        return sock
    except OSError as error:
        raise OpenError(Code.UPSTREAM_DOWN, _reason(error)) from None


def _connect_tcp(address: tuple[str, int], timeout: float) -> socket.socket:
    if ":" in address[0] or not address[0].replace(".", "").isdigit():
        return socket.create_connection(address, timeout)
    # Without the getaddrinfo(3) of each connection, for an IPv4 address: the usual case.
    sock = socket.socket()
    try:
        sock.settimeout(timeout)
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


class Socks5(Upstream):
    """Any SOCKS5 server."""

    kind = "socks5"
    capabilities = Capability.HALF_CLOSE

    def __init__(self, spec: UpstreamSpec) -> None:
        self.spec = spec

    def check(self) -> None:
        with connect(self.spec, CONNECT_TIMEOUT) as sock:
            sock.settimeout(CHECK_TIMEOUT)
            if greet(sock, self.spec) == _REFUSED_METHODS:
                raise OpenError(Code.UPSTREAM_AUTH, "it accepts none of our authentication methods")

    def open(self, host: str, port: int, attempt: Attempt) -> socket.socket:
        sock, _ = self._request(COMMAND_CONNECT, host, port, attempt)
        return sock

    def _request(
        self, command: int, host: str, port: int, attempt: Attempt
    ) -> tuple[socket.socket, str | bytes]:
        """The connection after a successful reply, and the reply's BND.ADDR.

        The address is text (ATYP 1 and 4) or a name's bytes (ATYP 3).
        """
        address = encode_address(host)
        with contextlib.ExitStack() as stack:
            sock = stack.enter_context(_Negotiator(connect(self.spec, CONNECT_TIMEOUT), self.spec))
            try:
                attempt.use(sock)
                bound = sock.request(command, address, port)
            except (OSError, socks.ProxyError) as error:
                raise _open_error(error) from None
            finally:
                attempt.release()
            stack.pop_all()
            plain = socket.socket(sock.family, sock.type, 0, sock.detach())
            plain.setblocking(False)
            return plain, bound


def encode_address(host: str) -> bytes:
    """ATYP and DST.ADDR (RFC 1928 §5).  Raises `OpenError` (BAD_NAME) for what no request can carry.

    A name's bytes are sent as they are: a resolver's names are ASCII already (RFC 5890 A-labels).
    """
    for atyp, family in ((b"\x01", socket.AF_INET), (b"\x04", socket.AF_INET6)):
        with contextlib.suppress(OSError, ValueError):
            return atyp + socket.inet_pton(family, host)
    if not (host.isascii() and host.isprintable() and " " not in host and 1 <= len(host) <= MAX_HOST):
        raise OpenError(Code.BAD_NAME, "a name that SOCKS5 cannot carry")
    return b"\x03" + bytes((len(host),)) + host.encode()


class _Negotiator(socks.socksocket):  # type: ignore[misc]
    """A connected socket while PySocks negotiates on it."""

    def __init__(self, sock: socket.socket, spec: UpstreamSpec) -> None:
        super().__init__(sock.family, sock.type, 0, sock.detach())
        # The base class: PySocks' own does nothing on a connection that its peer has reset.
        socket.socket.settimeout(self, REPLY_TIMEOUT)
        self._timeout = REPLY_TIMEOUT
        self.set_proxy(socks.SOCKS5, "-", 1, True, spec.username, spec.password)

    def request(self, command: int, address: bytes, port: int) -> str | bytes:
        """One request; gives the reply's address.  Raises `OSError` or `socks.ProxyError`."""
        _, (bound, _) = self._SOCKS5_request(self, bytes((command,)), (address, port))
        assert isinstance(bound, str | bytes)
        return bound

    def _write_SOCKS5_address(self, addr: tuple[bytes, int], file: Any) -> tuple[bytes, int]:
        address, port = addr
        file.write(address + port.to_bytes(2, "big"))
        return addr


def _open_error(error: Exception) -> OpenError:
    """What a failed negotiation means."""
    if isinstance(error, socks.SOCKS5Error):
        code = int(error.msg.partition(":")[0], 16)  # "0xNN: TEXT"; it knows no text for 0xF0 and above
        known = code in Code.__members__.values()
        return OpenError(code, Code(code).name.lower().replace("_", " ") if known else f"reply {code:#04x}")
    if isinstance(error, socks.SOCKS5AuthError):
        return OpenError(Code.UPSTREAM_AUTH, error.msg)
    if isinstance(error, socks.GeneralProxyError):
        closed = error.msg == "Connection closed unexpectedly"
        return OpenError(Code.UPSTREAM_DOWN if closed else Code.UPSTREAM_PROTOCOL, error.msg)
    if isinstance(error, TimeoutError):
        return OpenError(Code.UPSTREAM_TIMEOUT, "it did not answer in time")
    assert isinstance(error, OSError)
    return OpenError(Code.UPSTREAM_DOWN, _reason(error))


def _reason(error: OSError) -> str:
    return "it did not answer in time" if isinstance(error, TimeoutError) else error.strerror or "failed"
