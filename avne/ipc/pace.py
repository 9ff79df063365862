# SPDX-License-Identifier: GPL-3.0-or-later
"""A bound of bytes in a second, each way, that flows share.  Sans-IO.

A token bucket for each direction.  It holds a tenth of a second's bytes, and gives them out in pieces that
are worth a system call, so that a flow with a small share does not wake the process for each byte.
"""

from __future__ import annotations

from typing import Final

BURST: Final = 0.1  # seconds
PIECE: Final = 16 << 10  # bytes


class Bucket:
    """One direction."""

    __slots__ = ("_at", "_left", "_most", "_piece", "_rate")

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._most = max(1.0, rate * BURST)
        self._piece = min(float(PIECE), self._most)
        self._left = self._most
        self._at = 0.0  # when `_left` was right

    def allowed(self, now: float) -> int:
        """Bytes that may pass now; 0 while it is less than a piece."""
        self._left = min(self._most, self._left + max(0.0, now - self._at) * self._rate)
        self._at = max(self._at, now)
        return int(self._left) if self._left >= self._piece else 0

    def take(self, count: int) -> None:
        """They have passed."""
        self._left -= count

    def next_at(self) -> float:
        """When `allowed` gives something."""
        return self._at + max(0.0, self._piece - self._left) / self._rate


class Pace:
    """Both directions, of `rate` bytes in a second each."""

    __slots__ = ("down", "up")

    def __init__(self, rate: int) -> None:
        self.up = Bucket(rate)
        self.down = Bucket(rate)
