# SPDX-License-Identifier: GPL-3.0-or-later
"""DNS messages on a byte stream: each behind its length in two bytes (RFC 1035 §4.2.2)."""

from __future__ import annotations

from avne.errors import Malformed
from avne.limits import DNS_MAX_UDP


def frame_reply(message: bytes) -> bytes:
    """A reply as it goes onto the client's stream."""
    return len(message).to_bytes(2, "big") + message


class Framing:
    """Cuts a stream into messages of at most `limit` bytes; keeps no more than one of them."""

    def __init__(self, limit: int = DNS_MAX_UDP) -> None:
        self._limit = limit
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that `data` completes.  Raises `Malformed`: the stream is lost then."""
        stream = self._rest + data
        at = 0
        messages = []
        while len(stream) - at >= 2:
            length = int.from_bytes(stream[at : at + 2], "big")
            if not 0 < length <= self._limit:
                raise Malformed("dns-frame-size")
            if len(stream) - at < 2 + length:
                break
            messages.append(stream[at + 2 : at + 2 + length])
            at += 2 + length
        self._rest = stream[at:]
        return messages
