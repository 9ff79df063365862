# SPDX-License-Identifier: GPL-3.0-or-later
"""What a guest can send: frames of any kind, and segments that follow a handshake."""

from __future__ import annotations

from wire_frames import GOOD

from avne.ipc import messages
from avne.ipc.messages import encode
from avne.netstack import addresses
from avne.netstack.wire import checksum, ip, tcp, vnet

from .choices import Choices
from .world import World

SERVERS = [bytes((192, 0, 2, 80)), bytes.fromhex("20010db8" + "00" * 11 + "50")]
MASK = 0xFFFFFFFF
# What goes up and down: a byte says where it stands, so that a wrong one is seen.
STREAM = b"".join((n * 2654435761 & MASK).to_bytes(4, "big") for n in range(1 << 16))


def frames(data: bytes) -> set[str]:
    """Whatever frames a guest sends, none raises, and every answer is a good packet."""
    c = Choices(data)
    config = c.byte()
    world = World("tor", config & 3, bool(config & 4), bool(config & 8))
    for _ in range(24):
        if not c.more:
            break
        frame = _frame(c)
        for piece in _pieces(c, frame) if c.byte() < 40 else [frame]:
            world.receive(piece)
        world.turn()
        world.check()
    world.wait(c.byte() / 16)
    return world.end()


def _frame(c: Choices) -> bytes:
    """Bytes as they are, or a good frame with some of them changed and its checksum mended."""
    how = c.byte()
    if how < 16:
        return c.some()
    frame = bytearray(GOOD[how % len(GOOD)])
    for _ in range(c.byte() % 8):
        frame[c.number(2) % len(frame)] = c.byte()
    change = c.byte()
    if change & 1:
        del frame[c.byte() % len(frame) :]
    if change & 2:
        frame += c.some()
    if change & 4 and len(frame) >= vnet.SIZE + 4 and frame[vnet.SIZE] >> 4 == 4:
        frame[vnet.SIZE + 2 : vnet.SIZE + 4] = (len(frame) - vnet.SIZE).to_bytes(2, "big")
    if not change & 8 and len(frame) >= vnet.SIZE + 20 and frame[vnet.SIZE] >> 4 == 4:
        header = max(20, (frame[vnet.SIZE] & 15) * 4)
        frame[20:22] = b"\0\0"
        frame[20:22] = checksum.checksum(bytes(frame[10 : 10 + header])).to_bytes(2, "big")
    return bytes(frame)


def _pieces(c: Choices, frame: bytes) -> list[bytes]:
    """`frame` as fragments (RFC 791 §3.2, RFC 8200 §4.5), in an order and of a number that the input says."""
    start = vnet.SIZE
    if len(frame) < start + 40:
        return [frame]
    v4 = frame[start] >> 4 == 4
    header = start + ((frame[start] & 15) * 4 if v4 else 40)
    text = frame[header:]
    size = 8 * (1 + c.byte() % 9)
    pieces = []
    for at in range(0, len(text) or 1, size):
        field = (at >> 3 if v4 else at) | ((0x2000 if v4 else 1) if at + size < len(text) else 0)
        part = text[at : at + size]
        if v4:
            front = frame[start:header]
            front = (
                front[:2]
                + (len(front) + len(part)).to_bytes(2, "big")
                + front[4:6]
                + field.to_bytes(2, "big")
            )
            front += frame[start + 8 : start + 10] + b"\0\0" + frame[start + 12 : header]
            front = front[:10] + checksum.checksum(front).to_bytes(2, "big") + front[12:]
        else:
            front = (
                frame[start : start + 4]
                + (8 + len(part)).to_bytes(2, "big")
                + b"\x2c"
                + frame[start + 7 : header]
            )
            front += bytes((frame[start + 6], 0)) + field.to_bytes(2, "big") + b"id.."
        pieces.append(frame[:start] + front + part)
    for _ in range(c.byte() % 4):
        pieces.insert(c.byte() % (len(pieces) + 1), pieces[c.byte() % len(pieces)])
    if c.byte() & 1:
        pieces.reverse()
    if c.byte() < 64:
        pieces.pop()
    return pieces


