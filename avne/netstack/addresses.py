# SPDX-License-Identifier: GPL-3.0-or-later
"""The environment's addresses: the same for every user, so they identify nobody.

They are compiled into helper.c too; a test compares the two.
"""

from __future__ import annotations

from typing import Final

# Text: what a person sees.
TUN_V4: Final = "10.213.0.2"
GATEWAY_V4: Final = "10.213.0.1"
TUN_V6: Final = "fd61:766e:6500::2"
GATEWAY_V6: Final = "fd61:766e:6500::1"
GATEWAY_NAME: Final = "avne.internal"  # .internal is for private use (ICANN, 2024)

# Bytes: what packets carry.
TUN: Final = (bytes((10, 213, 0, 2)), bytes.fromhex("fd61766e650000000000000000000002"))
GATEWAY: Final = (bytes((10, 213, 0, 1)), bytes.fromhex("fd61766e650000000000000000000001"))

# The two forms of the tun's subnet broadcast (RFC 1122 §3.3.6): 10.213.0.0/30.
_BROADCAST: Final = (b"\xff\xff\xff\xff", bytes((10, 213, 0, 3)), bytes((10, 213, 0, 0)))

_POOL_V4: Final = (bytes((198, 18)), bytes((198, 19)))  # 198.18.0.0/15, see dns/names.py
_POOL_V6: Final = bytes.fromhex("fd61766e65000001")  # fd61:766e:6500:1::/64


def is_mapped(address: bytes) -> bool:
    """Whether `address` is of the pools whose addresses stand for names."""
    if len(address) == 4:
        return address[:2] in _POOL_V4
    return address[:8] == _POOL_V6


def is_multicast(address: bytes) -> bool:
    """Multicast or broadcast."""
    if len(address) == 4:
        return 224 <= address[0] < 240 or address in _BROADCAST
    return address[0] == 0xFF


def gateway_for(address: bytes) -> bytes:
    """The gateway's address of the same family."""
    return GATEWAY[len(address) == 16]
