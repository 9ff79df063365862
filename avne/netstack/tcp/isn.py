# SPDX-License-Identifier: GPL-3.0-or-later
"""Initial sequence numbers (RFC 6528 §3, RFC 9293 §3.4.1): ISN = M + F(4-tuple, secret)."""

from __future__ import annotations

try:  # what hashlib gives; itself it would load OpenSSL: 4 ms and 3 MiB
    from _blake2 import blake2s
except ImportError:
    from hashlib import blake2s

from avne.netstack.tcp import seq


def initial(now: float, flow: bytes, secret: bytes) -> int:
    """The ISN for the 4-tuple `flow` at time `now`; M ticks every 4 µs (MUST-8).

    F is a keyed hash, which nobody without the key can compute (SHLD-1, MUST-9).
    """
    f = int.from_bytes(blake2s(flow, digest_size=4, key=secret).digest(), "big")
    return (int(now * 250_000) + f) & seq.MASK


def beyond(number: int, used: int) -> int:
    """`number`, or one above `used`, the last of the incarnation before (RFC 9293 §3.6.1, MAY-2).

    More than 250 kB in a second have used up more numbers than the clock has given since.
    """
    return number if seq.lt(used, number) else seq.add(used, 1)
