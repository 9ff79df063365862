# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory that one process writes and one other reads: payloads without a copy between them.

A `Slab` is a sealed memfd.  Its owner puts payloads into it and tells the peer where each is
(lane.py); the peer has it mapped read-only as a `SlabView`, and gives each piece back by its offset when it
is done.  The seals keep the size as it is, so that a mapping cannot be cut off under its reader
(SIGBUS): memfd_create(2), fcntl(2) "File sealing".  The peer's descriptor is open for reading only.
(F_SEAL_FUTURE_WRITE would say the same, but then no memory could be given back to the kernel.)

Only payload bytes are ever read from a slab, never a header or a length: whoever owns it may
change it at any time.

    chunk 0            chunk 1                     chunk 2 …
    ┌──────────────────┬───────────────────────────┬──────────
    │ piece piece free │ piece piece … ▲ next piece │ free
    └──────────────────┴───────────────────────────┴──────────

A chunk is filled from its start; when all its pieces have come back it is free again.  The chunk that was
freed last is used next, while it is warm in the cache.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import Final

from avne.errors import Malformed
from avne.limits import SLAB_BYTES, SLAB_CHUNK, SLAB_WARM

_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


class Slab:
    """The owner's end.  `fd` is for the peer, which can only read; `memory` is all of it."""

    def __init__(self) -> None:
        fd = os.memfd_create("avne-slab", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, SLAB_BYTES)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            self._map = mmap.mmap(fd, SLAB_BYTES)
            self.fd = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(fd)  # the mapping is ours to write
        self.memory = memoryview(self._map)
        self._at = 0  # where the next piece goes
        self._end = SLAB_CHUNK  # of the chunk that is being filled
        self._pieces: dict[int, int] = {}  # offset → its chunk, of those that are with the peer
        self._out = [0] * (SLAB_BYTES // SLAB_CHUNK)  # how many of a chunk's pieces are with the peer
        self._warm = list(range(SLAB_WARM - 1, 0, -1))
        self._cold = list(range(len(self._out) - 1, SLAB_WARM - 1, -1))

    def room(self, size: int) -> memoryview | None:
        """At least `size` bytes to write the next piece into; None while every chunk is in use."""
        if self._end - self._at < size and not self._next_chunk():
            return None
        return self.memory[self._at : self._end]

    def take(self, size: int) -> int:
        """The first `size` bytes of the room are a piece, for the peer: gives its offset."""
        at = self._at
        self._at = at + size
        chunk = at // SLAB_CHUNK
        self._out[chunk] += 1
        self._pieces[at] = chunk
        return at

    def grow(self, end: int, size: int) -> bool:
        """Whether the first `size` bytes of the room are now the rest of the piece that ended at `end`."""
        if end != self._at or end % SLAB_CHUNK == 0:
            return False
        self._at += size
        return True

    def give_back(self, offset: int) -> None:
        """The peer is done with a piece.  Raises `Malformed` if it had none there."""
        chunk = self._pieces.pop(offset, None)
        if chunk is None:
            raise Malformed("wire-slab")
        self._out[chunk] -= 1
        if self._out[chunk]:
            return
        if self._end == (chunk + 1) * SLAB_CHUNK:
            self._at = self._end - SLAB_CHUNK  # it is being filled: from its start again
        elif len(self._warm) < SLAB_WARM:
            self._warm.append(chunk)
        else:
            self._cold.append(chunk)
            self._map.madvise(mmap.MADV_REMOVE, chunk * SLAB_CHUNK, SLAB_CHUNK)

    def close(self) -> None:
        """The peer is gone.  The memory goes when the last view of it does."""
        os.close(self.fd)

    def _next_chunk(self) -> bool:
        free = self._warm or self._cold
        if not free:
            return False
        chunk = free.pop()
        left = (self._end - SLAB_CHUNK) // SLAB_CHUNK
        self._at, self._end = chunk * SLAB_CHUNK, (chunk + 1) * SLAB_CHUNK
        if not self._out[left]:  # nothing of it is with the peer, and no piece will come back
            self._warm.append(left)
        return True


class SlabView:
    """The reader's end of a peer's slab: takes over `fd`.  Raises `Malformed` for what is none."""

    def __init__(self, fd: int) -> None:
        try:
            sealed = fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS == _SEALS
            if not sealed or os.fstat(fd).st_size != SLAB_BYTES:
                raise Malformed("wire-slab")
            self._memory = memoryview(mmap.mmap(fd, SLAB_BYTES, prot=mmap.PROT_READ))
        except OSError as error:
            raise Malformed("wire-slab") from error
        finally:
            os.close(fd)

    def piece(self, offset: int, size: int) -> memoryview:
        """A payload.  Raises `Malformed` where it is not inside the slab."""
        if offset + size > SLAB_BYTES:
            raise Malformed("wire-slab")
        return self._memory[offset : offset + size]
