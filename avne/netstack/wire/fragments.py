# SPDX-License-Identifier: GPL-3.0-or-later
"""Reassembly of fragments (RFC 791 §3.2, RFC 1122 §3.2.1.4, RFC 8200 §4.5), within a bound.

The MTU is 65520, so only a datagram close to the largest possible one ever comes in pieces: UDP
of 64 KiB, which is refused like any other once it is whole.  Nothing of a datagram whose pieces
overlap is believed (RFC 5722 §3), for IPv4 as well.
"""

from __future__ import annotations

from typing import Final

from avne.errors import Malformed
from avne.limits import REASSEMBLY_DATAGRAMS, REASSEMBLY_PIECES
from avne.netstack.wire import checksum, vnet
from avne.netstack.wire.extensions import ERRONEOUS_FIELD, Refused

TIMEOUT: Final = 60.0  # RFC 8200 §4.5; RFC 1122 §3.3.2 asks for 60 to 120 s
MAX_TOTAL: Final = 65535  # bytes: the IPv4 total length, the IPv6 payload length (RFC 8200 §5)


class Fragment(Malformed):
    """A piece of a datagram: where it belongs, and what it holds.

    `header` is the IP header, and for IPv6 what stands before the fragment header, as the whole
    datagram will have it but for its length; `offset` is in bytes; `field` is the fragment offset's
    place in the packet, for an error to point to.
    """

    def __init__(self, key: bytes, header: bytes, offset: int, more: bool, data: bytes, field: int) -> None:
        super().__init__("fragment")
        self.key = key
        self.header = header
        self.offset = offset
        self.more = more
        self.data = data
        self.field = field


class _Datagram:
    __slots__ = ("deadline", "first", "header", "pieces", "total")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.first: bytes | None = None  # the frame of the first fragment, for an error to quote
        self.header = b""
        self.pieces: dict[int, bytes] = {}
        self.total: int | None = None  # bytes of data, known from the last fragment


class Reassembler:
    """All datagrams that are not whole yet, the oldest first."""

    def __init__(self) -> None:
        self._datagrams: dict[bytes, _Datagram] = {}

    def add(self, frame: bytes, piece: Fragment, now: float) -> bytes | None:
        """The frame of the whole datagram, if `piece` completes it.  Raises `Malformed`."""
        end = piece.offset + len(piece.data)
        v4 = piece.header[0] >> 4 == 4
        if piece.more and (len(piece.data) % 8 or not piece.data):
            raise Malformed("fragment-length") if v4 else Refused("fragment-length", ERRONEOUS_FIELD, 4)
        if end + len(piece.header) - (0 if v4 else 40) > MAX_TOTAL:
            if v4:
                raise Malformed("fragment-size")
            raise Refused("fragment-size", ERRONEOUS_FIELD, piece.field)
        if piece.offset == 0 and not piece.more:
            return _whole(piece.header, piece.data)  # "atomic", RFC 6946
        datagram = self._datagrams.get(piece.key)
        if datagram is None:
            if len(self._datagrams) >= REASSEMBLY_DATAGRAMS:
                del self._datagrams[next(iter(self._datagrams))]
            datagram = self._datagrams[piece.key] = _Datagram(now + TIMEOUT)
        if datagram.pieces.get(piece.offset) == piece.data:
            return None  # the same once more
        if not self._fits(datagram, piece, end):
            del self._datagrams[piece.key]
            raise Malformed("fragment-overlap")
        datagram.pieces[piece.offset] = piece.data
        if piece.offset == 0:
            datagram.first, datagram.header = frame, piece.header
        if not piece.more:
            datagram.total = end
        if datagram.total is None or sum(map(len, datagram.pieces.values())) < datagram.total:
            return None
        del self._datagrams[piece.key]
        return _whole(datagram.header, b"".join(data for _, data in sorted(datagram.pieces.items())))

    @staticmethod
    def _fits(datagram: _Datagram, piece: Fragment, end: int) -> bool:
        """Whether the piece contradicts none of the others."""
        if len(datagram.pieces) >= REASSEMBLY_PIECES:
            return False
        if datagram.total is not None and (end > datagram.total or not piece.more):
            return False
        for at, data in datagram.pieces.items():
            if (at < end and piece.offset < at + len(data)) or (not piece.more and at + len(data) > end):
                return False
        return True

    def poll_at(self) -> float:
        """When the oldest is given up; infinity while there is none."""
        for datagram in self._datagrams.values():
            return datagram.deadline
        return float("inf")

    def expire(self, now: float) -> list[bytes]:
        """Give up what has waited too long; the first fragments of those that had one."""
        firsts = []
        while self.poll_at() <= now:
            datagram = self._datagrams.pop(next(iter(self._datagrams)))
            if datagram.first is not None:
                firsts.append(datagram.first)
        return firsts


def _whole(header: bytes, data: bytes) -> bytes:
    """A frame with `data` behind `header`, whose length and checksum are put right."""
    if header[0] >> 4 == 6:
        length = len(header) - 40 + len(data)
        return vnet.PLAIN + header[:4] + length.to_bytes(2, "big") + header[6:] + data
    length = len(header) + len(data)
    header = header[:2] + length.to_bytes(2, "big") + header[4:10] + b"\0\0" + header[12:]
    sum_ = checksum.checksum(header).to_bytes(2, "big")
    return vnet.PLAIN + header[:10] + sum_ + header[12:] + data