class Peer:
    """The guest's end of one connection: what it has sent, acknowledged, and been sent."""

    def __init__(self, world: World, server: bytes, port: int, local: int, isn: int) -> None:
        self.world = world
        guest = addresses.TUN[len(server) == 16]
        self.template = tcp.HeaderTemplate(guest, local, server, port)
        self.answers = server + guest + port.to_bytes(2, "big") + local.to_bytes(2, "big")
        self.isn, self.irs = isn, 0
        self.snd = isn  # what the stack has acknowledged
        self.rcv = 0
        self.wnd = 65535
        self.synced = self.reset = False
        self.got = bytearray()

    def send(self, flags: int, start: int, ack: int, data: bytes, options: bytes = b"") -> None:
        options = options[:40] + b"\1" * (-len(options[:40]) % 4)
        header = self.template.build(start & MASK, ack & MASK, flags, self.wnd, len(data), 0, options)
        self.world.receive(header + data)
        self.take()

    def take(self) -> None:
        """A turn, and what it brings."""
        self.world.turn()
        for frame in self.world.frames:
            datagram = ip.parse(frame)
            at = datagram.payload
            if (
                datagram.protocol == ip.TCP
                and datagram.src + datagram.dst + frame[at : at + 4] == self.answers
            ):
                self._segment(tcp.parse(frame, datagram))
        self.world.frames.clear()

    def _segment(self, s: tcp.Segment) -> None:
        if s.flags & tcp.RST:
            self.reset = True
            return
        if s.flags & tcp.SYN:
            self.irs, self.rcv, self.synced = s.seq, (s.seq + 1) & MASK, True
            self.got.clear()
        elif s.seq == self.rcv:
            self.got += s.payload
            self.rcv = (s.seq + s.length) & MASK
        if s.flags & tcp.ACK:
            self.snd = s.ack


FLAGS = [tcp.ACK] * 8 + [tcp.ACK | tcp.PSH, tcp.ACK | tcp.FIN, tcp.SYN, tcp.RST, tcp.SYN | tcp.ACK, 0]
AHEAD = [0, 0, 0, 0, 1, -1, 5, -5, 1000, -1000, 1448, 9000, 65535, 1 << 20, 1 << 31, -(1 << 24)]
SIZES = [0, 0, 1, 2, 5, 100, 1448, 9000, 16_000]
CREDITS = [0, 1, 255, 256, 5000, 65535, 1 << 16, 1 << 20]


