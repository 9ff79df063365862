# SPDX-License-Identifier: GPL-3.0-or-later
"""Segments that arrived ahead of their turn (RFC 9293 §3.10.7.4, SHLD-31).

A sorted list of disjoint blocks.  The ring of the tun can drop a segment, never reorder or
corrupt one, so there are few blocks, and a list is enough.  The bytes held are bounded by
the receive window, the number of blocks by `MAX_BLOCKS`: what exceeds it is dropped and sent again.
"""

from __future__ import annotations

from typing import Final

from avne.netstack.tcp import seq

MAX_BLOCKS: Final = 64
_RECENT: Final = 8  # pieces; 4 blocks fit into an option, and several pieces may be of one


class Reassembly:
    """Blocks of payload beyond ``rcv_nxt``."""

    __slots__ = ("_blocks", "_recent", "fin")

    def __init__(self) -> None:
        self._blocks: list[tuple[int, memoryview]] = []  # (first sequence number, payload)
        self._recent: list[int] = []  # where the last pieces were put, the latest first
        self.fin: int | None = None  # the sequence number of a FIN seen ahead of its turn

    def __bool__(self) -> bool:
        return bool(self._blocks) or self.fin is not None

    @property
    def held(self) -> int:
        """Bytes of payload held."""
        return sum(len(payload) for _, payload in self._blocks)

    def insert(self, start: int, payload: memoryview, rcv_nxt: int) -> None:
        """Keep what of `payload`, which starts at `start` > `rcv_nxt`, is not held yet."""
        self._recent = [start, *self._recent[: _RECENT - 1]]
        pieces = [(seq.diff(start, rcv_nxt), payload)]
        for held, block in self._blocks:
            at = seq.diff(held, rcv_nxt)
            pieces = [rest for piece in pieces for rest in _without(piece, at, at + len(block))]
        for at, piece in pieces:
            if len(self._blocks) < MAX_BLOCKS:
                if len(piece) * 2 < memoryview(piece.obj).nbytes:
                    piece = memoryview(bytes(piece))  # do not keep a whole frame for a few bytes
                self._blocks.append((seq.add(rcv_nxt, at), piece))
        self._blocks.sort(key=lambda block: seq.diff(block[0], rcv_nxt))

    def take(self, rcv_nxt: int) -> memoryview | None:
        """The next block that continues at `rcv_nxt`, without what came before it; or None."""
        while self._blocks:
            start, payload = self._blocks[0]
            old = seq.diff(rcv_nxt, start)
            if old < 0:
                return None
            del self._blocks[0]
            if old < len(payload):
                return payload[old:]
        return None

    def sack_blocks(self) -> list[tuple[int, int]]:
        """Blocks [left, right), adjacent ones joined, those that changed last first (RFC 2018 §4)."""
        joined: list[tuple[int, int]] = []
        for start, payload in self._blocks:
            end = seq.add(start, len(payload))
            if joined and joined[-1][1] == start:
                joined[-1] = (joined[-1][0], end)
            else:
                joined.append((start, end))
        blocks: list[tuple[int, int]] = []
        for at in self._recent:
            blocks += [b for b in joined if b not in blocks and seq.le(b[0], at) and seq.lt(at, b[1])]
        return blocks + [block for block in joined if block not in blocks]


def _without(piece: tuple[int, memoryview], start: int, end: int) -> list[tuple[int, memoryview]]:
    """`piece` = (offset, payload) less the range start … end."""
    at, payload = piece
    stop = at + len(payload)
    if end <= at or stop <= start:
        return [piece]
    rest = []
    if at < start:
        rest.append((at, payload[: start - at]))
    if end < stop:
        rest.append((end, payload[end - at :]))
    return rest
