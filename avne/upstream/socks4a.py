# SPDX-License-Identifier: GPL-3.0-or-later
"""SOCKS4 with names (SOCKS4A, Ying-Da Lee's notes of 1998) through PySocks, which is replayed (replay.py).

The guards it needs: it takes names such as ``127.1`` for addresses (inet_aton(3)), and it would send an IPv6
address, which SOCKS4 has no place for, as a name.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Any, ClassVar, Final

from avne.ipc.messages import Code
from avne.ipc.verdict import Verdict
from avne.limits import MAX_HOST
from avne.upstream.base import Negotiation, OpenError, Reply
from avne.upstream.proxy import Proxy
from avne.upstream.replay import More, Replay, open_error, socks
from avne.upstream.spec import UpstreamSpec

REPLY_BASE: Final = 0x400  # of `Code`


class Socks4a(Proxy):
    """Any SOCKS4A server.  A user name is sent as USERID."""

    kind = "socks4a"
    title = "A SOCKS4A server"
    form = "socks4a://[USER@]HOST:PORT or socks4a://unix:PATH"
    credential_limit = 255
    password_needed = False
    replies: ClassVar = {
        REPLY_BASE + 0x5B: Reply("5b", "rejected or failed", Verdict.REFUSED),
        REPLY_BASE + 0x5C: Reply("5c", "no identd answers for us", Verdict.PROHIBITED),
        REPLY_BASE + 0x5D: Reply("5d", "identd names another user", Verdict.PROHIBITED),
        Code.ADDRESS_TYPE_NOT_SUPPORTED: Reply(
            "–", "an IPv6 address, which it cannot carry", Verdict.NETWORK_UNREACHABLE
        ),
    }

    def prepare(self) -> None:
        _ = socks.socksocket

    def negotiation(self, host: str, port: int) -> Request:
        return Request(self.spec, host, port)


def _checked(host: str) -> str:
    """`host`, if a request can carry it, and means it.  Raises `OpenError`."""
    if ":" in host:
        raise OpenError(Code.ADDRESS_TYPE_NOT_SUPPORTED, "SOCKS4 has no IPv6 addresses")
    labels = host.rstrip(".").split(".")
    plain = host.isascii() and host.isprintable() and " " not in host and 1 <= len(host) <= MAX_HOST
    if not plain or not all(1 <= len(label) <= 63 for label in labels):
        raise OpenError(Code.BAD_NAME, "a name that SOCKS4 cannot carry")
    with contextlib.suppress(OSError):
        socket.inet_pton(socket.AF_INET, host)
        return host
    with contextlib.suppress(OSError):
        socket.inet_aton(host)
        raise OpenError(Code.BAD_NAME, "a name that SOCKS4 would take for an address")
    return host


class Request(Negotiation):
    """One request and its reply of 8 bytes.  Sans-IO."""

    __slots__ = ("_came", "_host", "_port", "_replay", "_sent", "proxy", "proxy_peername", "proxy_sockname")

    def __init__(self, spec: UpstreamSpec, host: str, port: int) -> None:
        name = spec.username.encode() if spec.username else None
        self.proxy = socks.SOCKS4, "-", 1, True, name, None
        self._host = _checked(host)
        self._port = port
        self._came = b""
        self._sent = 0
        self.done = False
        self._proceed(False)

    def receive(self, data: bytes) -> int:
        before = len(self._came)
        self._came += data
        self._proceed(not data)
        self._came = self._came[: self._replay.at]
        return self._replay.at - before

    def _proceed(self, ended: bool) -> None:
        self._replay = Replay(self._came, ended)
        try:
            socks.socksocket._negotiate_SOCKS4(self, self._host, self._port)
        except More:
            pass
        except socks.SOCKS4Error as error:
            code = int(error.msg.partition(":")[0], 16)
            raise OpenError(REPLY_BASE + code, f"SOCKS4 reply {code:#04x}") from None
        except socks.ProxyError as error:
            raise open_error(error) from None
        else:
            self.done = True
        self.output = self._replay.written[self._sent :]
        self._sent = len(self._replay.written)

    # What PySocks calls on the object that it takes for its socket.

    def _readall(self, file: Replay, count: int) -> bytes:
        data: bytes = socks.socksocket._readall(self, file, count)
        return data

    def makefile(self, *_: Any) -> Replay:
        return self._replay
