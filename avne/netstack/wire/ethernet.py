# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames of the packet socket that takes the place of a tun, and what a tun would have given for them.

Between the vnet header and the IP packet there is an Ethernet header (IEEE 802.3 §3.1.1), and what the vnet
header says of places counts from there.  The two addresses are the helper's constants (network.c).
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from avne.netstack.wire import vnet

SIZE: Final = 14
STACK: Final = bytes.fromhex("0261766e6501")  # our end
GUEST: Final = bytes.fromhex("0261766e6502")  # the environment's
_TYPES: Final = (b"\x08\x00", b"\x86\xdd")  # IPv4, IPv6
_HEADERS: Final = tuple(GUEST + STACK + kind for kind in _TYPES)

_LENGTH: Final = Struct("<H")  # hdr_len
_START: Final = Struct("<H")  # csum_start
_LENGTH_AT: Final = 2
_START_AT: Final = 6


def front(piece: bytes | bytearray | memoryview) -> bytes:
    """The vnet and Ethernet headers for a frame to the guest; `piece` begins with its vnet and IP headers."""
    header = bytearray(piece[: vnet.SIZE])
    if header[0] & vnet.NEEDS_CSUM:
        _move(header, SIZE)
    return bytes(header) + _HEADERS[piece[vnet.SIZE] >> 4 == 6]


def is_ip(header: bytes | bytearray) -> bool:
    """Whether an IP packet follows this Ethernet header."""
    return header[12:SIZE] in _TYPES


def settle(header: bytearray | memoryview) -> None:
    """The vnet header of a frame of the guest's becomes that of its packet."""
    if header[0] & vnet.NEEDS_CSUM:
        _move(header, -SIZE)


def _move(header: bytearray | memoryview, by: int) -> None:
    for field, at in ((_LENGTH, _LENGTH_AT), (_START, _START_AT)):
        (value,) = field.unpack_from(header, at)
        if value:
            field.pack_into(header, at, max(0, min(value + by, 0xFFFF)))
