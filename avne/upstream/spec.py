# SPDX-License-Identifier: GPL-3.0-or-later
"""How a user names an upstream, in one line of text.

    tor://HOST:PORT    tor://unix:PATH
    socks5://[USER:PASSWORD@]HOST:PORT    socks5://[USER:PASSWORD@]unix:PATH

An IPv6 address stands in brackets; USER and PASSWORD may be percent-encoded (RFC 3986 §2.1).
Not urllib: it takes 10 ms to import, and these forms are not quite URLs.
"""

from __future__ import annotations

import socket
from typing import Any, Final, NamedTuple, NoReturn

from avne.errors import AvneError

MAX_CREDENTIAL: Final = 127  # bytes; PySocks corrupts longer ones (RFC 1929 would allow 255)
MAX_UNIX_PATH: Final = 107  # bytes of sockaddr_un.sun_path without its final NUL (unix(7))

_FORMS: Final = (
    "Write tor://HOST:PORT, tor://unix:PATH, socks5://[USER:PASSWORD@]HOST:PORT or socks5://unix:PATH,"
    " for example tor://127.0.0.1:9050."
)

Address = str | tuple[str, int]


class UpstreamSpec(NamedTuple):
    """An upstream as it was named; Tor's credentials are the isolation token of a run."""

    kind: str  # "tor" or "socks5"
    address: Address  # the path of a unix socket, or (host, port)
    username: str | None = None
    password: str | None = None

    def redacted(self) -> str:
        """The line again, without its credentials: for logs and messages."""
        if isinstance(self.address, str):
            place = f"unix:{self.address}"
        else:
            host, port = self.address
            place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        hidden = "***@" if self.username is not None and self.kind != "tor" else ""
        return f"{self.kind}://{hidden}{place}"

    def to_config(self) -> dict[str, Any]:
        """As the `upstream` field of a worker's configuration."""
        return self._asdict()

    @classmethod
    def from_config(cls, fields: dict[str, Any]) -> UpstreamSpec:
        """The inverse of `to_config`, after msgpack turned the tuple into a list."""
        address = fields["address"]
        return cls(**{**fields, "address": address if isinstance(address, str) else tuple(address)})


def parse(text: str) -> UpstreamSpec:
    """The upstream that `text` names.  Raises `AvneError`, which never repeats a password."""
    kind, separator, rest = text.partition("://")
    if not separator or kind not in ("tor", "socks5"):
        _refuse("an upstream begins with tor:// or socks5://")
    username = password = None
    if not rest.startswith("unix:"):
        # The last @: one inside the password need not be encoded.
        credentials, separator, rest = rest.rpartition("@")
        if separator:
            username, password = _credentials(kind, credentials)
    return UpstreamSpec(kind, _address(rest), username, password)


def _address(text: str) -> Address:
    if text.startswith("unix:"):
        path = text[len("unix:") :]
        if not path.startswith("/") or "\0" in path:
            _refuse("the path of the upstream's unix socket must begin with /")
        if len(path.encode(errors="surrogateescape")) > MAX_UNIX_PATH:
            _refuse(f"the path of the upstream's unix socket is longer than {MAX_UNIX_PATH} bytes")
        return path
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        _refuse("the upstream's port is missing or not a number from 1 to 65535")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        try:
            socket.inet_pton(socket.AF_INET6, host)
        except (OSError, ValueError):
            _refuse("the upstream's address in brackets is not an IPv6 address")
    elif ":" in host:
        _refuse("an IPv6 address of an upstream needs brackets, as in [::1]:9050")
    elif not host or not host.isprintable() or set(host) & set("/[]@%? #\\"):
        _refuse("the upstream's host is missing or not a host name")
    return host, int(port)


def _credentials(kind: str, text: str) -> tuple[str, str]:
    if kind == "tor":
        _refuse("avne chooses Tor's user name and password itself, to isolate each run")
    username, separator, password = text.partition(":")
    if not separator:
        _refuse("the upstream's user name has no password")
    return _decoded(username), _decoded(password)


def _decoded(text: str) -> str:
    """`text` with its percent-encoded bytes replaced."""
    head, *escapes = text.split("%")
    data = head.encode(errors="surrogateescape")
    try:
        for escape in escapes:
            if len(escape) < 2:
                raise ValueError
            data += bytes.fromhex(escape[:2]) + escape[2:].encode(errors="surrogateescape")
        decoded = data.decode()
    except ValueError:
        _refuse("the upstream's user name or password is not valid percent-encoded UTF-8")
    if not 1 <= len(data) <= MAX_CREDENTIAL:
        _refuse(f"the upstream's user name and password need 1 to {MAX_CREDENTIAL} bytes each")
    return decoded


def _refuse(problem: str) -> NoReturn:
    raise AvneError(problem, _FORMS)
