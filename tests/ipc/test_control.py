# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from avne.ipc.control import MAX_FDS, Control


@pytest.fixture
def pair() -> Iterator[tuple[Control, Control]]:
    ours, theirs = Control.pair()
    other = Control.from_fd(theirs.detach())
    yield ours, other
    ours.close()
    other.close()


def test_messages_keep_their_borders_and_order(pair: tuple[Control, Control]) -> None:
    ours, other = pair
    ours.send("config", {"key": [1, "two", None], 3: b"x"})
    ours.send("drain")
    assert other.receive() == (["config", {"key": [1, "two", None], 3: b"x"}], [])
    assert other.receive(wait=True) == (["drain"], [])
    assert other.receive() is None


def test_descriptors_come_along_closed_on_exec(pair: tuple[Control, Control]) -> None:
    ours, other = pair
    read, write = os.pipe()
    ours.send("tun", fds=(write,))
    received = other.receive()
    assert received is not None
    message, (copy,) = received
    assert message == ["tun"]
    assert not os.get_inheritable(copy)
    os.write(copy, b"through")
    assert os.read(read, 10) == b"through"
    for fd in (read, write, copy):
        os.close(fd)


def test_the_end_is_an_empty_message(pair: tuple[Control, Control]) -> None:
    ours, other = pair
    ours.send("last")
    ours.close()
    assert other.receive() == (["last"], [])
    assert other.receive() == ([], [])
    other.send("to nobody")
    assert other.receive(wait=True) == ([], [])


def test_a_peer_that_left_our_message_unread_is_gone_all_the_same(pair: tuple[Control, Control]) -> None:
    ours, other = pair
    other.send("unread")
    ours.close()
    assert other.receive() == ([], [])


def test_descriptors_of_an_empty_packet_are_not_kept() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    other = Control(theirs)
    before = len(os.listdir("/proc/self/fd"))
    socket.send_fds(ours, [b""], [ours.fileno()] * MAX_FDS)
    assert other.receive() == ([], [])
    assert len(os.listdir("/proc/self/fd")) == before
    ours.close()
    other.close()


@pytest.mark.parametrize(
    "packet", [b"\xc1", b"\x05", b"\x80", b"\x91", b"\x91\x05\x05", b"\xa1\xff", b"\x90", b"\x91\xc7\x01"]
)
def test_a_peer_that_sends_garbage_is_as_good_as_gone(pair: tuple[Control, Control], packet: bytes) -> None:
    ours, other = pair
    read, write = os.pipe()
    before = len(os.listdir("/proc/self/fd"))
    socket.send_fds(ours._sock, [packet], [write])
    assert other.receive() == ([], [])
    assert len(os.listdir("/proc/self/fd")) == before, "its descriptors are closed"
    os.close(read)
    os.close(write)
