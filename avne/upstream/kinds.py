# SPDX-License-Identifier: GPL-3.0-or-later
"""The kinds there are, and the one line of text that names an upstream.

    UPSTREAM = FILTER[:ARGUMENT]+UPSTREAM     a filter around another
             | KIND://… over UPSTREAM         a proxy, reached over another
             | KIND://… | KIND:… | KIND

The line is read from the left, so ``hosts+socks5://h:1 over tor`` is a filter around a proxy that is reached
over Tor. A kind of another package is an entry point of the group ``avne.upstreams``, of its own name
(contrib/ has one).
"""

from __future__ import annotations

import importlib
import re
from typing import Final

from avne.errors import AvneError
from avne.upstream.base import Upstream
from avne.upstream.filter import Filter
from avne.upstream.proxy import Proxy
from avne.upstream.spec import UpstreamSpec

GROUP: Final = "avne.upstreams"
BUILT_IN: Final = {
    "tor": ("tor", "Tor"),
    "socks5": ("socks5", "Socks5"),
    "socks4a": ("socks4a", "Socks4a"),
    "http": ("http", "Http"),
    "direct": ("direct", "Direct"),
    "block": ("block", "Block"),
    "pages": ("pages", "Pages"),
    "log": ("log", "LogFilter"),
    "hosts": ("hosts", "Hosts"),
    "limit": ("limit", "Limit"),
}
MAX_LAYERS: Final = 8

_FILTER: Final = re.compile(r"([a-z][a-z0-9-]*)(?::(?!//)([^+]*))?\+(.*)", re.DOTALL)
_KIND: Final = re.compile(r"([a-z][a-z0-9-]*)(?:(://)(.*)|:(.*))?", re.DOTALL)
_OVER: Final = " over "


def parse(text: str) -> UpstreamSpec:
    """The upstream that `text` names.  Raises `AvneError`, which never repeats a password."""
    return _parse(text.strip(), MAX_LAYERS)


def _parse(text: str, layers: int) -> UpstreamSpec:
    if not layers:
        raise AvneError(f"an upstream of more than {MAX_LAYERS} layers", "Use fewer filters and proxies.")
    found = _FILTER.fullmatch(text)
    if found and issubclass(kind := find(found[1]), Filter):
        return kind.parse(found[2] or "", _parse(found[3], layers - 1))
    own, over, rest = text.partition(_OVER)
    found = _KIND.fullmatch(own.strip())
    if not found:
        raise AvneError("an upstream begins with its kind, such as tor:// or socks5://", f"Write {_forms()}.")
    kind = find(found[1])
    if issubclass(kind, Filter):
        raise kind.bad(f"{kind.kind} is a filter, and needs an upstream that it wraps")
    text = found[3] or found[4] or ""
    if found[2] and not text:
        raise kind.bad("the upstream's host and port are missing")
    if not over:
        return kind.parse(text, None)
    inner = _parse(rest, layers - 1)
    if not issubclass(kind, Proxy):
        raise kind.bad(f"{kind.kind} does not go over another upstream")
    for layer in inner.layers():
        if not find(layer.kind).carries:
            raise kind.bad(f"no proxy is reached over {layer.kind}")
    return kind.parse(text, inner)


def find(name: str) -> type[Upstream]:
    """The class of a kind.  Raises `AvneError` where there is none."""
    if name in BUILT_IN:
        module, attribute = BUILT_IN[name]
        found: type[Upstream] = getattr(importlib.import_module(f"avne.upstream.{module}"), attribute)
        return found
    return _foreign(name)


def _foreign(name: str) -> type[Upstream]:
    """The kind of another package."""
    from importlib.metadata import entry_points

    points = list(entry_points(group=GROUP, name=name))
    if not points:
        import difflib

        known = [*BUILT_IN, *sorted(point.name for point in entry_points(group=GROUP))]
        near = difflib.get_close_matches(name, known, 1)
        raise AvneError(
            f"there is no kind of upstream {name!r}",
            f"Did you mean {near[0]}? Write {_forms()}." if near else f"Write {_forms()}.",
        )
    try:
        found = points[0].load()
    except Exception as error:  # whatever another package does when it is imported
        raise AvneError(
            f"the package of the upstream {name} cannot be loaded: {type(error).__name__}: {error}",
            "Install it again, for the Python that runs avne.",
        ) from error
    if not (isinstance(found, type) and issubclass(found, Upstream) and found.kind == name):
        raise AvneError(f"what the package of the upstream {name} names is no such kind", "Report it there.")
    return found


def make(spec: UpstreamSpec, made: dict[UpstreamSpec, Upstream]) -> Upstream:
    """The upstream of `spec`; equal ones are one, by `made`.  Raises `AvneError`."""
    upstream = made.get(spec)
    if upstream is None:
        inner = None if spec.inner is None else make(spec.inner, made)
        upstream = made[spec] = find(spec.kind)(spec, inner)
    return upstream


def _forms() -> str:
    return (
        "tor://HOST:PORT, tor://unix:PATH, socks5://[USER:PASSWORD@]HOST:PORT, socks5://unix:PATH, "
        "socks4a://HOST:PORT or http://[USER:PASSWORD@]HOST:PORT, for example tor://127.0.0.1:9050"
    )
