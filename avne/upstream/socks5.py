# SPDX-License-Identifier: GPL-3.0-or-later
"""SOCKS5 (RFC 1928, RFC 1929) through PySocks, which is replayed (replay.py).

PySocks 1.7.1 knows the protocol, and needs these guards beyond those of replay.py:

* it writes a length byte above 127 as two: a destination's name of 128 bytes or more would shift
  the request, and the guest chooses that name.  `_write_SOCKS5_address` is replaced; credentials
  are bounded when they are parsed;
* its refusals are texts that begin with the reply's number: `_open_error` reads it back.

A reply is read to the byte, so what follows on the connection is the stream's.
Nothing here resolves a destination's name.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Any, ClassVar, Final, NamedTuple

from avne.ipc.messages import Code
from avne.ipc.verdict import Verdict
from avne.limits import MAX_HOST
from avne.upstream.base import Negotiation, OpenError, Reply
from avne.upstream.proxy import Proxy
from avne.upstream.replay import More, Replay, open_error, socks
from avne.upstream.spec import UpstreamSpec

MAX_CREDENTIAL: Final = 127  # bytes; PySocks corrupts longer ones (RFC 1929 would allow 255)
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
        raise OpenError(Code.UPSTREAM_DOWN, error.strerror or "failed") from None
    if not is_method_reply(data):
        raise OpenError(Code.UPSTREAM_PROTOCOL, "it does not speak SOCKS5")
    return data[1]


class Socks5(Proxy):
    """Any SOCKS5 server."""

    kind = "socks5"
    title = "A plain SOCKS5 server"
    form = "socks5://[USER:PASSWORD@]HOST:PORT or socks5://[USER:PASSWORD@]unix:PATH"
    credential_limit = MAX_CREDENTIAL
    replies: ClassVar = {
        Code.GENERAL_FAILURE: Reply("01", "general failure", Verdict.REFUSED),
        Code.NOT_ALLOWED: Reply("02", "not allowed", Verdict.PROHIBITED),
        Code.NETWORK_UNREACHABLE: Reply("03", "network unreachable", Verdict.NETWORK_UNREACHABLE),
        Code.HOST_UNREACHABLE: Reply("04", "host unreachable", Verdict.HOST_UNREACHABLE),
        Code.CONNECTION_REFUSED: Reply("05", "connection refused", Verdict.REFUSED),
        Code.TTL_EXPIRED: Reply("06", "TTL expired", Verdict.SILENCE),
        Code.COMMAND_NOT_SUPPORTED: Reply("07", "command not supported", Verdict.REFUSED),
        Code.ADDRESS_TYPE_NOT_SUPPORTED: Reply(
            "08", "address type not supported", Verdict.NETWORK_UNREACHABLE
        ),
    }

    def prepare(self) -> None:
        _ = socks.socksocket

    def greet(self, sock: socket.socket) -> None:
        if greet(sock, self.spec) == _REFUSED_METHODS:
            raise OpenError(Code.UPSTREAM_AUTH, "it accepts none of our authentication methods")

    def negotiation(self, host: str, port: int) -> Dialogue:
        return Dialogue(self.spec, COMMAND_CONNECT, host, port)


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


class _Replied(Exception):
    """PySocks has read a successful reply with this address."""

    def __init__(self, bound: str | bytes) -> None:
        self.bound = bound


class Learnt(NamedTuple):
    """What PySocks did with the same bytes before."""

    taken: int  # of what had come
    asked: int  # how much of it was before the reply; 0 if it has not asked yet
    written: bytes  # up to the address


_LEARN: Final = 64  # of those: there are two or three for each proxy and command
_GREETINGS: Final = 4  # bytes of the proxy before the reply, at most
_USUAL_REPLY: Final = b"\x05\x00\x00\x01"  # a success with an IPv4 address
_learnt: dict[tuple[object, bytes, bytes], Learnt] = {}


class Dialogue(Negotiation):
    """One request.  The reply's BND.ADDR is text (ATYP 1 and 4) or a name's bytes (ATYP 3).  Sans-IO.

    To call PySocks anew for each piece costs 20 µs each: what it said the last time is said again.
    """

    __slots__ = ("_address", "_asked", "_came", "_command", "_port", "_sent", "_taken", "_written", "bound",
                 "proxy")  # fmt: skip

    def __init__(self, spec: UpstreamSpec, command: int, host: str, port: int) -> None:
        name, password = (text.encode() if text else None for text in (spec.username, spec.password))
        self.proxy = socks.SOCKS5, "-", 1, True, name, password
        self._command = bytes((command,))
        self._address = encode_address(host)
        self._port = port
        self._came = b""
        self._sent = 0
        self._taken = 0  # of what came
        self._asked = 0  # of that, before the reply
        self._written = b""  # before the address
        self.done = False
        self.bound: str | bytes = ""
        if not self._recall():
            self._replay(False)

    @property
    def has_asked(self) -> bool:
        return self._asked > 0

    def receive(self, data: bytes) -> int:
        before = len(self._came)
        self._came += data
        if not data or not self._recall():
            self._replay(not data)
        self._came = self._came[: self._taken]
        return self._taken - before

    def _recall(self) -> bool:
        """Whether it is known what follows."""
        came, asked = self._came, self._asked
        if asked and came.startswith(_USUAL_REPLY, asked) and len(came) >= asked + 10:
            self.bound, self.done = socket.inet_ntoa(came[asked + 4 : asked + 8]), True
            self._taken = asked + 10
            self.output = b""
            return True
        learnt = _learnt.get((self.proxy, self._command, came))
        if learnt is None:
            return False
        self._taken, self._asked, written = learnt
        if self._asked:
            written += self._address + self._port.to_bytes(2, "big")
        self.output = written[self._sent :]
        self._sent = len(written)
        return True

    def _replay(self, ended: bool) -> None:
        replay = Replay(self._came, ended)
        try:
            socks.socksocket._SOCKS5_request(self, replay, self._command, (self._address, self._port))
        except More:
            if len(self._came) <= _GREETINGS:
                if len(_learnt) >= _LEARN:
                    del _learnt[next(iter(_learnt))]  # of credentials that are used no more, perhaps
                written = self._written if self._asked else replay.written
                _learnt[self.proxy, self._command, self._came] = Learnt(replay.at, self._asked, written)
        except _Replied as replied:
            self.bound, self.done = replied.bound, True
        except socks.ProxyError as error:
            raise _open_error(error) from None
        self._taken = replay.at
        self.output = replay.written[self._sent :]
        self._sent = len(replay.written)

    # What PySocks calls on the object that it takes for its socket.

    def _readall(self, file: Replay, count: int) -> bytes:
        data: bytes = socks.socksocket._readall(self, file, count)
        return data

    def _write_SOCKS5_address(self, addr: tuple[bytes, int], file: Replay) -> tuple[bytes, int]:
        address, port = addr
        self._asked, self._written = file.at, file.written
        file.write(address + port.to_bytes(2, "big"))
        return addr

    def _read_SOCKS5_address(self, file: Replay) -> None:
        bound, _ = socks.socksocket._read_SOCKS5_address(self, file)
        raise _Replied(bound)


def _open_error(error: Any) -> OpenError:
    """What a failed negotiation means."""
    if isinstance(error, socks.SOCKS5Error):
        code = int(error.msg.partition(":")[0], 16)  # "0xNN: TEXT"; it knows no text for 0xF0 and above
        known = code in Code.__members__.values()
        return OpenError(code, Code(code).name.lower().replace("_", " ") if known else f"reply {code:#04x}")
    if isinstance(error, socks.SOCKS5AuthError):
        return OpenError(Code.UPSTREAM_AUTH, error.msg)
    return open_error(error)
