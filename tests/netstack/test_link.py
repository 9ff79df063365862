# SPDX-License-Identifier: GPL-3.0-or-later
"""link.py with a pair of sockets in the place of a packet socket: both keep the boundaries of frames."""

from __future__ import annotations

import os
import socket

import pytest
from wire_frames import frame_v4

from avne.errors import Malformed
from avne.netstack.link import Packets, Tun
from avne.netstack.wire import ethernet, ip, split, vnet

PACKET = frame_v4(bytes(20) + b"text of the segment" * 100)[vnet.SIZE :]


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    counted = []
    with ours, theirs:
        yield Packets(ours.fileno(), counted.append), theirs, counted


def _frame(kind, packet, start=34):
    return vnet.partial(start, 16) + ethernet.GUEST * 2 + bytes.fromhex(kind) + packet


def test_what_is_read_is_as_a_tun_has_it(ends):
    packets, guest, counted = ends
    guest.send(_frame("0800", PACKET))
    assert packets.read(70000) == vnet.partial(20, 16) + PACKET
    assert not counted


def test_in_two_parts_too(ends):
    packets, guest, counted = ends
    guest.send(_frame("0800", PACKET))
    head, room = bytearray(split.HEAD_V4), bytearray(70000)
    size = packets.readv((head, memoryview(room)))
    assert size == vnet.SIZE + len(PACKET)
    assert bytes(head) + bytes(room[: size - len(head)]) == vnet.partial(20, 16) + PACKET
    assert not counted


@pytest.mark.parametrize("frame", [_frame("0806", PACKET), _frame("88b5", b""), bytes(24), bytes(5), b"x"])
def test_a_frame_without_ip_is_an_empty_packet_and_counted(ends, frame):
    packets, guest, counted = ends
    guest.send(frame)
    found = packets.read(70000)
    assert len(found) == vnet.SIZE
    with pytest.raises(Malformed):
        ip.parse(found)
    guest.send(frame)
    assert packets.readv((bytearray(split.HEAD_V4), memoryview(bytearray(70000)))) == vnet.SIZE
    assert counted == ["frame-not-ip"] * 2


def test_an_error_of_the_device_is_an_empty_packet_and_counted(ends):
    packets, _, counted = ends
    directory = os.open("/", os.O_RDONLY)
    os.dup2(directory, packets._fd)
    os.close(directory)
    assert packets.read(70000) == bytes(vnet.SIZE)
    assert counted == ["frame-read-21"], "EISDIR"


def test_what_is_written_has_an_ethernet_header(ends):
    packets, guest, _ = ends
    pieces = (vnet.partial(20, 16) + PACKET[:40], memoryview(PACKET)[40:])
    assert packets.writev(pieces) == vnet.SIZE + len(PACKET), "as a tun would count"
    assert guest.recv(70000) == (
        vnet.partial(34, 16) + ethernet.GUEST + ethernet.STACK + b"\x08\x00" + PACKET
    )


def _write_for_ever(packets):
    for _ in range(10000):
        packets.writev((vnet.PLAIN + PACKET,))


def test_a_full_queue_is_told(ends):
    packets, _, _ = ends
    with pytest.raises(BlockingIOError):
        _write_for_ever(packets)


def test_an_empty_one_too(ends):
    packets, _, _ = ends
    with pytest.raises(BlockingIOError):
        packets.read(70000)


def test_a_tun_s_calls_are_the_kernel_s():
    read, write = os.pipe()
    tun = Tun(write)
    assert (tun.writev((b"a", b"b")), tun.lost()) == (2, 0)
    other = Tun(read)
    assert other.read(2) == b"ab"
    with pytest.raises(BlockingIOError):
        other.read(2)
    os.close(read)
    os.close(write)
