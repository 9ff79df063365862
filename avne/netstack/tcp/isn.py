# SPDX-License-Identifier: GPL-3.0-or-later
"""Initial sequence numbers (RFC 6528 §3, RFC 9293 §3.4.1): ISN = M + F(4-tuple, secret)."""

from __future__ import annotations

from hashlib import blake2s


def initial(now: float, flow: bytes, secret: bytes) -> int:
    """The ISN for the 4-tuple `flow` at time `now`; M ticks every 4 µs (MUST-8)."""
    f = int.from_bytes(blake2s(flow, digest_size=4, key=secret).digest(), "big")
    return (int(now * 250_000) + f) & 0xFFFFFFFF