class _Run:
    """One input of `segments`."""

    def __init__(self, c: Choices) -> None:
        self.c = c
        config, extra = c.byte(), c.byte()
        self.world = World(c.pick(["tor", "socks5"]), 3, False, bool(config & 1))
        isn = 0xFFFFF000 if config & 2 else 100
        self.options = [
            b"",
            tcp.syn_options(1460, 7, True),
            tcp.syn_options(88, None, True),
            c.take(extra & 15),
        ][extra >> 6]
        self.peer = Peer(self.world, SERVERS[config >> 2 & 1], 80, 40000, isn)
        self.granted = self.sent_down = 0
        self.down = self.up = 0  # bytes, of the present flow
        self.flow = 0
        self.open = self.shut = False
        self.last_syn = isn
        self.peer.send(tcp.SYN, isn, 0, b"", self.options)
        self.heed()
        if not config & 16:
            self.opened(1 << 16)
            self.peer.send(tcp.ACK, isn + 1, self.peer.rcv, b"")

    def opened(self, credit: int) -> None:
        if self.flow and not self.open:
            self.open = True
            self.granted = credit
            self.say(messages.OPENED, credit)

    def say(self, kind: int, *fields: object, payload: bytes | None = None) -> None:
        assert self.world.handle(b"w0", encode(kind, self.flow, *fields), payload), "we said nothing wrong"
        self.peer.take()
        self.heed()

    def heed(self) -> None:
        """What the worker was told: nothing but what was granted, in order, and after the end nothing."""
        for told in self.world.told:
            if told.kind == messages.OPEN:
                self.flow, self.open, self.shut = told.flow, False, False
                self.granted = self.up = self.sent_down = 0
                self.down = told.fields[2]  # type: ignore[assignment]
                self.up_over = False
                self.peer.isn = self.last_syn
            elif told.flow != self.flow:
                continue
            elif told.kind == messages.DATA:
                assert self.open
                assert not self.up_over, "data after the end"
                assert told.payload == _stream(self.up, len(told.payload)), "not what was sent"
                self.up += len(told.payload)
                assert self.up <= self.granted, "more than was granted"
            elif told.kind == messages.CREDIT:
                self.down += told.fields[0]  # type: ignore[operator]
            elif told.kind == messages.SHUT:
                assert not self.up_over
                self.up_over = True
                if self.shut:
                    self.flow = 0
            elif told.kind == messages.RESET:
                self.flow = 0
        self.world.told.clear()

    def segment(self) -> None:
        c, peer = self.c, self.peer
        choice = c.byte()
        flags = c.byte() & 63 if choice >= 240 else FLAGS[choice % len(FLAGS)]
        start = peer.snd + c.pick(AHEAD)
        ack = peer.rcv + (c.pick(AHEAD) if c.byte() & 128 else 0)
        size = c.pick(SIZES)
        options = c.take(c.byte() & 31) if c.byte() < 24 else b""
        if flags & tcp.SYN:
            options = options or self.options
            self.last_syn = start & MASK
        data = _stream((start - peer.isn - 1) & MASK, size)
        peer.send(flags, start, ack, data, options)
        self.heed()

    def worker(self) -> None:
        """What a worker that knows the rules may say now."""
        c = self.c
        what = c.byte() % 8
        if not self.flow:
            return
        if not self.open:
            if what < 5:
                self.opened(c.pick(CREDITS))
            else:
                flow_code = c.pick([1, 2, 3, 4, 5, 6, 0xF1, 0x101, 0x102, 0x104])
                self.say(messages.REFUSED, flow_code, c.byte() % 5, "")
                self.flow = 0
        elif what < 4 and not self.shut:
            size = min(c.pick(SIZES), self.down)
            self.down -= size
            payload = _stream(self.sent_down, size)
            self.sent_down += size
            self.say(messages.DATA, payload=payload)
        elif what < 6:
            credit = min(c.pick(CREDITS), (1 << 20) - (self.granted - self.up))
            self.granted += credit
            self.say(messages.CREDIT, credit)
        elif what == 6 and not self.shut:
            self.shut = True
            self.say(messages.SHUT)
            if self.up_over:
                self.flow = 0
        elif what == 7:
            self.say(messages.RESET, 1)
            self.flow = 0

    def step(self) -> None:
        c, peer = self.c, self.peer
        what = c.byte() % 16
        if what < 9:
            self.segment()
        elif what < 13:
            self.worker()
        elif what == 13:
            peer.wnd = c.pick([0, 1, 500, 65535])
        elif what == 14:
            peer.send(tcp.ACK, peer.snd, peer.rcv, b"")
        else:
            self.world.wait(c.pick([0.01, 0.21, 1.1, 30.0, 200.0]))
            peer.take()
        self.heed()
        self.world.check()


def segments(data: bytes) -> set[str]:
    """Whatever a guest's TCP does: no more than granted goes up, what goes up is what was sent, in order and
    once, every packet is a good one, nothing raises, and in the end nothing is left."""
    run = _Run(Choices(data))
    for _ in range(48):
        if not run.c.more:
            break
        run.step()
    assert bytes(run.peer.got) == _stream(0, len(run.peer.got)), "the guest got what was not sent"
    run.world.features.add(f"up {run.up.bit_length()}")
    run.world.features.add(f"down {len(run.peer.got).bit_length()}")
    return run.world.end()


def _stream(at: int, size: int) -> bytes:
    at %= len(STREAM)
    found = STREAM[at : at + size]
    return found + STREAM[: size - len(found)]
