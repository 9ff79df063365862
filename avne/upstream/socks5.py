# SPDX-License-Identifier: GPL-3.0-or-later
"""SOCKS5 (RFC 1928, RFC 1929) through PySocks, which stays in this one file.

PySocks 1.7.1 knows the protocol, and needs these guards:

* it blocks, on a file that it reads: `Dialogue` calls it anew with all the bytes that have come, each time
  some come, and drops what it has written before.  So it takes no thread and no socket;
* it writes a length byte above 127 as two: a destination's name of 128 bytes or more would shift
  the request, and the guest chooses that name.  `_write_SOCKS5_address` is replaced; credentials
  are bounded by `spec`;
* it knows no unix sockets and resolves nothing of ours: we connect;
* its refusals are texts that begin with the reply's number: `_open_error` reads it back.

A reply is read to the byte, so what follows on the connection is the stream's.
Nothing here resolves a destination's name.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import Any, Final

import socks

from avne.confine.rules import call, one_of
from avne.confine.runtime import NONBLOCKING, SENDTO
from avne.ipc.messages import Capability, Code
from avne.limits import MAX_HOST
from avne.upstream import way
from avne.upstream.base import Attempt, Negotiation, OpenError, Upstream
from avne.upstream.spec import UpstreamSpec

CONNECT_TIMEOUT: Final = 10.0  # to the proxy
CHECK_TIMEOUT: Final = 10.0
REPLY_TIMEOUT: Final = 130.0  # Tor gives up by itself after 127 s at most
LARGEST_REPLY: Final = 4 + 1 + MAX_HOST + 2  # bytes

COMMAND_CONNECT: Final = 0x01

# And what makes the socket, which depends on where the proxy is (confinement.py).
SYSCALLS: Final = (
    "connect", SENDTO, "recvfrom", "shutdown", "close", "poll", "ppoll", NONBLOCKING,
    call("getsockopt", one_of(1, socket.SOL_SOCKET), one_of(2, socket.SO_ERROR)),
    call("setsockopt", one_of(1, socket.IPPROTO_TCP), one_of(2, socket.TCP_NODELAY)),
    call("setsockopt", one_of(1, socket.SOL_SOCKET), one_of(2, socket.SO_OOBINLINE)),
)  # fmt: skip

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
            _tune(sock)
            return sock
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout)
            way.connect(sock, spec.address)
        except BaseException:
            sock.close()
            raise
        return sock
    except OSError as error:
        raise OpenError(Code.UPSTREAM_DOWN, _reason(error)) from None


def _tune(sock: socket.socket) -> None:
    """A program's writes are passed on as they come, and urgent data in its place (RFC 6093 §5)."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)


def _connect_tcp(address: tuple[str, int], timeout: float) -> socket.socket:
    if not is_address(address[0]):
        return socket.create_connection(address, timeout)
    # Without the getaddrinfo(3) of each connection, for which a worker that locks itself in has no files.
    sock = socket.socket(_family(address[0]))
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

    def dialogue(self, host: str, port: int) -> Dialogue | None:
        # The name of a proxy is for a thread to look up.
        if isinstance(self.spec.address, tuple) and not is_address(self.spec.address[0]):
            return None
        return Dialogue(self.spec, COMMAND_CONNECT, host, port)

    def knock(self) -> socket.socket:
        address = self.spec.address
        if isinstance(address, str):
            return _connecting(socket.AF_UNIX, address)
        if is_address(address[0]):
            return _connecting(_family(address[0]), address)
        # A name was looked up by `check` a moment ago, or is in /etc/hosts.
        family, _, _, _, target = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
        return _connecting(family, target)

    def _request(
        self, command: int, host: str, port: int, attempt: Attempt
    ) -> tuple[socket.socket, str | bytes]:
        """The connection after a successful reply, and the reply's BND.ADDR.  Blocks."""
        dialogue = Dialogue(self.spec, command, host, port)
        with contextlib.ExitStack() as stack:
            sock = stack.enter_context(connect(self.spec, CONNECT_TIMEOUT))
            try:
                attempt.use(sock)
                sock.settimeout(REPLY_TIMEOUT)
                while not dialogue.done:
                    sock.sendall(dialogue.output)
                    sock.recv(dialogue.receive(sock.recv(LARGEST_REPLY, socket.MSG_PEEK)))
            except OSError as error:
                raise _open_error(error) from None
            finally:
                attempt.release()
            stack.pop_all()
        sock.setblocking(False)
        return sock, dialogue.bound


def is_address(host: str) -> bool:
    """Whether `host` is an IP address, and no name."""
    return ":" in host or host.replace(".", "").isdigit()


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _connecting(family: int, target: str | tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        if isinstance(target, str):
            way.connect(sock, target)
        else:
            _tune(sock)
            sock.connect(target)
    except OSError as error:
        if error.errno != errno.EINPROGRESS:  # EAGAIN is a unix socket's full backlog
            sock.close()
            raise
    return sock


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


class _More(Exception):
    """PySocks wants more bytes than have come."""


class _Replied(Exception):
    """PySocks has read a successful reply with this address."""

    def __init__(self, bound: str | bytes) -> None:
        self.bound = bound


class _Replay:
    """What PySocks takes for the connection and its files: reads what has come, keeps what is written."""

    def __init__(self, came: bytes, ended: bool) -> None:
        self._came = came
        self._ended = ended
        self.at = 0
        self.written = b""

    def makefile(self, *_: Any) -> _Replay:
        return self

    def write(self, data: bytes) -> None:
        self.written += data

    def read(self, count: int) -> bytes:
        data = self._came[self.at : self.at + count]
        if not data and not self._ended:
            raise _More
        self.at += len(data)
        return data

    def flush(self) -> None: ...
    def close(self) -> None: ...


class Dialogue(Negotiation):
    """One request.  The reply's BND.ADDR is text (ATYP 1 and 4) or a name's bytes (ATYP 3).  Sans-IO."""

    __slots__ = ("_address", "_came", "_command", "_port", "_sent", "_taken", "bound", "proxy")

    def __init__(self, spec: UpstreamSpec, command: int, host: str, port: int) -> None:
        name, password = (text.encode() if text else None for text in (spec.username, spec.password))
        self.proxy = socks.SOCKS5, "-", 1, True, name, password
        self._command = bytes((command,))
        self._address = encode_address(host)
        self._port = port
        self._came = b""
        self._sent = 0
        self._taken = 0  # of what came
        self.done = False
        self.bound: str | bytes = ""
        self._proceed(False)

    def receive(self, data: bytes) -> int:
        before = len(self._came)
        self._came += data
        self._proceed(not data)
        self._came = self._came[: self._taken]
        return self._taken - before

    def _proceed(self, ended: bool) -> None:
        replay = _Replay(self._came, ended)
        try:
            socks.socksocket._SOCKS5_request(self, replay, self._command, (self._address, self._port))
        except _More:
            pass
        except _Replied as replied:
            self.bound, self.done = replied.bound, True
        except socks.ProxyError as error:
            raise _open_error(error) from None
        self._taken = replay.at
        self.output = replay.written[self._sent :]
        self._sent = len(replay.written)

    # What PySocks calls on the object that it takes for its socket.

    _readall = socks.socksocket._readall

    def _write_SOCKS5_address(self, addr: tuple[bytes, int], file: _Replay) -> tuple[bytes, int]:
        address, port = addr
        file.write(address + port.to_bytes(2, "big"))
        return addr

    def _read_SOCKS5_address(self, file: _Replay) -> None:
        bound, _ = socks.socksocket._read_SOCKS5_address(self, file)
        raise _Replied(bound)


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
