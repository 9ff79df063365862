# SPDX-License-Identifier: GPL-3.0-or-later
"""The Internet checksum (RFC 1071).

A one's-complement sum of 16-bit words is a remainder modulo 0xFFFF, and Python's big
integers take that remainder faster than any loop over words.
"""

from __future__ import annotations

from typing import Final

_CHUNK: Final = 1024  # bytes; adding such numbers is cheaper than the remainder of one as large as all


def total(data: bytes | memoryview) -> int:
    """The one's-complement sum of `data` as big-endian 16-bit words, an odd end padded with zero.

    Zero is given as 0xFFFF unless all of `data` is zero, as an adder with end-around carry does.
    """
    size = len(data)
    if size > _CHUNK:
        last = size - size % _CHUNK
        number = int.from_bytes(data[last:], "big") << 8 * (size & 1)
        for at in range(0, last, _CHUNK):
            number += int.from_bytes(data[at : at + _CHUNK], "big")
    else:
        number = int.from_bytes(data, "big")
        if size & 1:
            number <<= 8
    remainder = number % 0xFFFF
    return remainder if remainder or not number else 0xFFFF


def fold(number: int) -> int:
    """`number`, a sum of words, folded into 16 bits."""
    while number > 0xFFFF:
        number = (number & 0xFFFF) + (number >> 16)
    return number


def checksum(data: bytes | memoryview) -> int:
    """The checksum field's value for `data` with a zero in that field (RFC 1071 §1)."""
    return ~total(data) & 0xFFFF


def pseudo_header(src: bytes, dst: bytes, protocol: int) -> int:
    """The sum of the pseudo header without its length (RFC 9293 §3.1, RFC 8200 §8.1).

    The addresses are 4 or 16 bytes; add the length of the upper-layer packet and fold.
    """
    return fold(total(src) + total(dst) + protocol)
