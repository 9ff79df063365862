# SPDX-License-Identifier: GPL-3.0-or-later
"""The header before every packet on a tun with IFF_VNET_HDR (linux/virtio_net.h).

``flags gso_type hdr_len gso_size csum_start csum_offset``, 10 bytes, little-endian (the
helper sets TUNSETVNETLE).  From the kernel, only `flags` is used: the lengths are guessed
by the kernel, or set by whoever injects packets inside, and are not to be trusted.
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
