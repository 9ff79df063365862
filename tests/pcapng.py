# SPDX-License-Identifier: GPL-3.0-or-later
"""A reader of pcapng files, written from the specification alone, for what our writer's tests look at."""

from __future__ import annotations

import struct
from typing import NamedTuple


class Block(NamedTuple):
    kind: int
    body: bytes
    at: int  # of the body, in the file


class Packet(NamedTuple):
    time: int  # nanoseconds
    original: int
    data: bytes
    options: dict[int, bytes]
    at: int  # of the data, in the file

    @property
    def direction(self) -> str:
        return {1: "in", 2: "out"}[struct.unpack("<I", self.options[2])[0] & 3]

    @property
    def comment(self) -> str:
        return self.options.get(1, b"").decode()


class Capture(NamedTuple):
    section: dict[int, bytes]
    interface: dict[int, bytes]
    linktype: int
    snaplen: int
    blocks: list[Packet | list[tuple[bytes, str]]]  # packets, and the records of name blocks

    @property
    def packets(self) -> list[Packet]:
        return [block for block in self.blocks if isinstance(block, Packet)]

    @property
    def names(self) -> list[tuple[bytes, str]]:
        return [row for block in self.blocks if isinstance(block, list) for row in block]


def blocks(data: bytes) -> list[Block]:
    """Every block; a length that is not the same at both ends, or no multiple of 4, is an error."""
    found = []
    at = 0
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        assert length >= 12
        assert length % 4 == 0
        assert at + length <= len(data), "a block is cut off"
        assert struct.unpack_from("<I", data, at + length - 4)[0] == length
        found.append(Block(kind, data[at + 8 : at + length - 4], at + 8))
        at += length
    return found


def _tagged(data: bytes) -> list[tuple[int, bytes]]:
    """Options or records up to their end, which has to be there, and after it nothing."""
    rows = []
    at = 0
    while True:
        code, length = struct.unpack_from("<HH", data, at)
        if code == 0:
            assert length == 0
            assert at + 4 == len(data)
            return rows
        rows.append((code, data[at + 4 : at + 4 + length]))
        padded = (length + 3) // 4 * 4
        assert not any(data[at + 4 + length : at + 4 + padded])
        at += 4 + padded


def _packet(block: Block) -> Packet:
    number, high, low, captured, original = struct.unpack_from("<IIIII", block.body)
    assert number == 0
    data = block.body[20 : 20 + captured]
    assert len(data) == captured
    options = block.body[20 + (captured + 3) // 4 * 4 :]
    return Packet(high << 32 | low, original, data, dict(_tagged(options)), block.at + 20)


def _name(kind: int, value: bytes) -> tuple[bytes, str]:
    size = {1: 4, 2: 16}[kind]
    assert value.endswith(b"\0")
    return value[:size], value[size:-1].decode()


def read(data: bytes) -> Capture:
    section, interface, *rest = blocks(data)
    assert section.kind == 0x0A0D0D0A
    assert struct.unpack_from("<IHHq", section.body) == (0x1A2B3C4D, 1, 0, -1)
    assert interface.kind == 1
    linktype, reserved, snaplen = struct.unpack_from("<HHI", interface.body)
    assert reserved == 0
    found: list[Packet | list[tuple[bytes, str]]] = []
    for block in rest:
        if block.kind == 6:
            found.append(_packet(block))
        else:
            assert block.kind == 4
            found.append([_name(*row) for row in _tagged(block.body)])
    return Capture(
        dict(_tagged(section.body[16:])), dict(_tagged(interface.body[8:])), linktype, snaplen, found
    )
