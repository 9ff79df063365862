# SPDX-License-Identifier: GPL-3.0-or-later
"""PySocks without a thread and without a socket: it is called anew with all the bytes that have come.

PySocks 1.7.1 blocks, on a file that it reads.  A negotiation of ours calls it each time some bytes come,
gives it all that have, and drops what it has written before.  It knows no unix sockets and resolves nothing
of ours: we connect. Its SOCKS5 is in socks5.py and its SOCKS4 in socks4a.py.  Its HTTP is of no use: it
leaves the answer's header fields in the stream, and writes IPv6 addresses without brackets (http.py).
"""

from __future__ import annotations

from typing import Any

from avne.ipc.messages import Code
from avne.upstream.base import OpenError


class _PySocks:
    """The module: it takes 10 ms to import, and ``avne run`` needs no more of the kinds than their forms."""

    def __getattr__(self, name: str) -> Any:
        import socks as module

        value = getattr(module, name)
        setattr(self, name, value)
        return value


socks: Any = _PySocks()


class More(Exception):
    """PySocks wants more bytes than have come."""


class Replay:
    """What PySocks takes for the connection and its files: reads what has come, keeps what is written."""

    def __init__(self, came: bytes, ended: bool) -> None:
        self._came = came
        self._ended = ended
        self.at = 0
        self.written = b""

    def makefile(self, *_: Any) -> Replay:
        return self

    def write(self, data: bytes) -> None:
        self.written += data

    def read(self, count: int) -> bytes:
        data = self._came[self.at : self.at + count]
        if not data and not self._ended:
            raise More
        self.at += len(data)
        return data

    def flush(self) -> None: ...
    def close(self) -> None: ...


def open_error(error: Any) -> OpenError:
    """What a `ProxyError` means that is no reply of the proxy."""
    closed = error.msg == "Connection closed unexpectedly"
    return OpenError(Code.UPSTREAM_DOWN if closed else Code.UPSTREAM_PROTOCOL, error.msg)
