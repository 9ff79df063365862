# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import contextlib

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avne.errors import Malformed
from avne.ipc.messages import (
    CREDIT,
    EARLY,
    HELLO,
    OPEN,
    OPENED,
    PING,
    READY,
    RESOLVE,
    RESOLVED,
    TABLE,
    Sender,
    decode,
    encode,
)
from avne.limits import CREDIT_MAX, EARLY_PIECE, MAX_HEADER, MAX_HOST


def either(data: bytes) -> None:
    """`decode` by each side: all that it may raise is `Malformed`."""
    for sender in (Sender.NETSTACK, Sender.WORKER):
        with contextlib.suppress(Malformed):
            assert decode(data, sender)[0] in TABLE


@pytest.mark.parametrize("kind", TABLE)
def test_largest_values_pass_and_larger_ones_do_not(kind: int) -> None:
    row = TABLE[kind]
    sender = Sender.WORKER if row.sender is Sender.BOTH else row.sender

    def largest(field: object, over: int) -> object:
        limit, of = field.limit + over, field.kind  # type: ignore[attr-defined]
        if of is int:
            return limit
        return "x" * limit if of is str else bytes(limit) if of is bytes else ["y" * 100] * limit

    good = [largest(field, 0) for field in row.fields]
    assert decode(encode(kind, (1 << 63) - 1, *good), sender) == [kind, (1 << 63) - 1, *good]
    for index, field in enumerate(row.fields):
        bad = [*good]
        bad[index] = largest(field, 1)
        with pytest.raises(Malformed, match=f"wire-field-{field.name}|wire-header-syntax"):
            decode(encode(kind, 1, *bad), sender)
    with pytest.raises(Malformed, match="wire-fields"):
        decode(encode(kind, 1, *good, 0), sender)
    if row.sender is not Sender.BOTH:
        other = Sender.NETSTACK if sender is Sender.WORKER else Sender.WORKER
        with pytest.raises(Malformed, match="wire-direction"):
            decode(encode(kind, 1, *good), other)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (7, "shape"),
        ({}, "shape"),
        ([], "shape"),
        ([READY], "shape"),
        ("x", "shape"),
        ([True, 1], "shape"),
        ([READY, True], "shape"),
        ([READY, -1], "shape"),
        ([READY, 1 << 63], "shape"),
        ([READY, "1"], "shape"),
        ([0, 1], "type"),
        ([99, 1], "type"),
        ([-1, 1], "type"),
        ([PING, 0, -1], "field-nonce"),
        ([PING, 0, 1.0], "field-nonce"),
        ([PING, 0, True], "field-nonce"),
        ([CREDIT, 1, CREDIT_MAX + 1], "field-bytes"),
        ([CREDIT, 1, None], "field-bytes"),
        ({1: 2}, "header-syntax"),
        ([READY, [b"bin"]], "header-shape"),
        ([READY, 1, b"bin"], "wire-fields"),
        ([READY, b"x" * (EARLY_PIECE + 2)], "header-syntax"),
        ([EARLY, 1, "text"], "field-data"),
        (list(range(21)), "header-syntax"),
    ],
)
def test_what_is_no_message(message: object, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        decode(msgpack.packb(message), Sender.NETSTACK)


@pytest.mark.parametrize("answers", [["x" * (MAX_HOST + 1)], [1], [["nested"]], ["ok", None]])
def test_items_of_a_list_are_bounded_texts(answers: list[object]) -> None:
    with pytest.raises(Malformed, match="wire-field-answers"):
        decode(encode(RESOLVED, 1, 0, answers, 0), Sender.WORKER)


def test_a_header_is_bounded() -> None:
    with pytest.raises(Malformed, match="wire-header-size"):
        decode(bytes(MAX_HEADER + 1), Sender.WORKER)


@pytest.mark.parametrize(
    "data", [b"", b"\x92", b"\xc1", b"\x92\x02\x00\x00", b"\xdd\xff\xff\xff\xff", b"\x92\x02\xa1\xff"]
)
def test_what_is_no_msgpack(data: bytes) -> None:
    with pytest.raises(Malformed):
        decode(data, Sender.NETSTACK)


@given(st.binary(max_size=MAX_HEADER + 2))
def test_any_bytes_are_a_message_or_malformed(data: bytes) -> None:
    either(data)


@given(st.data(), st.integers(0, 40))
def test_a_damaged_message_is_a_message_or_malformed(data: st.DataObject, position: int) -> None:
    header = data.draw(
        st.sampled_from(
            [
                encode(OPEN, 1, "h", 80, 1, ""),
                encode(RESOLVE, 1, 0, "x", ""),
                encode(OPENED, 3, 9),
                encode(HELLO, 0, 1, "t", 1),
            ]
        )
    )
    damaged = bytearray(header)
    damaged[position % len(header)] = data.draw(st.integers(0, 255))
    either(bytes(damaged))
