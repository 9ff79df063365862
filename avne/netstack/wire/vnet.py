# SPDX-License-Identifier: GPL-3.0-or-later
"""The header before every packet on a tun with IFF_VNET_HDR (linux/virtio_net.h).

``flags gso_type hdr_len gso_size csum_start csum_offset``, 10 bytes, little-endian (the
helper sets TUNSETVNETLE).  From the kernel, only `flags` is used: the lengths are guessed
by the kernel, or set by whoever injects packets inside, and are not to be trusted.  A capture
uses where the checksum stands, within bounds.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

SIZE: Final = 10
NEEDS_CSUM: Final = 1  # the transport checksum holds the pseudo header's sum only
DATA_VALID: Final = 2  # the kernel has verified the checksum
GSO_TCPV4: Final = 1
GSO_TCPV6: Final = 4

_VNET: Final = Struct("<BBHHHH")

PLAIN: Final = _VNET.pack(0, 0, 0, 0, 0, 0)


def partial(ip_header: int, checksum_offset: int) -> bytes:
    """A header that leaves the transport checksum to the kernel (never computed on a tun).

    `ip_header`: bytes before the transport header; `checksum_offset`: 16 for TCP, 6 for UDP.
    """
    return _VNET.pack(NEEDS_CSUM, 0, 0, 0, ip_header, checksum_offset)


def segmented(ip_header: int, tcp_header: int, gso_size: int) -> bytes:
    """A header for a TCP super-segment which the kernel treats as segments of `gso_size` bytes."""
    kind = GSO_TCPV4 if ip_header == 20 else GSO_TCPV6
    return _VNET.pack(NEEDS_CSUM, kind, ip_header + tcp_header, gso_size, ip_header, 16)


def partial_checksum(frame: bytes | bytearray) -> tuple[int, int] | None:
    """Where what the checksum covers begins, and where its field stands, as offsets into `frame`.

    None if the checksum is complete, or these are not inside of the frame.
    """
    flags, _, _, _, start, offset = _VNET.unpack_from(frame)
    field = SIZE + start + offset
    return (SIZE + start, field) if flags & NEEDS_CSUM and field + 2 <= len(frame) else None


def gso_size(frame: bytes | bytearray) -> int:
    """Payload bytes of each segment that a super-segment stands for; 0 where it is none."""
    return int(_VNET.unpack_from(frame)[3])
