# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may join from another machine: the answers of a ZAP handler (ZeroMQ RFC 27).  Sans-IO.

CURVE (RFC 26) has proved by then that the peer has the secret of the public key that it names, and that it
knows ours.  Whether that key is one of those that the user allows is asked here.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

VERSION: Final = b"1.0"
DOMAIN: Final = b"avne"
KEY_SIZE: Final = 32  # bytes of a CURVE key
_ALLOWED: Final = b"200"
_REFUSED: Final = b"400"
_FAULT: Final = b"500"
_FIXED: Final = 6  # frames before the credentials


def answer(frames: Sequence[bytes], allowed: Collection[bytes]) -> tuple[list[bytes], str]:
    """The reply to a request, and why it refuses; "" where it does not.

    `frames`: version, request, domain, address, identity, mechanism, and CURVE's one credential, the
    public key of 32 bytes.  `allowed` are such keys.
    """
    request = frames[1] if len(frames) > 1 else b""
    why = _fault(frames)
    status = _FAULT
    if not why and frames[_FIXED] in allowed:
        status = _ALLOWED
    elif not why:
        status, why = _REFUSED, "unknown-key"
    return [VERSION, request, status, why.encode(), b"", b""], why


def _fault(frames: Sequence[bytes]) -> str:
    if len(frames) < _FIXED or frames[0] != VERSION or frames[2] != DOMAIN:
        return "bad-request"
    if frames[5] != b"CURVE":
        return "no-key"
    if len(frames) != _FIXED + 1 or len(frames[_FIXED]) != KEY_SIZE:
        return "bad-request"
    return ""


def address(frames: Sequence[bytes]) -> str:
    """Whence the peer of a request comes; "" where it does not say."""
    return frames[3].decode("ascii", "replace") if len(frames) > 3 else ""
