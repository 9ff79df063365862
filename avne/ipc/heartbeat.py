# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the peers on other machines are still there.  Sans-IO.

Each INTERVAL every peer is asked (PING).  One of which nothing at all has come for MISSES of them is taken
for dead.  That is more than lost answers come to: with 5 % of them lost, MISSES in a row are one in 10 to
the 10.  A process that was stopped meanwhile sees one interval, however long that was.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

INTERVAL: Final = 2.0  # seconds
MISSES: Final = 8


class Heartbeats:
    """`heard` is the caller's to add to: who has said something since the last interval."""

    __slots__ = ("_ask_at", "_missed", "_next", "heard")

    def __init__(self, now: float) -> None:
        self._next = now + INTERVAL
        self._ask_at = float("inf")
        self.heard: set[bytes] = set()
        self._missed: dict[bytes, int] = {}

    def ask_at(self, when: float) -> None:
        """Ask once more, without counting: one of the peers may have gone."""
        self._ask_at = min(self._ask_at, when)

    def poll_at(self) -> float:
        """When `handle_timer` is due."""
        return min(self._next, self._ask_at)

    def handle_timer(self, peers: Collection[bytes], now: float) -> tuple[list[bytes], list[bytes]]:
        """Whom of `peers` to ask now, and who is taken for dead."""
        if now < self.poll_at():
            return [], []
        self._ask_at = float("inf")
        if now < self._next:
            return list(peers), []
        self._next = now + INTERVAL
        missed = {peer: 0 if peer in self.heard else self._missed.get(peer, 0) + 1 for peer in peers}
        self.heard.clear()
        dead = [peer for peer, count in missed.items() if count >= MISSES]
        self._missed = {peer: count for peer, count in missed.items() if count < MISSES}
        return list(self._missed), dead
