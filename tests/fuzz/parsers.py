# SPDX-License-Identifier: GPL-3.0-or-later
"""The parsers of packets, alone, and the reassembly of segments against a model of it."""

from __future__ import annotations

from avne.errors import Malformed
from avne.netstack.tcp import reassembly, seq
from avne.netstack.wire import icmp, ip, split, tcp, udp, vnet

from .choices import Choices
from .guests import _frame


def packets(data: bytes) -> set[str]:
    """Every parser gives numbers that lie inside the frame, or `Malformed`; the split one agrees with it."""
    c = Choices(data)
    frame = _frame(c) if c.byte() & 1 else vnet.PLAIN[: c.byte() % 11] + c.rest()
    try:
        datagram = ip.parse(frame)
        assert vnet.SIZE == datagram.start < datagram.payload <= datagram.end <= len(frame)
        assert len(datagram.src) == len(datagram.dst) in (4, 16)
        if datagram.protocol in (ip.ICMP, ip.ICMPV6):
            kind = icmp.kind(frame, datagram)
            if kind in icmp.ERRORS:
                icmp.quoted(frame, datagram)
            return {kind.value}
        if datagram.protocol == ip.UDP:
            packet = udp.parse(frame, datagram)
            assert len(packet.data) <= datagram.end - datagram.payload - udp.HEADER
            return {"udp"}
        if datagram.protocol != ip.TCP:
            return {f"protocol {datagram.protocol}"}
        segment = tcp.parse(frame, datagram)
    except Malformed as error:
        return {error.reason} | _split(frame, None)
    assert 0 <= segment.length <= len(frame)
    assert all(0 <= edge < 1 << 32 for block in segment.options.sack for edge in block)
    return {f"tcp {segment.flags}"} | _split(frame, segment)


def _split(frame: bytes, whole: tcp.Segment | None) -> set[str]:
    """What wire/split.py takes must be what the whole parsers say."""
    head = split.HEAD_V6 if len(frame) > vnet.SIZE and frame[vnet.SIZE] >> 4 == 6 else split.HEAD_V4
    if len(frame) < head:
        return set()
    found = split.parse(bytearray(frame[:head]), memoryview(frame)[head:])
    if found is None:
        return set()
    key, segment = found
    assert whole is not None, "taken, though it is malformed"
    assert segment[:4] == whole[:4]
    assert segment.payload == whole.payload
    assert segment.options == whole.options
    datagram = ip.parse(frame)
    assert key == datagram.src + datagram.dst + frame[datagram.payload : datagram.payload + 4]
    return {"split"}


def options(data: bytes) -> set[str]:
    """Options are read, or `Malformed`; what we write of what was read is read the same."""
    try:
        found = tcp.parse_options(data)
    except Malformed as error:
        return {error.reason}
    assert found.mss is None or 0 <= found.mss <= 65535
    assert found.window_scale is None or found.window_scale <= tcp.MAX_WINDOW_SCALE
    if found.sack:
        again = tcp.parse_options(tcp.sack_option(list(found.sack)))
        assert again.sack == found.sack[:4]
    if found.mss is not None:
        again = tcp.parse_options(tcp.syn_options(found.mss, found.window_scale, found.sack_permitted))
        assert again._replace(sack=found.sack) == found
    return {str((found.mss is None, found.window_scale, found.sack_permitted, len(found.sack)))}


def overlaps(data: bytes) -> set[str]:
    """Blocks in any order come out once and in order: what was first put at each place."""
    c = Choices(data)
    rcv = 0xFFFFFF00 if c.byte() & 1 else 1000
    machine = reassembly.Reassembly()
    model: dict[int, int] = {}  # offset from the first RCV.NXT → byte
    base, taken, features = rcv, 0, set()
    for _ in range(40):
        if not c.more:
            break
        at, size, fill = taken + 1 + c.byte(), c.byte() % 40 + 1, c.byte()
        payload = bytes((fill + n) & 255 for n in range(size))
        full = len(machine._blocks) >= reassembly.MAX_BLOCKS - 8  # then some is dropped
        machine.insert(seq.add(base, at), memoryview(payload), seq.add(base, taken))
        if not full:
            for n, byte in enumerate(payload):
                model.setdefault(at + n, byte)
        assert len(machine._blocks) <= reassembly.MAX_BLOCKS
        features.add(f"sack {len(machine.sack_blocks())}")
        if full:
            return features
        assert machine.held == len([at for at in model if at >= taken])
        if c.byte() & 3 == 0:  # the hole is filled
            taken += c.byte() % 60
            while (block := machine.take(seq.add(base, taken))) is not None:
                assert bytes(block) == bytes(model[taken + n] for n in range(len(block)))
                taken += len(block)
            assert taken not in model, "it was there"
            features.add("taken")
    return features
