# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avne.netstack.wire import checksum


def _by_the_book(data: bytes) -> int:
    """RFC 1071 §4.1, word by word."""
    if len(data) % 2:
        data += b"\0"
    total = 0
    for at in range(0, len(data), 2):
        total += data[at] << 8 | data[at + 1]
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_the_example_of_the_rfc():
    data = bytes((0x00, 0x01, 0xF2, 0x03, 0xF4, 0xF5, 0xF6, 0xF7))
    assert checksum.total(data) == 0xDDF2
    assert checksum.checksum(data) == 0xFFFF - 0xDDF2


def test_a_known_ipv4_header():
    header = bytes.fromhex("45000073000040004011b861c0a80001c0a800c7")
    assert checksum.total(header) == 0xFFFF
    assert checksum.checksum(header[:10] + b"\0\0" + header[12:]) == 0xB861


@given(st.binary(max_size=300) | st.integers(0, 9).map(lambda n: b"\xff" * n) | st.just(bytes(8)))
def test_any_data_sums_as_by_the_book(data):
    assert checksum.total(data) == _by_the_book(data)
    assert checksum.total(memoryview(data)) == _by_the_book(data)


@pytest.mark.parametrize("size", [1023, 1024, 1025, 1026, 2047, 2048, 2049, 65_515])
def test_large_data_sums_as_by_the_book(size):
    for data in (bytes(size), b"\xff" * size, bytes(i * i % 251 for i in range(size))):
        assert checksum.total(data) == _by_the_book(data)
        assert checksum.total(memoryview(data)) == _by_the_book(data)


@given(st.binary(max_size=300).filter(lambda data: len(data) % 2 == 0))
def test_data_with_its_checksum_sums_to_all_ones(data):
    whole = data + checksum.checksum(data).to_bytes(2, "big")
    assert checksum.total(whole) == 0xFFFF


@given(st.integers(0, 1 << 40))
def test_fold_keeps_the_remainder(number):
    folded = checksum.fold(number)
    assert 0 <= folded <= 0xFFFF
    assert (folded - number) % 0xFFFF == 0
    assert bool(folded) is bool(number)


@given(st.sampled_from([4, 16]).flatmap(lambda n: st.tuples(*[st.binary(min_size=n, max_size=n)] * 2)))
def test_the_pseudo_header(addresses):
    src, dst = addresses
    assert checksum.pseudo_header(src, dst, 6) == checksum.fold(_by_the_book(src + dst + b"\0\6"))
