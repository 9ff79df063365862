# SPDX-License-Identifier: GPL-3.0-or-later
"""A capture of everything that crosses the tun, as a pcapng file that Wireshark opens.

Its packets are those of a wire, with complete checksums (wire/offload.py); super-segments stay whole,
as the program's kernel saw them.  The addresses that stand for names are named; the answer to a
SYN has what the upstream said as its comment.

Sans-IO but for `file`, an unbuffered one that is written before the loop sleeps, so that it ends
with a whole block at any time.  A file that cannot be written ends the capture, never the session.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from avne import __version__
from avne.errors import Malformed
from avne.limits import CAPTURE_BUFFER, CAPTURE_SNAPLEN
from avne.netstack import addresses
from avne.netstack.wire import icmp, ip, offload, pcapng, vnet

SYSCALLS = ("write", "ftruncate")

Piece = bytes | bytearray | memoryview


class File(Protocol):
    """As `io.FileIO`: one system call for each, OSError if it fails."""

    def write(self, data: memoryview, /) -> int: ...
    def truncate(self, size: int, /) -> int: ...
    def tell(self) -> int: ...


def begin(
    fd: int,
    session: str,
    generation: int,
    name_of: Callable[[bytes], str | None],
    counters: Counter[str],
) -> Capture:
    """In the file `fd`, behind what the netstacks of earlier generations have written."""
    file = io.FileIO(fd, "w")
    if generation == 1:
        file.truncate(0)
    else:
        file.seek(0, os.SEEK_END)  # pcapng: a section of its own
    epoch = time.time_ns() - time.monotonic_ns()
    return Capture(file, f"avne {session}", epoch, name_of, counters)


class Capture:
    """`interface` is its name in the capture; `epoch` the nanoseconds since 1970 when `now` was 0;
    `name_of` gives the name that a mapped address stands for.  What is lost is counted in `counters`."""

    def __init__(
        self,
        file: File,
        interface: str,
        epoch: int,
        name_of: Callable[[bytes], str | None],
        counters: Counter[str],
        snaplen: int = CAPTURE_SNAPLEN,
    ) -> None:
        self._file = file
        self._epoch = epoch
        self._name_of = name_of
        self._counters = counters
        self._snaplen = snaplen
        self._buffer = bytearray()
        self._packets = 0  # in the buffer
        self._written = file.tell()  # bytes in the file, all of them whole blocks
        self._named: dict[bytes, str] = {}
        self._remarks: dict[bytes, str] = {}
        self._ended = False
        self._untold: int | None = None  # the errno that ended it, until somebody has asked
        self._buffer += pcapng.section(f"avne {__version__}") + pcapng.interface(interface, snaplen)

    def guest_sent(self, pieces: Sequence[Piece], now: float) -> None:
        """A frame that was read from the tun, in `pieces`, its vnet header included."""
        self._frame(pieces, pcapng.OUTBOUND, now)

    def guest_receives(self, pieces: Sequence[Piece], now: float) -> None:
        """A frame that was written to the tun."""
        self._frame(pieces, pcapng.INBOUND, now)

    def remark(self, key: bytes, text: str) -> None:
        """Say `text` of the next packet to the guest of a connection.

        `key`: its addresses and ports as in the guest's packets, as in `Stack.connections`.
        """
        self._remarks[key] = text

    def flush(self) -> int | None:
        """Write what there is.  Gives the errno with which the capture has ended, once."""
        self._remarks.clear()  # no packet has carried them: the answer was silence
        self._write()
        failed, self._untold = self._untold, None
        return failed

    def _frame(self, pieces: Sequence[Piece], direction: int, now: float) -> None:
        if self._ended:
            self._counters["capture-lost"] += 1
            return
        frame = bytearray().join(pieces)
        remote = _remote(frame, direction)
        if addresses.is_mapped(remote):
            self._name(remote)
        comment = ""
        if self._remarks and direction == pcapng.INBOUND:
            comment = self._remarks.pop(_key(frame), "")
        time = self._epoch + int(now * 1e9)
        for packet in offload.packets(frame):
            self._packet(packet, direction, time, comment)
        if len(self._buffer) >= CAPTURE_BUFFER:
            self._write()

    def _packet(self, frame: bytearray, direction: int, time: int, comment: str) -> None:
        packet = memoryview(frame)[vnet.SIZE :]
        captured = packet[: self._snaplen]
        head, tail = pcapng.packet(time, len(captured), len(packet), direction, comment)
        self._buffer += head
        self._buffer += captured
        self._buffer += tail
        self._packets += 1

    def _name(self, address: bytes) -> None:
        """A Name Resolution Block before the first packet of a name, or of another at its address."""
        name = self._name_of(address)
        if name is not None and self._named.get(address) != name:
            self._named[address] = name
            self._buffer += pcapng.names([(address, name)])

    def _write(self) -> None:
        if not self._buffer:
            return
        try:
            with memoryview(self._buffer) as whole:
                at = 0
                while at < len(whole):
                    at += self._file.write(whole[at:])
            self._written += at
        except OSError as error:
            self._ended = True
            self._untold = error.errno or 0
            self._counters["capture-lost"] += self._packets
            with contextlib.suppress(OSError):  # no half block at the end, if it can be helped
                self._file.truncate(self._written)
        self._buffer.clear()
        self._packets = 0


def _remote(frame: bytearray, direction: int) -> bytes:
    """The address that is not the guest's; something shorter of what is no packet."""
    first, size = (12, 4) if frame[vnet.SIZE : vnet.SIZE + 1] < b"\x50" else (8, 16)
    at = vnet.SIZE + first + (size if direction == pcapng.OUTBOUND else 0)
    return bytes(frame[at : at + size])


def _key(frame: bytearray) -> bytes:
    """The connection's key, of a frame to the guest: a TCP segment's, or what an ICMP error quotes."""
    try:
        packet = bytes(frame)
        datagram = ip.parse(packet)
        if datagram.protocol not in (ip.ICMP, ip.ICMPV6):
            ports = packet[datagram.payload : datagram.payload + 4]
            return datagram.dst + datagram.src + ports[2:] + ports[:2]
        quoted = vnet.PLAIN + packet[datagram.payload + icmp.HEADER : datagram.end]
        inner = ip.parse(quoted)
        return inner.src + inner.dst + quoted[inner.payload : inner.payload + 4]
    except Malformed:
        return b""
