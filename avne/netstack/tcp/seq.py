# SPDX-License-Identifier: GPL-3.0-or-later
"""Sequence number arithmetic modulo 2**32 (RFC 9293 §3.4)."""

from __future__ import annotations

from typing import Final

MASK: Final = 0xFFFFFFFF
_HALF: Final = 0x80000000


def add(seq: int, count: int) -> int:
    return (seq + count) & MASK


def diff(later: int, earlier: int) -> int:
    """How far `later` is after `earlier`: negative where it is before, in −2**31 … 2**31−1."""
    distance = (later - earlier) & MASK
    return distance - 0x100000000 if distance & _HALF else distance


def lt(a: int, b: int) -> bool:
    return (a - b) & _HALF != 0


def le(a: int, b: int) -> bool:
    return (b - a) & _HALF == 0


def within(seq: int, start: int, length: int) -> bool:
    """start ≤ seq < start + length."""
    return (seq - start) & MASK < length
