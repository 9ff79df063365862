# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory that is read into again and again: bytes from the tun and from sockets, without a copy.

    chunk                                         another chunk …
    ┌─────────────────────────────────────────┬─────────────
    │ kept │ kept … │ room for the next read  │
    └─────────────────────────────────────────┴─────────────

A chunk is filled from its start by those who keep what they have read into the room.  When nobody looks
at any part of it any more it is free: Python's own reference counts are the books, so nothing can be written
over while it is in use, and nothing has to be given back.  The chunk that was freed last is used next,
while it is warm in the cache.

Fresh `bytes` of this size would halve the speed: malloc maps and unmaps each of them, page by page.
"""

from __future__ import annotations

import ctypes
import mmap
import weakref
from typing import Final

from avne.limits import COPY_BELOW, POOL_BYTES, POOL_CHUNK, POOL_WARM

_CHUNK: Final = ctypes.c_ubyte * POOL_CHUNK
_Chunk = ctypes.Array[ctypes.c_ubyte]
_NOTHING: Final = memoryview(bytearray())


class Pool:
    """At most POOL_BYTES, POOL_WARM chunks of it while nobody uses them."""

    def __init__(self) -> None:
        self._room = _NOTHING  # what is left of the chunk that is being filled
        self._free: list[mmap.mmap] = []
        self._lent: dict[int, tuple[weakref.ref[_Chunk], mmap.mmap]] = {}

    def room(self, size: int) -> memoryview | None:
        """At least `size` bytes to read into, of no use to anybody else; None while every chunk is in use."""
        if len(self._room) < size and not self._next_chunk():
            return None
        return self._room

    def keep(self, size: int) -> memoryview:
        """The first `size` bytes of the room, for as long as the caller looks at them.

        A few bytes are copied: they would hold a whole chunk.
        """
        room = self._room
        if size < COPY_BELOW:
            return memoryview(bytes(room[:size]))
        self._room = room[size:] or _NOTHING
        return room[:size]

    @property
    def used(self) -> int:
        """How many chunks are in use, the one that is being filled included."""
        return len(self._lent)

    def _next_chunk(self) -> bool:
        self._room = _NOTHING  # which may be the last look at that chunk
        if self._free:
            memory = self._free.pop()
        elif len(self._lent) < POOL_BYTES // POOL_CHUNK:
            memory = mmap.mmap(-1, POOL_CHUNK)
        else:
            return False
        chunk = _CHUNK.from_buffer(memory)
        end = weakref.ref(chunk, self._freed)
        self._lent[id(end)] = end, memory
        self._room = memoryview(chunk).cast("B")
        return True

    def _freed(self, end: weakref.ref[_Chunk]) -> None:
        _, memory = self._lent.pop(id(end))
        if len(self._free) < POOL_WARM:
            self._free.append(memory)
