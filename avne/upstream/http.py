# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTP proxies: CONNECT (RFC 9110 §9.3.6, RFC 9112 §3.2.3) with Basic authentication (RFC 7617).

Not through PySocks, which does not read the answer to its end (replay.py).  The answer is taken byte for byte
up to the empty line; what follows is the stream's.  Interim answers (1xx) are passed over.
"""

from __future__ import annotations

import base64
import re
from typing import ClassVar, Final

from avne.ipc.messages import Code
from avne.ipc.verdict import Verdict
from avne.limits import MAX_HOST
from avne.upstream.base import Negotiation, OpenError, Reply
from avne.upstream.proxy import Proxy
from avne.upstream.spec import UpstreamSpec

STATUS_BASE: Final = 0x1000  # of `Code`
MAX_HEAD: Final = 16 << 10  # bytes of an answer's status line and header fields
MAX_INTERIM: Final = 8

# RFC 9112 §4; the reason may be missing, and so may its space be.
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[0-9] ([1-9][0-9]{2})(?: [^\r\n]*)?\r?\n")
_END: Final = re.compile(rb"\r?\n\r?\n")


def code_of(status: int) -> int:
    """The code of an HTTP status: its digits are read as hexadecimal ones, so that 403 is 0x1403."""
    return STATUS_BASE + int(str(status), 16)


class Http(Proxy):
    """Any HTTP proxy that allows CONNECT."""

    kind = "http"
    title = "An HTTP proxy"
    form = "http://[USER:PASSWORD@]HOST:PORT or http://unix:PATH"
    credential_limit = 255
    replies: ClassVar = {
        code_of(400): Reply("400", "bad request", Verdict.HOST_UNREACHABLE),
        code_of(401): Reply("401", "unauthorized", Verdict.PROHIBITED),
        code_of(403): Reply("403", "forbidden", Verdict.PROHIBITED),
        code_of(404): Reply("404", "not found", Verdict.HOST_UNREACHABLE),
        code_of(405): Reply("405", "CONNECT is not allowed", Verdict.PROHIBITED),
        Code.UPSTREAM_AUTH: Reply("407", "proxy authentication required", Verdict.PROHIBITED),
        code_of(408): Reply("408", "request timeout", Verdict.SILENCE),
        code_of(421): Reply("421", "misdirected request", Verdict.PROHIBITED),
        code_of(429): Reply("429", "too many requests", Verdict.REFUSED),
        code_of(451): Reply("451", "unavailable for legal reasons", Verdict.PROHIBITED),
        code_of(500): Reply("500", "internal server error", Verdict.REFUSED),
        code_of(501): Reply("501", "not implemented", Verdict.PROHIBITED),
        code_of(502): Reply("502", "bad gateway", Verdict.REFUSED),
        code_of(503): Reply("503", "service unavailable", Verdict.HOST_UNREACHABLE),
        code_of(504): Reply("504", "gateway timeout", Verdict.SILENCE),
    }

    def negotiation(self, host: str, port: int) -> Connect:
        return Connect(self.spec, host, port)


def authority(host: str, port: int) -> str:
    """The request's target, HOST:PORT (RFC 9112 §3.2.3).  Raises `OpenError` for a name that is none."""
    if ":" in host:
        return f"[{host}]:{port}"
    # Letters, digits and what else names are made of: nothing that would end the line, or the host.
    if not re.fullmatch(r"[A-Za-z0-9._~-]+", host) or len(host) > MAX_HOST:
        raise OpenError(Code.BAD_NAME, "a name that HTTP cannot carry")
    return f"{host}:{port}"


class Connect(Negotiation):
    """One request and its answer.  Sans-IO."""

    __slots__ = ("_came", "_interim")

    def __init__(self, spec: UpstreamSpec, host: str, port: int) -> None:
        target = authority(host, port)
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        if spec.username is not None:
            pair = f"{spec.username}:{spec.password}".encode()
            lines.append(f"Proxy-Authorization: Basic {base64.b64encode(pair).decode()}")
        self.output = "".join(f"{line}\r\n" for line in [*lines, ""]).encode()
        self.done = False
        self._came = b""
        self._interim = 0

    def receive(self, data: bytes) -> int:
        self.output = b""
        if not data:
            raise OpenError(Code.UPSTREAM_DOWN, "it closed the connection without an answer")
        before = len(self._came)
        self._came += data
        if not b"HTTP/1.".startswith(self._came[:7]):
            raise OpenError(Code.UPSTREAM_PROTOCOL, "it does not speak HTTP/1")
        end = _END.search(self._came, max(0, before - 3))
        if end is None:
            if len(self._came) > MAX_HEAD:
                raise OpenError(Code.UPSTREAM_PROTOCOL, "its answer's header has no end")
            return len(data)
        taken = end.end() - before
        self._answered(self._came)
        self._came = b""
        return taken

    def _answered(self, head: bytes) -> None:
        line = _STATUS_LINE.match(head)
        if line is None:
            raise OpenError(Code.UPSTREAM_PROTOCOL, "its status line is none")
        status = int(line[1])
        if status < 200 and status != 101:
            self._interim += 1
            if self._interim > MAX_INTERIM:
                raise OpenError(Code.UPSTREAM_PROTOCOL, "it sends interim answers without end")
        elif status == 407:
            raise OpenError(Code.UPSTREAM_AUTH, "HTTP status 407")
        elif not 200 <= status < 300:
            raise OpenError(code_of(status), f"HTTP status {status}")
        else:
            self.done = True
