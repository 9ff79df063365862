# SPDX-License-Identifier: GPL-3.0-or-later
"""The lane: two real ends, and what a peer that breaks it can do."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
from array import array
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avne.errors import Malformed
from avne.ipc.lane import Lane, LaneMessage, Piece
from avne.ipc.messages import DATA, encode, takes_lane
from avne.ipc.slab import Slab
from avne.limits import INLINE_BELOW, MAX_HEADER, MAX_INLINE, MAX_PAYLOAD, SLAB_BYTES, SLAB_CHUNK

FRAME = struct.Struct("<HBxII")


@pytest.fixture
def ends() -> Iterator[tuple[Lane, Lane]]:
    one, two = socket.socketpair()
    lanes = Lane(one), Lane(two)
    yield lanes
    for lane in lanes:
        lane.close()


def pump(sender: Lane, receiver: Lane, count: int) -> list[LaneMessage]:
    """Flush and read until `count` messages have come."""
    came: list[LaneMessage] = []
    while len(came) < count:
        sender.flush()
        assert select.select([receiver], [], [], 10)[0]
        received = receiver.receive()
        assert received is not None
        came += received
    assert receiver.receive() == []
    return came


def content(message: LaneMessage) -> tuple[bytes, bytes | None]:
    header, payload = message
    return header, bytes(payload.view) if isinstance(payload, Piece) else payload


def test_messages_arrive_both_ways_in_order(ends: tuple[Lane, Lane]) -> None:
    for sender, receiver in (ends, ends[::-1]):
        sender.send(b"plain")
        sender.send(b"small", b"payload")
        sender.send(b"large", os.urandom(100_000))
        sender.send(b"empty", b"")
        sender.send(b"last")
        came = [content(message) for message in pump(sender, receiver, 4)]
        assert [header for header, _ in came] == [b"plain", b"small", b"large", b"last"]
        assert came[1][1] == b"payload"


def test_a_large_payload_is_a_piece_and_comes_back(ends: tuple[Lane, Lane]) -> None:
    data = os.urandom(INLINE_BELOW)
    ends[0].send(b"h", data)
    ((_, piece),) = pump(*ends, 1)
    assert isinstance(piece, Piece)
    assert piece.view == data
    ends[0].slab.give_back(piece.offset)


def test_a_piece_goes_as_it_is(ends: tuple[Lane, Lane]) -> None:
    slab = ends[0].slab
    room = slab.room(MAX_PAYLOAD)
    assert room is not None
    room[:5] = b"bytes"
    offset = slab.take(5)
    ends[0].send(b"h", Piece(offset, slab.memory[offset : offset + 5]))
    ((_, piece),) = pump(*ends, 1)
    assert isinstance(piece, Piece)
    assert (piece.offset, bytes(piece.view)) == (offset, b"bytes")


def test_without_room_a_payload_is_cut_and_whole(ends: tuple[Lane, Lane]) -> None:
    slab = ends[0].slab
    while slab.room(SLAB_CHUNK) is not None:
        slab.take(SLAB_CHUNK)
    data = os.urandom(MAX_PAYLOAD)
    ends[0].send(b"h", memoryview(data))
    parts = pump(*ends, MAX_PAYLOAD // MAX_INLINE)
    assert b"".join(content(part)[1] or b"" for part in parts) == data
    assert all(len(content(part)[1] or b"") <= MAX_INLINE for part in parts)


def test_a_small_payload_is_copied_at_once(ends: tuple[Lane, Lane]) -> None:
    buffer = bytearray(b"before")
    ends[0].send(b"h", memoryview(buffer))
    buffer[:] = b"after!"
    assert content(pump(*ends, 1)[0]) == (b"h", b"before")


def test_nothing_is_lost_while_the_peer_does_not_read(ends: tuple[Lane, Lane]) -> None:
    sender, receiver = ends
    count = 0
    while not sender.blocked:
        for _ in range(100):
            sender.send(encode(DATA, count), count.to_bytes(1000, "big"))
            count += 1
        sender.flush()
    sender.send(b"after it was blocked")
    came = pump(sender, receiver, count + 1)
    assert [message[0] for message in came[:-1]] == [encode(DATA, n) for n in range(count)]
    assert [content(m)[1] for m in came[:-1]] == [n.to_bytes(1000, "big") for n in range(count)]
    assert came[-1] == (b"after it was blocked", None)
    assert not sender.blocked
    assert not sender.waiting


def test_the_end_is_seen_after_what_was_sent(ends: tuple[Lane, Lane]) -> None:
    sender, receiver = ends
    sender.send(b"last words")
    sender.flush()
    sender._sock.shutdown(socket.SHUT_RDWR)
    assert pump_until_end(receiver) == [(b"last words", None)]
    receiver.send(b"to nobody")
    receiver.flush()
    assert not receiver.blocked


def pump_until_end(receiver: Lane) -> list[LaneMessage]:
    came: list[LaneMessage] = []
    while (received := receiver.receive()) is not None:
        came += received
    return came


def test_an_end_before_the_slab_has_come() -> None:
    one, two = socket.socketpair()
    two.close()
    lane = Lane(one)
    assert lane.receive() is None
    lane.close()


# ---- a peer that breaks it -----------------------------------------------------------------


class Rogue:
    """The other end, bare."""

    def __init__(self, greet: bool = True) -> None:
        one, self.sock = socket.socketpair()
        self.lane = Lane(one)
        self.slab = Slab()
        if greet:
            self.say(FRAME.pack(0, 0, 0, 0), self.slab.fd)
            assert self.lane.receive() == []

    def say(self, data: bytes, *fds: int) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
        self.sock.sendmsg([data], rights)

    def close(self) -> None:
        self.lane.close()
        self.sock.close()
        self.slab.close()


@pytest.fixture
def rogue() -> Iterator[Rogue]:
    rogue = Rogue()
    yield rogue
    rogue.close()


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (FRAME.pack(MAX_HEADER + 1, 0, 0, 0), "wire-frame-size"),
        (FRAME.pack(1, 1, MAX_INLINE + 1, 0), "wire-frame-size"),
        (FRAME.pack(1, 2, 0, 0) + b"h", "wire-frame-size"),
        (FRAME.pack(1, 2, 0, MAX_PAYLOAD + 1) + b"h", "wire-frame-size"),
        (FRAME.pack(1, 2, SLAB_BYTES, 1) + b"h", "wire-slab"),
        (FRAME.pack(1, 2, SLAB_BYTES - 10, 11) + b"h", "wire-slab"),
        (FRAME.pack(1, 2, 0xFFFFFFFF, 1) + b"h", "wire-slab"),
        (FRAME.pack(1, 3, 0, 0) + b"h", "wire-frame-form"),
        (FRAME.pack(1, 255, 0, 0) + b"h", "wire-frame-form"),
    ],
)
def test_what_is_no_frame(rogue: Rogue, frame: bytes, reason: str) -> None:
    rogue.say(frame)
    with pytest.raises(Malformed, match=reason):
        rogue.lane.receive()


def test_a_second_descriptor_is_not_taken() -> None:
    rogue = Rogue(greet=False)
    before = len(os.listdir("/proc/self/fd"))
    rogue.say(FRAME.pack(0, 0, 0, 0), rogue.slab.fd, rogue.slab.fd)
    assert rogue.lane.receive() == []
    assert len(os.listdir("/proc/self/fd")) == before + 1  # the mapping has one
    rogue.close()


@pytest.mark.parametrize("flaw", ["no descriptor", "a pipe", "other bytes"])
def test_what_is_no_greeting(flaw: str) -> None:
    rogue = Rogue(greet=False)
    pipe = os.pipe()
    fds = {"no descriptor": (), "a pipe": (pipe[0],)}
    rogue.say(FRAME.pack(0, flaw == "other bytes", 0, 0), *fds.get(flaw, (rogue.slab.fd,)))
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Malformed, match="wire-slab"):
        rogue.lane.receive()
    assert len(os.listdir("/proc/self/fd")) == before, "a descriptor is left open"
    for fd in pipe:
        os.close(fd)
    rogue.close()


def test_later_descriptors_are_not_kept(rogue: Rogue) -> None:
    before = len(os.listdir("/proc/self/fd"))
    rogue.say(FRAME.pack(1, 0, 0, 0) + b"h", rogue.slab.fd)
    assert rogue.lane.receive() == [(b"h", None)]
    assert len(os.listdir("/proc/self/fd")) == before


@given(st.lists(st.binary(max_size=200), max_size=20), st.integers(1, 30))
def test_frames_may_come_in_any_pieces(headers: list[bytes], step: int) -> None:
    data = b"".join(FRAME.pack(len(h), 1, len(h), 0) + h + h[::-1] for h in headers)
    came: list[LaneMessage] = []
    with contextlib.closing(Rogue()) as rogue:
        for at in range(0, len(data), step):
            rogue.say(data[at : at + step])
            received = rogue.lane.receive()
            assert received is not None
            came += received
    assert came == [(h, h[::-1]) for h in headers]


@given(st.binary(min_size=1, max_size=500))
def test_garbage_is_malformed_or_waits(data: bytes) -> None:
    with contextlib.closing(Rogue()) as rogue:
        rogue.say(data)
        with contextlib.suppress(Malformed):
            assert rogue.lane.receive() is not None


def test_which_messages_take_it() -> None:
    assert takes_lane(encode(DATA, 1 << 40))
