# SPDX-License-Identifier: GPL-3.0-or-later
"""An input's bytes as decisions; when they are used up, every further decision is 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Choices:
    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def more(self) -> bool:
        return self._at < len(self._data)

    def byte(self) -> int:
        at = self._at
        if at >= len(self._data):
            return 0
        self._at = at + 1
        return self._data[at]

    def number(self, size: int) -> int:
        """An unsigned number of `size` bytes."""
        return int.from_bytes(self.take(size), "big")

    def take(self, count: int) -> bytes:
        """The next bytes, at most `count`."""
        found = self._data[self._at : self._at + count]
        self._at += len(found)
        return found

    def some(self) -> bytes:
        """A short piece, of a length that it says itself."""
        return self.take(self.byte())

    def rest(self) -> bytes:
        return self.take(len(self._data))

    def pick(self, among: Sequence[T]) -> T:
        return among[self.byte() % len(among)]
