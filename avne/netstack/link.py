# SPDX-License-Identifier: GPL-3.0-or-later
"""The descriptor that packets come from and go to: a tun's, or a packet socket at the end of a veth pair.

Both give and take what a tun has: a vnet header and an IP packet, in pieces.  For a tun the calls are
those of `os`, with nothing in between.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Sequence
from functools import partial
from struct import Struct
from typing import Final

from avne.confine.rules import call, one_of
from avne.confine.runtime import NONBLOCKING
from avne.netstack.wire import ethernet, vnet

GONE: Final = (errno.EIO, errno.ENXIO, errno.ENETDOWN)  # from a write: the device is down, or is no more

Piece = bytes | bytearray | memoryview

_SOL_PACKET: Final = 263  # <linux/socket.h>, <linux/if_packet.h>
_PACKET_STATISTICS: Final = 6
_STATISTICS: Final = Struct("=II")  # packets drops

SYSCALLS: Final = (
    "read", "readv", "writev", NONBLOCKING, "getsockname",
    call("getsockopt", one_of(1, socket.SOL_SOCKET), one_of(2, socket.SO_TYPE, socket.SO_PROTOCOL)),
    call("getsockopt", one_of(1, _SOL_PACKET), one_of(2, _PACKET_STATISTICS)),
)  # fmt: skip


class Tun:
    """The kernel's queue has its own bound, and drops nothing that a program could not send again."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self.read: Callable[[int], bytes] = partial(os.read, fd)
        self.readv: Callable[[tuple[bytearray, memoryview]], int] = partial(os.readv, fd)
        self.writev: Callable[[Sequence[Piece]], int] = partial(os.writev, fd)

    def lost(self) -> int:
        return 0


class Packets:
    """A packet socket with PACKET_VNET_HDR (packet(7)); what is odd is told to `count`.

    A frame that holds no IP packet, or that the kernel cannot describe (EINVAL: a kind of GSO that it has
    no word for), comes as an empty packet.
    """

    def __init__(self, fd: int, count: Callable[[str], None]) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._count = count
        self._vnet = bytearray(vnet.SIZE)
        self._ethernet = bytearray(ethernet.SIZE)

    def read(self, size: int) -> bytes:
        packet = bytearray(size - vnet.SIZE)
        got = self._receive(self._vnet, packet)
        return bytes(self._vnet) + packet[: got - vnet.SIZE]

    def readv(self, pieces: tuple[bytearray, memoryview]) -> int:
        head, room = pieces
        with memoryview(head) as whole, whole[: vnet.SIZE] as front, whole[vnet.SIZE :] as rest:
            return self._receive(front, rest, room)

    def _receive(self, front: bytearray | memoryview, *packet: bytearray | memoryview) -> int:
        try:
            size = os.readv(self._fd, (front, self._ethernet, *packet)) - ethernet.SIZE
        except BlockingIOError:
            raise
        except OSError as error:
            self._count(f"frame-read-{error.errno}")
            return vnet.SIZE
        if size <= vnet.SIZE or not ethernet.is_ip(self._ethernet):
            self._count("frame-not-ip")
            return vnet.SIZE
        ethernet.settle(front)
        return size

    def writev(self, pieces: Sequence[Piece]) -> int:
        first = pieces[0]
        with memoryview(first) as whole, whole[vnet.SIZE :] as rest:
            sent = os.writev(self._fd, (ethernet.front(first), rest, *pieces[1:]))
        return sent - ethernet.SIZE

    def lost(self) -> int:
        """How many frames found no room since the last call."""
        packets = socket.socket(fileno=self._fd)
        try:
            statistics = packets.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size)
        finally:
            packets.detach()
        return int(_STATISTICS.unpack(statistics)[1])
