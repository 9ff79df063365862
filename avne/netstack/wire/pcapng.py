# SPDX-License-Identifier: GPL-3.0-or-later
"""The blocks of a pcapng file with one section and one interface (draft-ietf-opsawg-pcapng).

All numbers are little-endian, which the section header's magic says; every block's length is
a multiple of 4 and stands at both of its ends.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from typing import Final

LINKTYPE_RAW: Final = 101  # the packet begins with its IP header, of either version

# Directions, of a packet option's flags word (§4.3): as the interface's owner sees them.
INBOUND: Final = 1
OUTBOUND: Final = 2

_SECTION, _INTERFACE, _NAMES, _PACKET = 0x0A0D0D0A, 1, 4, 6
_BYTE_ORDER, _VERSION, _LENGTH_UNKNOWN = 0x1A2B3C4D, (1, 0), -1
_END_OF_OPTIONS: Final = bytes(4)
_COMMENT, _USER_APPLICATION, _INTERFACE_NAME, _FLAGS, _RESOLUTION = 1, 4, 2, 2, 9
_NANOSECONDS: Final = bytes((9,))  # 10 to the power of -9 s
_IPV4_RECORD, _IPV6_RECORD, _END_OF_RECORDS = 1, 2, bytes(4)

_EDGE: Final = Struct("<II")
_TAGGED: Final = Struct("<HH")
_SECTION_BODY: Final = Struct("<IHHq")
_INTERFACE_BODY: Final = Struct("<HHI")
_PACKET_HEAD: Final = Struct("<IIIIIII")
_PACKET_OPTIONS: Final = Struct("<HHI")


def section(application: str) -> bytes:
    """The Section Header Block (§4.1) of a file that `application` writes."""
    body = _SECTION_BODY.pack(_BYTE_ORDER, *_VERSION, _LENGTH_UNKNOWN)
    return _block(_SECTION, body + _tagged(_USER_APPLICATION, application.encode()) + _END_OF_OPTIONS)


def interface(name: str, snaplen: int) -> bytes:
    """The Interface Description Block (§4.2) of interface 0: IP packets, times in nanoseconds.

    `snaplen`: how many bytes of a packet are captured at most.
    """
    options = _tagged(_INTERFACE_NAME, name.encode()) + _tagged(_RESOLUTION, _NANOSECONDS)
    body = _INTERFACE_BODY.pack(LINKTYPE_RAW, 0, snaplen)
    return _block(_INTERFACE, body + options + _END_OF_OPTIONS)


def names(records: Iterable[tuple[bytes, str]]) -> bytes:
    """A Name Resolution Block (§4.5): addresses of 4 or 16 bytes, and what they are called."""
    body = b""
    for address, name in records:
        kind = _IPV4_RECORD if len(address) == 4 else _IPV6_RECORD
        body += _tagged(kind, address + name.encode() + b"\0")
    return _block(_NAMES, body + _END_OF_RECORDS)


def packet(time: int, captured: int, original: int, direction: int, comment: str = "") -> tuple[bytes, bytes]:
    """What stands before and after the `captured` bytes of an Enhanced Packet Block (§4.3).

    `time`: nanoseconds since the epoch; `original`: the packet's bytes before it was cut.
    """
    options = _PACKET_OPTIONS.pack(_FLAGS, 4, direction)
    if comment:
        options += _tagged(_COMMENT, comment.encode())
    padding = bytes(-captured & 3)
    length = _PACKET_HEAD.size + captured + len(padding) + len(options) + len(_END_OF_OPTIONS) + 4
    head = _PACKET_HEAD.pack(_PACKET, length, 0, time >> 32, time & 0xFFFFFFFF, captured, original)
    return head, padding + options + _END_OF_OPTIONS + length.to_bytes(4, "little")


def _block(kind: int, body: bytes) -> bytes:
    length = len(body) + 12
    return _EDGE.pack(kind, length) + body + length.to_bytes(4, "little")


def _tagged(code: int, value: bytes) -> bytes:
    """An option or a record: its code, its length, and the value padded to 32 bits."""
    return _TAGGED.pack(code, len(value)) + value + bytes(-len(value) & 3)
