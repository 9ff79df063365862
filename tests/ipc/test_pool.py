# SPDX-License-Identifier: GPL-3.0-or-later
"""The pool: what is looked at stays as it is, and what nobody looks at is used again."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from avne.ipc.pool import Pool
from avne.limits import COPY_BELOW, POOL_BYTES, POOL_CHUNK, POOL_WARM


def read(pool: Pool, data: bytes) -> memoryview:
    """`data` comes and is kept."""
    room = pool.room(len(data))
    assert room is not None
    room[: len(data)] = data
    return pool.keep(len(data))


def test_what_was_kept_lies_where_it_was_read() -> None:
    pool = Pool()
    room = pool.room(COPY_BELOW)
    assert room is not None
    assert len(room) == POOL_CHUNK
    kept = read(pool, b"x" * COPY_BELOW)
    room[0] = ord("y")
    assert kept[0] == ord("y")


def test_the_next_room_is_another_one() -> None:
    pool = Pool()
    parts = [os.urandom(COPY_BELOW + n) for n in range(200)]
    kept = [read(pool, part) for part in parts]
    assert [bytes(view) for view in kept] == parts


def test_what_was_not_kept_is_read_over() -> None:
    pool = Pool()
    one, two = pool.room(1), pool.room(POOL_CHUNK)
    assert one is not None
    assert two is not None
    one[0] = 7
    assert two[0] == 7


def test_a_few_bytes_hold_no_chunk() -> None:
    pool = Pool()
    kept = [read(pool, b"x" * (COPY_BELOW - 1)) for _ in range(1000)]
    assert pool.used == 1
    assert len(kept) == 1000


def test_a_chunk_is_used_again_as_soon_as_nobody_looks_at_it() -> None:
    pool = Pool()
    for _ in range(100):
        view = read(pool, bytes(POOL_CHUNK))
        part = view[1000:2000]
        del view
        assert pool.used == 1
        del part
        assert pool.used == 0
    assert len(pool._free) == 1


def test_memory_that_is_not_needed_any_more_goes() -> None:
    pool = Pool()
    kept = [read(pool, bytes(POOL_CHUNK)) for _ in range(POOL_WARM * 3)]
    assert pool.used == POOL_WARM * 3
    kept.clear()
    assert pool.room(1) is not None
    assert pool.used == 1
    assert len(pool._free) <= POOL_WARM


def test_it_is_bounded() -> None:
    pool = Pool()
    kept = [read(pool, bytes(POOL_CHUNK)) for _ in range(POOL_BYTES // POOL_CHUNK)]
    assert pool.room(1) is None
    kept.pop()
    assert pool.room(1) is not None


@given(st.lists(st.tuples(st.integers(1, POOL_CHUNK), st.integers(0, 5)), max_size=80))
def test_nothing_that_is_looked_at_is_ever_written_over(script: list[tuple[int, int]]) -> None:
    pool = Pool()
    kept: list[tuple[memoryview, int]] = []
    for number, (size, drop) in enumerate(script):
        mark = number % 251 + 1
        kept.append((read(pool, bytes([mark]) * size), mark))
        if drop < len(kept):
            del kept[drop]
        for view, wanted in kept:
            assert view[0] == view[-1] == wanted
