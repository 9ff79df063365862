# SPDX-License-Identifier: GPL-3.0-or-later
"""The environment's own pages, for the program inside: ``http://avne.internal/``.

Served by the worker itself: nothing of it leaves the machine.  The program may be hostile, so it is told what
it could find out anyway: that it is in an environment, which one, of what kind its upstream is, and what was
opened for it.  No address of a proxy, no rule, no path.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from avne.ipc.messages import Capability, Code
from avne.ipc.verdict import Verdict
from avne.upstream.base import Log, OpenError, Reply, Service, Upstream
from avne.upstream.patterns import OWN_NAME
from avne.upstream.spec import UpstreamSpec

PORT: Final = 80
MAX_REQUEST: Final = 8 << 10  # bytes of a request's head

# RFC 9112 §3: the method, the path of the request's target, the version.
_REQUEST: Final = re.compile(rb"([A-Z]+) ((?:http://[^/ ]*)?)(/[^ ?#]*)(?:\?[^ ]*)? HTTP/1\.[01]\r?\n")
_HEADERS: Final = (
    "Cache-Control: no-store\r\n"
    "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'\r\n"
    "X-Content-Type-Options: nosniff\r\n"
    "Referrer-Policy: no-referrer\r\n"
    "Connection: close\r\n"
)
_STYLE: Final = (
    "body{font:1.1rem/1.5 sans-serif;max-width:40rem;margin:3rem auto;padding:0 1rem}"
    "th{text-align:left;padding-right:2rem;vertical-align:top}"
    "@media (prefers-color-scheme:dark){body{background:#111;color:#ddd}}"
)
_WORDS: Final = {
    200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed",
    421: "Misdirected Request", 431: "Request Header Fields Too Large",
}  # fmt: skip


class Pages(Upstream):
    """Every run has it, behind the user's rules, for the one name."""

    kind = "pages"
    title = "The environment's own pages (`pages`)"
    form = "pages"
    carries = False
    capabilities = Capability.HALF_CLOSE
    replies: ClassVar = {Code.CONNECTION_REFUSED: Reply("–", "a port other than 80", Verdict.REFUSED)}

    def __init__(self, spec: UpstreamSpec, inner: Upstream | None = None) -> None:
        super().__init__(spec, inner)
        self._facts: dict[str, Any] = {}

    @classmethod
    def parse(cls, text: str, inner: UpstreamSpec | None) -> UpstreamSpec:
        if text:
            raise cls.bad("pages takes no address")
        return UpstreamSpec(cls.kind)

    def begin(self, log: Log, about: Mapping[str, Any]) -> None:
        self._facts = {
            "avne": about.get("version", ""),
            "environment": about.get("session", ""),
            "upstream": about.get("upstream", ""),
            "open": list(about.get("open", [])),
        }

    def service(self, host: str, port: int) -> Service:
        if port != PORT:
            raise OpenError(Code.CONNECTION_REFUSED, "only port 80 has pages")
        return Page(self._facts)


class Page:
    """One request and its answer (the `Service` of a connection).  Sans-IO."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self._facts = facts
        self._came = b""
        self.done = False

    def receive(self, data: bytes) -> bytes:
        self._came += data
        end = re.search(rb"\r?\n\r?\n", self._came)
        if end is None and data and len(self._came) <= MAX_REQUEST:
            return b""
        self.done = True
        if end is None:
            return self._plain(431, "") if data else b""
        return self._answer(self._came[: end.end()])

    def _answer(self, head: bytes) -> bytes:
        request = _REQUEST.match(head)
        if request is None:
            return self._plain(400, "")
        method, path = request[1].decode(), request[3]
        if method not in ("GET", "HEAD"):
            return self._plain(405, method)
        # A foreign name that somebody has made to lead here is not to read what is here.
        if _field(head, b"host").lower().removesuffix(b":80") != OWN_NAME.encode():
            return self._plain(421, method)
        if path == b"/status.json":
            return _message(200, "application/json", self._json(), method)
        if path != b"/":
            return self._plain(404, method)
        if b"text/html" in _field(head, b"accept"):
            return _message(200, "text/html; charset=utf-8", self._html(), method)
        return _message(200, "text/plain; charset=utf-8", self._text(), method)

    def _plain(self, status: int, method: str) -> bytes:
        return _message(status, "text/plain; charset=utf-8", f"{status} {_WORDS[status]}\n", method)

    def _rows(self) -> list[tuple[str, str]]:
        facts = self._facts
        return [
            ("Environment", str(facts.get("environment", ""))),
            ("Upstream", str(facts.get("upstream", ""))),
            ("Open", ", ".join(facts.get("open", [])) or "nothing"),
            ("avne", str(facts.get("avne", ""))),
        ]

    def _text(self) -> str:
        rows = "".join(f"{name + ':':13}{value}\n" for name, value in self._rows())
        return f"This program is inside an environment of avne.\n\n{rows}"

    def _json(self) -> str:
        rows = (
            f"  {_quoted(name)}: "
            + (f"[{', '.join(map(_quoted, value))}]" if isinstance(value, list) else _quoted(value))
            for name, value in self._facts.items()
        )
        return "{\n" + ",\n".join(rows) + "\n}\n"

    def _html(self) -> str:
        rows = "".join(f"<tr><th>{name}<td>{_escaped(value)}\n" for name, value in self._rows())
        return (
            f"<!DOCTYPE html>\n<html lang=en><meta charset=utf-8><title>avne</title><style>{_STYLE}</style>\n"
            f"<h1>This program is inside avne</h1>\n<table>\n{rows}</table>\n"
            "<p>Its only network is the one shown here. What is not TCP or DNS is refused.</p>\n"
        )


# Not by the modules json and html, which every worker would load for it.


def _quoted(text: str) -> str:
    """A JSON string (RFC 8259 §7)."""
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\u{ord(c):04x}" for c in text) + '"'


def _escaped(text: str) -> str:
    """Text of an HTML element."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _field(head: bytes, name: bytes) -> bytes:
    """The value of a header field, b"" where it is missing or not alone."""
    found = re.findall(rb"\n" + name + rb":[ \t]*([^\r\n]*)", head, re.IGNORECASE)
    return found[0].strip() if len(found) == 1 else b""


def _message(status: int, kind: str, body: str, method: str) -> bytes:
    data = body.encode()
    allow = "Allow: GET, HEAD\r\n" if status == 405 else ""
    head = (
        f"HTTP/1.1 {status} {_WORDS[status]}\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n"
        f"{allow}{_HEADERS}\r\n"
    )
    return head.encode() + (b"" if method == "HEAD" else data)
