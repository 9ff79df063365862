# SPDX-License-Identifier: GPL-3.0-or-later
"""The lane: the messages of flows between the netstack and a worker on the same machine.

A worker elsewhere has its flows on the ZeroMQ line (channel.py), payload and all.  Between
processes of one machine a message would wake two of ZeroMQ's threads before it is there, and a payload would
be copied four times.  So the messages about flows, and DRAIN, take a stream socket of their own, which
the supervisor makes for the two; large payloads stay in a slab (slab.py), and the message says where.  The
table of messages, the credits and the order are the same; which way a message goes follows from its type.

On the wire, many frames to a write, little-endian::

    u16 header length · u8 form · u8 0 · u32 a · u32 b · header · inline payload
        form 0: no payload      1: a bytes follow the header      2: b bytes at offset a of the sender's slab

The first frame of each end has the header ``b""`` and carries the descriptor of its slab (SCM_RIGHTS).
What has been taken from a slab goes back with RETURN; see there for who may send it when.

Memory: inline payloads that wait are bounded by the credits, like all others; other messages answer or
accompany something that `limits` counts.
"""

from __future__ import annotations

import contextlib
import os
import socket
from array import array
from struct import Struct
from typing import Final

from avne.errors import Malformed
from avne.ipc.slab import Slab, SlabView
from avne.limits import INLINE_BELOW, MAX_HEADER, MAX_INLINE, MAX_PAYLOAD

_FRAME: Final = Struct("<HBxII")
_NO_PAYLOAD, _INLINE, _PIECE = 0, 1, 2
_READ: Final = 256 << 10  # of one turn; several frames
_LARGEST: Final = _FRAME.size + MAX_HEADER + MAX_INLINE
_BUFFER: Final = 1 << 20  # asked of the kernel for each direction, which may give less


class Piece:
    """A payload in a slab: `view` of its bytes, at `offset`."""

    __slots__ = ("offset", "view")

    def __init__(self, offset: int, view: memoryview) -> None:
        self.offset = offset
        self.view = view


LanePayload = bytes | memoryview | Piece
LaneMessage = tuple[bytes, bytes | Piece | None]  # header, payload


class Lane:
    """One end.  `slab` is ours; `fileno()` is to be polled, for writing too while `blocked`."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        sock.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
        self.slab = Slab()
        self._theirs: SlabView | None = None
        self._frames: list[bytes | memoryview] = []
        self._unsent = memoryview(b"")  # of an earlier flush
        self._input = bytearray(_READ + _LARGEST)
        self._view = memoryview(self._input)
        self._filled = 0
        self._hello()

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()
        self.slab.close()

    def _hello(self) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [self.slab.fd]))]
        with contextlib.suppress(OSError):  # a peer that is gone is found out by the end of file
            self._sock.sendmsg([_FRAME.pack(0, _NO_PAYLOAD, 0, 0)], rights, socket.MSG_NOSIGNAL)

    # ---- out -------------------------------------------------------------------------------

    def send(self, header: bytes, payload: LanePayload | None = None) -> None:
        """Queue a message for `flush`.  Bytes are copied unless they are immutable."""
        frames = self._frames
        if payload is None:
            frames.append(_FRAME.pack(len(header), _NO_PAYLOAD, 0, 0) + header)
        elif type(payload) is Piece:
            frames.append(_FRAME.pack(len(header), _PIECE, payload.offset, len(payload.view)) + header)
        else:
            assert not isinstance(payload, Piece)
            self._send_bytes(header, payload)

    def _send_bytes(self, header: bytes, payload: bytes | memoryview) -> None:
        """Inline, or by the slab where that pays."""
        size = len(payload)
        if size >= INLINE_BELOW and (room := self.slab.room(size)) is not None:
            room[:size] = payload
            self._frames.append(_FRAME.pack(len(header), _PIECE, self.slab.take(size), size) + header)
            return
        for at in range(0, size, MAX_INLINE):
            part = payload[at : at + MAX_INLINE]
            self._frames += (_FRAME.pack(len(header), _INLINE, len(part), 0), header, bytes(part))

    @property
    def blocked(self) -> bool:
        """Whether the peer has not taken all that was flushed."""
        return len(self._unsent) > 0

    @property
    def waiting(self) -> bool:
        """Whether there is something to flush."""
        return bool(self._frames)

    def flush(self) -> None:
        """Give the kernel what was queued, as much as it takes."""
        if not self._unsent:
            if not self._frames:
                return
            self._unsent = memoryview(b"".join(self._frames))
            self._frames.clear()
        try:
            self._unsent = self._unsent[self._sock.send(self._unsent, socket.MSG_NOSIGNAL) :]
        except BlockingIOError:
            pass
        except OSError:
            self._unsent = memoryview(b"")  # the peer is gone: the end of file says so too

    # ---- in --------------------------------------------------------------------------------

    def receive(self) -> list[LaneMessage] | None:
        """What is there, possibly nothing; None at the end of file.  Raises `Malformed`."""
        try:
            if self._theirs is None and not self._receive_hello():
                return None
            got = self._sock.recv_into(self._view[self._filled :])
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not got:
            return None
        self._filled += got
        return self._split()

    def _receive_hello(self) -> bool:
        fds = array("i")
        room = socket.CMSG_LEN(fds.itemsize)  # not CMSG_SPACE: that has room for two
        data, ancillary, _, _ = self._sock.recvmsg(_FRAME.size, room, socket.MSG_CMSG_CLOEXEC)
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
        if len(data) != _FRAME.size or any(data) or not fds:
            for fd in fds:
                os.close(fd)
            if not data:
                return False
            raise Malformed("wire-slab")
        self._theirs = SlabView(fds[0])
        return True

    def _split(self) -> list[LaneMessage]:
        messages: list[LaneMessage] = []
        view, filled, at = self._view, self._filled, 0
        unpack, size = _FRAME.unpack_from, _FRAME.size
        assert self._theirs is not None
        while filled - at >= size:
            length, form, a, b = unpack(view, at)
            start = at + size
            end = start + length
            inline = a if form == _INLINE else 0
            if length > MAX_HEADER or inline > MAX_INLINE:
                raise Malformed("wire-frame-size")
            if end + inline > filled:
                break
            payload: bytes | Piece | None = None
            if form == _INLINE:
                payload = bytes(view[end : end + inline])
            elif form == _PIECE:
                if not 0 < b <= MAX_PAYLOAD:
                    raise Malformed("wire-frame-size")
                payload = Piece(a, self._theirs.piece(a, b))
            elif form != _NO_PAYLOAD:
                raise Malformed("wire-frame-form")
            messages.append((bytes(view[start:end]), payload))
            at = end + inline
        if at:
            self._input[: filled - at] = self._input[at:filled]
            self._filled = filled - at
        return messages
