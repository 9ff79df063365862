# SPDX-License-Identifier: GPL-3.0-or-later
"""An upstream as the user named it: the parsed form, and the parts that the kinds' own forms are made of.

    KIND://[USER:PASSWORD@]HOST:PORT    KIND://[USER:PASSWORD@]unix:PATH

An IPv6 address stands in brackets; USER and PASSWORD may be percent-encoded (RFC 3986 §2.1).
Not urllib: it takes 10 ms to import, and these forms are not quite URLs.  kinds.py has the whole grammar.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from avne.upstream.base import Upstream
    from avne.upstream.proxy import Proxy

MAX_UNIX_PATH: Final = 107  # bytes of sockaddr_un.sun_path without its final NUL (unix(7))

Address = str | tuple[str, int]


class UpstreamSpec(NamedTuple):
    """An upstream as it was named; Tor's credentials are the isolation token of a run."""

    kind: str
    address: Address = ""  # the path of a unix socket, or (host, port); "" where there is none (yet)
    username: str | None = None
    password: str | None = None
    argument: str = ""  # of a filter, or of another package's kind
    inner: UpstreamSpec | None = None  # what it goes over, or, of a filter, what it wraps

    def redacted(self) -> str:
        """The line again, without its credentials: for logs and messages."""
        own = f"{self.kind}:{self.argument}" if self.argument else self.kind
        if self.address:
            hidden = "***@" if self.username is not None and self.kind != "tor" else ""
            own = f"{self.kind}://{hidden}{self._place()}"
        if self.inner is None:
            return own
        return f"{own} over {self.inner.redacted()}" if self.address else f"{own}+{self.inner.redacted()}"

    def label(self) -> str:
        """Its kinds, without where they are: ``hosts+tor``, ``socks5 over tor``."""
        if self.inner is None:
            return self.kind
        return f"{self.kind}{' over ' if self.address else '+'}{self.inner.label()}"

    def _place(self) -> str:
        if isinstance(self.address, str):
            return f"unix:{self.address}"
        host, port = self.address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def layers(self) -> Iterator[UpstreamSpec]:
        """This one, what it goes over or wraps, and so on."""
        layer: UpstreamSpec | None = self
        while layer is not None:
            yield layer
            layer = layer.inner

    def to_config(self) -> dict[str, Any]:
        """As the `upstream` field of a worker's configuration."""
        return {**self._asdict(), "inner": None if self.inner is None else self.inner.to_config()}

    @classmethod
    def from_config(cls, fields: dict[str, Any]) -> UpstreamSpec:
        """The inverse of `to_config`, after msgpack turned the tuple into a list."""
        address, inner = fields["address"], fields["inner"]
        return cls(
            **{
                **fields,
                "address": address if isinstance(address, str) else tuple(address),
                "inner": None if inner is None else cls.from_config(inner),
            }
        )


def parse_address(kind: type[Upstream], text: str) -> Address:
    """``HOST:PORT`` or ``unix:PATH``.  Raises `AvneError`."""
    if text.startswith("unix:"):
        path = text[len("unix:") :]
        if not path.startswith("/") or "\0" in path:
            raise kind.bad("the path of the upstream's unix socket must begin with /")
        if len(path.encode(errors="surrogateescape")) > MAX_UNIX_PATH:
            raise kind.bad(f"the path of the upstream's unix socket is longer than {MAX_UNIX_PATH} bytes")
        return path
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise kind.bad("the upstream's port is missing or not a number from 1 to 65535")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        try:
            socket.inet_pton(socket.AF_INET6, host)
        except (OSError, ValueError):
            raise kind.bad("the upstream's address in brackets is not an IPv6 address") from None
    elif ":" in host:
        raise kind.bad("an IPv6 address of an upstream needs brackets, as in [::1]:9050")
    elif not host or not host.isprintable() or set(host) & set("/[]@%? #\\"):
        raise kind.bad("the upstream's host is missing or not a host name")
    return host, int(port)


def split_credentials(kind: type[Proxy], text: str) -> tuple[str | None, str | None, str]:
    """User name and password, where there are, and the rest.  Raises `AvneError`."""
    if text.startswith("unix:"):
        return None, None, text
    # The last @: one inside the password need not be encoded.
    credentials, at, rest = text.rpartition("@")
    if not at:
        return None, None, text
    if kind.credential_limit is None:
        raise kind.bad(f"a {kind.kind} upstream takes no user name")
    username, colon, password = credentials.partition(":")
    if kind.password_needed and not colon:
        raise kind.bad("the upstream's user name has no password")
    if colon and not kind.password_needed:
        raise kind.bad(f"a {kind.kind} upstream takes a user name only, and no password")
    return _decoded(kind, username), _decoded(kind, password) if colon else None, rest


def _decoded(kind: type[Proxy], text: str) -> str:
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
        raise kind.bad("the upstream's user name or password is not valid percent-encoded UTF-8") from None
    limit = kind.credential_limit
    assert limit is not None
    if not 1 <= len(data) <= limit or "\0" in decoded:
        raise kind.bad(f"the upstream's user name and password need 1 to {limit} bytes each")
    return decoded
