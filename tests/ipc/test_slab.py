# SPDX-License-Identifier: GPL-3.0-or-later
"""Shared payload memory: who may write and read what, and what is free when."""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avne.errors import Malformed
from avne.ipc.slab import Slab, SlabView
from avne.limits import MAX_PAYLOAD, SLAB_BYTES, SLAB_CHUNK, SLAB_WARM


@pytest.fixture
def slab() -> Iterator[Slab]:
    slab = Slab()
    yield slab
    slab.close()


def put(slab: Slab, data: bytes) -> int:
    room = slab.room(len(data))
    assert room is not None
    room[: len(data)] = data
    return slab.take(len(data))


def resident(slab: Slab) -> int:
    return os.fstat(slab.fd).st_blocks * 512


def test_the_peer_reads_what_was_put(slab: Slab) -> None:
    view = SlabView(os.dup(slab.fd))
    offsets = {put(slab, data): data for data in (b"one", b"two" * 1000, os.urandom(MAX_PAYLOAD))}
    for offset, data in offsets.items():
        assert view.piece(offset, len(data)) == data


def test_the_peer_cannot_write(slab: Slab) -> None:
    with pytest.raises(PermissionError):
        mmap.mmap(slab.fd, SLAB_BYTES, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    with pytest.raises(OSError, match=r"not permitted|Bad file"):
        os.pwrite(slab.fd, b"x", 0)
    assert SlabView(os.dup(slab.fd)).piece(0, 10).readonly


def test_the_size_is_for_ever(slab: Slab) -> None:
    """A mapping that is cut off kills its reader."""
    writable = os.open(f"/proc/self/fd/{slab.fd}", os.O_RDWR)
    for size in (0, SLAB_BYTES // 2, SLAB_BYTES * 2):
        with pytest.raises(PermissionError):
            os.ftruncate(writable, size)
    os.close(writable)


@pytest.mark.parametrize("flaw", ["unsealed", "size", "pipe", "file"])
def test_what_is_no_slab_is_refused(flaw: str) -> None:
    if flaw == "pipe":
        fd, other = os.pipe()
        os.close(other)
    elif flaw == "file":
        fd = os.open(os.devnull, os.O_RDONLY)
    else:
        fd = os.memfd_create("x", os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, SLAB_BYTES if flaw == "unsealed" else SLAB_BYTES // 2)
        if flaw == "size":
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    with pytest.raises(Malformed, match="wire-slab"):
        SlabView(fd)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)


@pytest.mark.parametrize(("offset", "size"), [(SLAB_BYTES - 9, 10), (SLAB_BYTES, 1), (1 << 31, 1)])
def test_a_piece_beyond_the_end_is_refused(slab: Slab, offset: int, size: int) -> None:
    with pytest.raises(Malformed, match="wire-slab"):
        SlabView(os.dup(slab.fd)).piece(offset, size)


def test_only_what_the_peer_has_comes_back(slab: Slab) -> None:
    one, two = put(slab, b"x" * 100), put(slab, b"y" * 100)
    for bad in (one + 1, two + 100, SLAB_BYTES):
        with pytest.raises(Malformed, match="wire-slab"):
            slab.give_back(bad)
    slab.give_back(one)
    with pytest.raises(Malformed, match="wire-slab"):
        slab.give_back(one)
    slab.give_back(two)


def test_a_piece_grows_where_it_ends_and_only_there(slab: Slab) -> None:
    one = put(slab, b"a" * 10)
    room = slab.room(10)
    assert room is not None
    room[:10] = b"b" * 10
    assert slab.grow(one + 10, 10)
    assert slab.memory[one : one + 20] == b"a" * 10 + b"b" * 10
    put(slab, b"c")
    assert not slab.grow(one + 20, 1)


def test_a_piece_does_not_grow_into_the_next_chunk(slab: Slab) -> None:
    """It would be counted for one of them only."""
    offset = put(slab, bytes(SLAB_CHUNK))
    assert slab.room(1) is not None
    assert not slab.grow(offset + SLAB_CHUNK, 1)


def test_full_means_no_room_until_something_comes_back(slab: Slab) -> None:
    offsets = []
    while slab.room(SLAB_CHUNK) is not None:
        offsets.append(slab.take(SLAB_CHUNK))
    assert len(offsets) == SLAB_BYTES // SLAB_CHUNK
    assert slab.room(1) is None
    slab.give_back(offsets[3])
    assert slab.room(SLAB_CHUNK) is not None


def test_the_memory_of_a_burst_goes_back_to_the_system(slab: Slab) -> None:
    offsets = [put(slab, bytes([n % 255 + 1]) * SLAB_CHUNK) for n in range(100)]
    assert resident(slab) == 100 * SLAB_CHUNK
    for offset in offsets:
        slab.give_back(offset)
    assert resident(slab) <= (SLAB_WARM + 1) * SLAB_CHUNK


@given(st.lists(st.tuples(st.integers(1, SLAB_CHUNK), st.booleans(), st.integers(0, 1000)), max_size=300))
def test_pieces_never_overlap(steps: list[tuple[int, bool, int]]) -> None:
    """Whatever is taken and given back in whatever order: what the peer has is not written again."""
    slab = Slab()
    out: list[tuple[int, int]] = []
    try:
        for size, back, which in steps:
            if back and out:
                slab.give_back(out.pop(which % len(out))[0])
            elif slab.room(size) is not None:
                start = slab.take(size)
                assert start + size <= SLAB_BYTES
                assert all(start + size <= other or end <= start for other, end in out)
                out.append((start, start + size))
        for start, _ in out:
            slab.give_back(start)
        assert slab.room(SLAB_CHUNK) is not None
    finally:
        slab.close()
