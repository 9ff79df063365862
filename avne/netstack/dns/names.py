# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses that stand for names, so that a connection can be opened by name.

Theory of operation
    A name has one index, and the index gives both of its addresses: 198.18.0.0/15 (RFC 2544's
    range, which is never routed) and fd61:766e:6500:1::/64 (RFC 4193).  New indices are taken
    until all are used; from then on a hand goes round and takes the next one that nobody can
    know any more: no flow holds it, and its last answer was given long enough ago.  When a whole
    round finds none, the earliest moment at which one may come free is remembered, so that a
    guest that asks for names without end costs one round per index that comes free.
"""

from __future__ import annotations

from array import array
from typing import Final

from avne.limits import DNS_NAME_GRACE, DNS_NAMES
from avne.netstack.addresses import is_mapped

_V4: Final = int.from_bytes(bytes((198, 18, 0, 0)), "big")
_V6: Final = int.from_bytes(bytes.fromhex("fd61766e650000010000000000000000"), "big")
_FIRST: Final = 256  # the first addresses of a range have meanings to some programs, as have the last
_SPAN: Final = (1 << 17) - 2 * _FIRST
_STRIDE: Final = 30_000  # between the first addresses of two netstacks that succeed each other


class Names:
    """`ttl`: the longest TTL of an answer with a mapped address, in seconds."""

    def __init__(self, ttl: int, bound: int = DNS_NAMES) -> None:
        self._keep = ttl + DNS_NAME_GRACE
        self._bound = bound
        self._shift = 0
        self._index: dict[str, int] = {}
        self._names: list[str] = []
        self._until = array("d")  # by index: when nobody knows it from an answer any more
        self._holds: dict[int, int] = {}  # by index: how many flows use it
        self._hand = 0
        self._none_before = 0.0  # no index comes free before

    def begin_at(self, generation: int) -> None:
        """A netstack that succeeds another one takes other addresses than it: a program may have kept those.

        They come round again after all others.
        """
        self._shift = (generation - 1) * _STRIDE % _SPAN

    def __len__(self) -> int:
        return len(self._names)

    def map(self, name: str, now: float) -> tuple[bytes, bytes] | None:
        """The IPv4 and IPv6 address of `name` (lower case), for an answer given now.

        None when every address is in use.
        """
        index = self._index.get(name)
        if index is None:
            index = self._take(name, now)
            if index is None:
                return None
        self._until[index] = now + self._keep
        offset = _FIRST + (index + self._shift) % _SPAN
        return (_V4 + offset).to_bytes(4, "big"), (_V6 + offset).to_bytes(16, "big")

    def name_of(self, address: bytes) -> str | None:
        """The name that an address of 4 or 16 bytes stands for."""
        if not is_mapped(address):
            return None
        index = self._index_of(address)
        return self._names[index] if 0 <= index < len(self._names) else None

    def hold(self, address: bytes) -> None:
        """A flow uses `address`, of the pools: if it has a name, it keeps it until `release`."""
        index = self._index_of(address)
        self._holds[index] = self._holds.get(index, 0) + 1

    def release(self, address: bytes) -> None:
        """Takes one `hold` back."""
        index = self._index_of(address)
        self._holds[index] -= 1
        if not self._holds[index]:
            del self._holds[index]
            if 0 <= index < len(self._names):
                self._none_before = min(self._none_before, self._until[index])

    def _index_of(self, address: bytes) -> int:
        base = _V4 if len(address) == 4 else _V6
        return (int.from_bytes(address, "big") - base - _FIRST - self._shift) % _SPAN

    def _take(self, name: str, now: float) -> int | None:
        """An index for a new name."""
        index: int | None
        if len(self._names) < self._bound:
            index = len(self._names)
            self._names.append(name)
            self._until.append(0.0)
        else:
            index = self._free(now)
            if index is None:
                return None
            del self._index[self._names[index]]
            self._names[index] = name
        self._index[name] = index
        return index

    def _free(self, now: float) -> int | None:
        """The next index that may be used again."""
        if now < self._none_before:
            return None
        earliest = float("inf")
        for _ in range(self._bound):
            index = self._hand
            self._hand = (index + 1) % self._bound
            if index not in self._holds:
                if self._until[index] <= now:
                    return index
                earliest = min(earliest, self._until[index])
        self._none_before = earliest
        return None
