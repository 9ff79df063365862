# SPDX-License-Identifier: GPL-3.0-or-later
"""Answers kept for as long as their TTL, positive or negative, allows (RFC 1035 §7.4, RFC 2308 §5).

Bounded in entries and in the bytes of one entry; the least recently used one goes first.
"""

from __future__ import annotations

from collections import OrderedDict

from avne.limits import DNS_CACHE_BYTES, DNS_CACHE_ENTRIES
from avne.netstack.dns.format import NXDOMAIN
from avne.netstack.dns.message import Query
from avne.netstack.dns.response import Response


class Cache:
    def __init__(self, entries: int = DNS_CACHE_ENTRIES) -> None:
        self._bound = entries
        self._entries: OrderedDict[bytes, tuple[float, Response]] = OrderedDict()  # when it came

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, query: Query, response: Response, now: float) -> None:
        """Keep `response` for its TTL; one without a TTL, or a very large one, is not kept.

        That a name does not exist is kept for every type of it (RFC 2308 §5).
        """
        if response.ttl <= 0 or len(response.body) > DNS_CACHE_BYTES:
            return
        key = query.name_key if response.rcode == NXDOMAIN else query.key
        self._entries[key] = (now, response)
        self._entries.move_to_end(key)
        if len(self._entries) > self._bound:
            self._entries.popitem(last=False)

    def get(self, query: Query, now: float) -> tuple[Response, int] | None:
        """The answer and its age in whole seconds."""
        return self._get(query.key, now) or self._get(query.name_key, now)

    def _get(self, key: bytes, now: float) -> tuple[Response, int] | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        came, response = entry
        if now >= came + response.ttl:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return response, int(now - came)

    def clear(self) -> None:
        self._entries.clear()
