# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses that stand for names, so that a connection can be opened by name.

Theory of operation
    A name has one index, and the index gives both of its addresses: 198.18.0.0/15 (RFC 2544's
    range, which is never routed) and fd61:766e:6500:1::/64 (RFC 4193).  New indices are taken
    until all are used; from then on a hand goes round and takes the next one that nobody can
    know any more: no flow holds it, and its last answer has been over for long enough.  When a whole
    round finds none, the earliest moment at which one may come free is remembered, so that a
    guest that asks for names without end costs one round per index that comes free.

    The indices are two shelves.  The second is only for names that have no other address (onion services,
    and names at a proxy that resolves nothing): the rest cannot crowd them out, and is told its real
    addresses when the first one is full.
"""

from __future__ import annotations

from array import array
from typing import Final

from avne.limits import DNS_NAME_GRACE, DNS_NAMES, DNS_NAMES_ONLY
from avne.netstack.addresses import is_mapped

_V4: Final = int.from_bytes(bytes((198, 18, 0, 0)), "big")
_V6: Final = int.from_bytes(bytes.fromhex("fd61766e650000010000000000000000"), "big")
_FIRST: Final = 256  # the first addresses of a range have meanings to some programs, as have the last
_SPAN: Final = (1 << 17) - 2 * _FIRST
_STRIDE: Final = 30_000  # between the first addresses of two netstacks that succeed each other


class _Shelf:
    """Indices from `first` on, `bound` of them."""

    __slots__ = ("bound", "first", "hand", "names", "none_before", "until")

    def __init__(self, first: int, bound: int) -> None:
        self.first = first
        self.bound = bound
        self.names: list[str] = []
        self.until = array("d")  # by place: when nobody knows it from an answer any more
        self.hand = 0
        self.none_before = 0.0  # no place comes free before

    def free(self, holds: dict[int, int], now: float) -> int | None:
        """The next place that may be used again."""
        if now < self.none_before:
            return None
        earliest = float("inf")
        for _ in range(self.bound):
            place = self.hand
            self.hand = (place + 1) % self.bound
            if self.first + place not in holds:
                if self.until[place] <= now:
                    return place
                earliest = min(earliest, self.until[place])
        self.none_before = earliest
        return None


class Names:
    """Which name each address stands for, in both directions."""

    def __init__(self, bound: int = DNS_NAMES, only: int = DNS_NAMES_ONLY) -> None:
        self._shift = 0
        self._shelves = _Shelf(0, bound), _Shelf(bound, only)
        self._index: dict[str, int] = {}
        self._holds: dict[int, int] = {}  # by index: how many flows use it
        self.turned_away = 0  # how often every address was in use

    def begin_at(self, generation: int) -> None:
        """A netstack that succeeds another one takes other addresses than it: a program may have kept those.

        They come round again after all others.
        """
        self._shift = (generation - 1) * _STRIDE % _SPAN

    def __len__(self) -> int:
        return len(self._index)

    def map(self, name: str, ttl: int, now: float, only: bool = False) -> tuple[bytes, bytes] | None:
        """The IPv4 and IPv6 address of `name` (lower case), for an answer given now that lives `ttl` seconds.

        `only`: it has no other address.  None when every address is in use.
        """
        index = self._index.get(name)
        if index is None:
            index = self._take(name, self._shelves[0], now)
            if index is None and only:
                index = self._take(name, self._shelves[1], now)
            if index is None:
                self.turned_away += 1
                return None
        shelf, place = self._place(index)
        shelf.until[place] = max(shelf.until[place], now + ttl + DNS_NAME_GRACE)
        offset = _FIRST + (index + self._shift) % _SPAN
        return (_V4 + offset).to_bytes(4, "big"), (_V6 + offset).to_bytes(16, "big")

    def name_of(self, address: bytes) -> str | None:
        """The name that an address of 4 or 16 bytes stands for."""
        if not is_mapped(address):
            return None
        shelf, place = self._place(self._index_of(address))
        return shelf.names[place] if 0 <= place < len(shelf.names) else None

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
            shelf, place = self._place(index)
            if 0 <= place < len(shelf.names):
                shelf.none_before = min(shelf.none_before, shelf.until[place])

    def _index_of(self, address: bytes) -> int:
        base = _V4 if len(address) == 4 else _V6
        return (int.from_bytes(address, "big") - base - _FIRST - self._shift) % _SPAN

    def _place(self, index: int) -> tuple[_Shelf, int]:
        shelf = self._shelves[index >= self._shelves[1].first]
        return shelf, index - shelf.first

    def _take(self, name: str, shelf: _Shelf, now: float) -> int | None:
        """An index for a new name."""
        place: int | None
        if len(shelf.names) < shelf.bound:
            place = len(shelf.names)
            shelf.names.append(name)
            shelf.until.append(0.0)
        else:
            place = shelf.free(self._holds, now)
            if place is None:
                return None
            del self._index[shelf.names[place]]
            shelf.names[place] = name
            shelf.until[place] = 0.0
        self._index[name] = shelf.first + place
        return shelf.first + place
