# SPDX-License-Identifier: GPL-3.0-or-later
"""Watches what leaves a network namespace: every packet sent on an interface other than lo.

The packet socket's buffer holds what it saw until it is asked, so there is no thread.  `lost` tells
whether the buffer overflowed: an oracle that lost packets proves nothing.
"""

from __future__ import annotations

import ctypes
import ipaddress
import select
import socket
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Self

from tests.bed import places

_ETH_P_ALL = 3
_PACKET_OUTGOING = 4
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33
_BUFFER = 64 << 20
_SNAP = 512  # bytes kept of a packet: its headers, and a name in it

_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF (linux/filter.h)
_PKTTYPE, _IFINDEX = 0xFFFFF004, 0xFFFFF008
_LO = 1  # lo's index, in every namespace
_FILTER = [
    (_LOAD, 0, 0, _PKTTYPE),
    (_EQUAL, 0, 3, _PACKET_OUTGOING),
    (_LOAD, 0, 0, _IFINDEX),
    (_EQUAL, 1, 0, _LO),
    (_RETURN, 0, 0, _SNAP),
    (_RETURN, 0, 0, 0),
]

WORLD = [ipaddress.ip_network(text) for text in ("198.51.100.0/24", "2001:db8::/32", "2001:db9::/32")]


class Packet(NamedTuple):
    interface: str
    kind: str  # tcp, udp, icmp …, or the EtherType of what is not IP
    source: str
    source_port: int
    target: str
    target_port: int
    data: bytes  # from the IP header on

    def __str__(self) -> str:
        ends = f"{self.source}:{self.source_port} → {self.target}:{self.target_port}"
        return f"{self.interface}: {self.kind} {ends}"

    @property
    def flow(self) -> tuple[str, int, str, int]:
        return self.source, self.source_port, self.target, self.target_port


class Wire:
    """What leaves the network namespace of the thread that makes it, from then on."""

    def __init__(self) -> None:
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_PACKET, kind, socket.htons(_ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _FILTER))
        pointer = struct.pack("HP", len(_FILTER), ctypes.addressof(program))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, pointer)
        self.packets()  # what came before the filter
        self.lost()
        self._before = counters()

    def packets(self) -> list[Packet]:
        """What has left since the last call."""
        seen = []
        while True:
            try:
                data, address = self._socket.recvfrom(_SNAP)
            except BlockingIOError:
                return seen
            seen.append(_parse(address[0], address[1], data))

    def wait(self, seconds: float) -> bool:
        """Until something has left, at most so long; whether it has."""
        return bool(select.select([self._socket], [], [], seconds)[0])

    def lost(self) -> int:
        """Packets that the buffer had no room for, since the last call."""
        statistics = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        return int(struct.unpack("II", statistics)[1])

    def sent(self) -> dict[str, int]:
        """What the kernel counts: packets sent on each interface since the start."""
        return {name: count - self._before.get(name, 0) for name, count in counters().items()}

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def counters() -> dict[str, int]:
    """Packets sent on each interface but lo (proc_pid_net(5), dev)."""
    rows = [row.split() for row in Path("/proc/thread-self/net/dev").read_text().splitlines()[2:]]
    return {row[0].rstrip(":"): int(row[10]) for row in rows if row[0] != "lo:"}


def of_the_world(packets: Iterable[Packet]) -> list[Packet]:
    """Those that betray the test bed: an address of the world, or its zone's name in whatever form."""
    words = places.ZONE.encode().split(b".")
    names = [places.ZONE.encode(), b"".join(bytes([len(word)]) + word for word in words)]
    return [
        packet
        for packet in packets
        if any(name in packet.data.lower() for name in names) or _in_world(packet.target)
    ]


def _in_world(address: str) -> bool:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(ip in network for network in WORLD)


def open_connections() -> set[tuple[str, int, str, int]]:
    """The flows of the TCP connections that are open now (proc_pid_net(5), tcp)."""
    flows = set()
    for file in ("tcp", "tcp6"):
        for row in Path(f"/proc/thread-self/net/{file}").read_text().splitlines()[1:]:
            near, far = row.split()[1:3]
            flows.add((*_endpoint(near), *_endpoint(far)))
    return flows


def _endpoint(text: str) -> tuple[str, int]:
    """``0100007F:0050`` → ("127.0.0.1", 80): words of the machine's byte order."""
    digits, port = text.split(":")
    words = [int(digits[i : i + 8], 16) for i in range(0, len(digits), 8)]
    address = ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))
    return str(getattr(address, "ipv4_mapped", None) or address), int(port, 16)


def _parse(interface: str, ethertype: int, data: bytes) -> Packet:
    if ethertype == 0x0800 and len(data) >= 20:
        source, target = (socket.inet_ntop(socket.AF_INET, data[i : i + 4]) for i in (12, 16))
        number, start = data[9], (data[0] & 15) * 4
    elif ethertype == 0x86DD and len(data) >= 40:
        source, target = (socket.inet_ntop(socket.AF_INET6, data[i : i + 16]) for i in (8, 24))
        number, start = data[6], 40
    else:
        return Packet(interface, f"0x{ethertype:04x}", "", 0, "", 0, data)
    ports = (0, 0)
    if number in (6, 17) and len(data) >= start + 4:
        ports = struct.unpack_from("!HH", data, start)
    kind = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6"}.get(number, f"ip-{number}")
    return Packet(interface, kind, source, ports[0], target, ports[1], data)
