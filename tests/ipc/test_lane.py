# SPDX-License-Identifier: GPL-3.0-or-later
"""The lane: two real ends, and what a peer that breaks it can do."""

from __future__ import annotations

import os
import resource
import select
import socket
import struct
from array import array
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avne.errors import Malformed
from avne.ipc.lane import Lane, LaneMessage
from avne.ipc.messages import OPEN, encode
from avne.limits import LANE_PACKET, MAX_HEADER

HEAD = struct.Struct("<H?")


@pytest.fixture
def ends() -> Iterator[tuple[Lane, Lane]]:
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    lanes = Lane(one), Lane(two)
    yield lanes
    for lane in lanes:
        lane.close()


@pytest.fixture
def raw() -> Iterator[tuple[socket.socket, Lane]]:
    """A peer that may send anything, and a lane."""
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    lane = Lane(two)
    with one:
        yield one, lane
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


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_messages_arrive_both_ways_in_order(ends: tuple[Lane, Lane]) -> None:
    for sender, receiver in (ends, ends[::-1]):
        headers = [b"%d" % n for n in range(LANE_PACKET * 3)]
        for header in headers:
            sender.send(header)
        assert sender.waiting
        assert pump(sender, receiver, len(headers)) == [(header, None) for header in headers]
        assert not sender.waiting


def test_a_socket_goes_with_its_message_and_is_the_receivers_then(ends: tuple[Lane, Lane]) -> None:
    before = descriptors()
    pairs = [socket.socketpair() for _ in range(LANE_PACKET + 3)]
    for number, (ours, _) in enumerate(pairs):
        ends[0].send(b"without")
        ends[0].send(b"%d" % number, ours)
    came = pump(*ends, 2 * len(pairs))
    assert [sock for _, sock in came[::2]] == [None] * len(pairs)
    for number, (header, sock) in enumerate(came[1::2]):
        assert header == b"%d" % number
        assert sock is not None
        with sock:
            assert not os.get_inheritable(sock.fileno())
            sock.send(b"%d" % number)
    for number, (ours, theirs) in enumerate(pairs):
        assert ours.fileno() == -1, "closed here"
        with theirs:
            assert theirs.recv(100) == b"%d" % number
            assert theirs.recv(100) == b"", "nobody else has it"
    assert descriptors() == before


def test_nothing_is_lost_while_the_peer_does_not_read(ends: tuple[Lane, Lane]) -> None:
    sender, receiver = ends
    count = 0
    while not sender.blocked:
        for _ in range(100):
            sender.send(encode(OPEN, count, "h" * 200, 1, 1))
            count += 1
        sender.flush()
    sender.send(b"after it was blocked")
    came = pump(sender, receiver, count + 1)
    assert [header for header, _ in came[:-1]] == [encode(OPEN, n, "h" * 200, 1, 1) for n in range(count)]
    assert came[-1] == (b"after it was blocked", None)
    assert not sender.blocked


def test_a_lane_that_is_closed_keeps_no_socket(ends: tuple[Lane, Lane]) -> None:
    ours, theirs = socket.socketpair()
    ends[0].send(b"never sent", ours)
    ends[0].close()
    with theirs:
        assert theirs.recv(1) == b""


def test_a_peer_that_is_gone_is_the_end_of_file(ends: tuple[Lane, Lane]) -> None:
    ours, theirs = socket.socketpair()
    ends[1].close()
    ends[0].send(b"to nobody", ours)
    ends[0].flush()
    assert not ends[0].blocked
    assert not ends[0].waiting
    assert ends[0].receive() is None
    with theirs:
        assert theirs.recv(1) == b""


def test_without_descriptors_left_the_message_comes_alone(ends: tuple[Lane, Lane]) -> None:
    """unix(7): what does not fit is closed.  The first ones get theirs."""
    pairs = [socket.socketpair() for _ in range(3)]
    for number, (ours, _) in enumerate(pairs):
        ends[0].send(b"%d" % number, ours)
    ends[0].flush()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, hard))
    try:
        came = ends[1].receive()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert came is not None
    assert [header for header, _ in came] == [b"0", b"1", b"2"]
    assert [sock is not None for _, sock in came] == [True, False, False]
    for (_, sock), (_, theirs) in zip(came, pairs, strict=True):
        theirs.close()
        if sock is not None:
            sock.close()


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (b"\1", "wire-frame-size"),
        (HEAD.pack(5, False) + b"four", "wire-frame-size"),
        (HEAD.pack(MAX_HEADER + 1, False) + bytes(MAX_HEADER + 1), "wire-frame-size"),
        (HEAD.pack(2, False) + b"ok" + b"\0\0", "wire-frame-size"),
    ],
)
def test_a_packet_that_is_none(raw: tuple[socket.socket, Lane], packet: bytes, reason: str) -> None:
    peer, lane = raw
    peer.send(packet)
    with pytest.raises(Malformed, match=reason):
        lane.receive()


def test_descriptors_that_nobody_asked_for_are_closed(raw: tuple[socket.socket, Lane]) -> None:
    peer, lane = raw
    before = descriptors()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [peer.fileno()] * 2))]
    peer.sendmsg([HEAD.pack(1, True) + b"h"], rights)
    with pytest.raises(Malformed, match="wire-descriptors"):
        lane.receive()
    assert descriptors() == before
    peer.sendmsg([HEAD.pack(2, True) + b"h"], rights)
    with pytest.raises(Malformed, match="wire-frame-size"):
        lane.receive()
    assert descriptors() == before


def test_a_descriptor_that_is_no_socket(raw: tuple[socket.socket, Lane]) -> None:
    peer, lane = raw
    before = descriptors()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [peer.fileno(), 0, 0]))]
    peer.sendmsg([(HEAD.pack(1, True) + b"h") * 3], rights)
    with pytest.raises(Malformed, match="wire-descriptors"):
        lane.receive()
    assert descriptors() == before


@given(st.binary(min_size=1, max_size=200), st.integers(0, 3))
def test_no_packet_raises_anything_but_malformed(packet: bytes, given_fds: int) -> None:
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    lane = Lane(two)
    before = descriptors()
    with one:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [one.fileno()] * given_fds))]
        one.sendmsg([packet], rights if given_fds else [])
        try:
            for _, sock in lane.receive() or []:
                if sock is not None:
                    sock.close()
        except Malformed:
            pass
        assert descriptors() == before
    lane.close()
