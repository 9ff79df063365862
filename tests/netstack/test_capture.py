# SPDX-License-Identifier: GPL-3.0-or-later
"""What a capture holds: packets as a wire would have them, names, directions, and what the upstream said."""

from __future__ import annotations

import errno
import struct
from collections import Counter

import pytest
from guest import FAMILIES, Net, parked
from hypothesis import given
from hypothesis import strategies as st
from wire_frames import GOOD, V4, V6, damaged, frame_v4, frame_v6, transport

from avne.ipc import messages
from avne.limits import CAPTURE_BUFFER, CAPTURE_SNAPLEN
from avne.netstack import addresses
from avne.netstack.capture import Capture
from avne.netstack.dns.names import Names
from avne.netstack.wire import icmp, ip, offload, tcp, udp, vnet
from tests import pcapng

EPOCH = 1_700_000_000_123_456_789


class File:
    """A disk of `room` bytes; at most `chunk` are written at once."""

    def __init__(self, room=1 << 40, chunk=1 << 40):
        self.data = bytearray()
        self.room = room
        self.chunk = chunk
        self.writes = 0

    def write(self, data):
        self.writes += 1
        count = min(len(data), self.chunk, self.room - len(self.data))
        if not count:
            raise OSError(errno.ENOSPC, "full")
        self.data += data[:count]
        return count

    def tell(self):
        return len(self.data)

    def truncate(self, size):
        del self.data[size:]


class Taken:
    """A capture into memory."""

    def __init__(self, file=None, name_of=lambda address: None, **settings):
        self.file = file or File()
        self.counters = Counter()
        self.capture = Capture(self.file, "avne 00c0de", EPOCH, name_of, self.counters, **settings)

    def read(self):
        assert self.capture.flush() is None
        return pcapng.read(bytes(self.file.data))


def words(data):
    """The one's-complement sum of RFC 1071, the slow way."""
    total = sum(struct.unpack(f">{len(data) // 2}H", data[: len(data) // 2 * 2]))
    total += data[-1] << 8 if len(data) % 2 else 0
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def check(packet):
    """A packet as its receiver checks it: lengths and checksums; gives protocol, upper layer."""
    if packet[0] >> 4 == 4:
        header = (packet[0] & 15) * 4
        assert int.from_bytes(packet[2:4], "big") == len(packet)
        assert words(packet[:header]) == 0xFFFF
        protocol, hosts = packet[9], packet[12:20]
    else:
        header = 40
        assert int.from_bytes(packet[4:6], "big") == len(packet) - 40
        protocol, hosts = packet[6], packet[8:40]
    upper = packet[header:]
    if protocol == ip.ICMP:
        assert words(upper) == 0xFFFF
    else:
        pseudo = hosts + struct.pack(">II", len(upper), protocol)
        assert words(pseudo + upper) == 0xFFFF
    return protocol, upper


# ---- the file ------------------------------------------------------------------------


def test_an_empty_capture_says_what_it_is_of():
    taken = Taken().read()
    assert taken.section[4].startswith(b"avne ")
    assert (taken.linktype, taken.snaplen) == (101, CAPTURE_SNAPLEN)
    assert taken.interface == {2: b"avne 00c0de", 9: b"\x09"}
    assert taken.blocks == []


def test_packets_have_their_time_direction_and_bytes():
    taken = Taken()
    sent = transport(ip.UDP, struct.pack(">HHHH", 1, 2, 13, 0) + b"hello", 6)
    taken.capture.guest_sent((sent,), 10.5)
    taken.capture.guest_receives((sent[:30], memoryview(sent)[30:]), 10.75)
    first, second = taken.read().packets
    assert first[:3] == (EPOCH + 10_500_000_000, len(sent) - 10, sent[10:])
    assert second[:3] == (EPOCH + 10_750_000_000, len(sent) - 10, sent[10:])
    assert (first.direction, second.direction) == ("out", "in")
    assert first.comment == second.comment == ""


@given(st.lists(st.integers(20, 200), max_size=8))
def test_blocks_of_every_length_follow_each_other(sizes):
    taken = Taken(file=File(chunk=7))
    for size in sizes:
        taken.capture.guest_sent((frame_v4(bytes(size), 132),), 0.0)
    assert [len(packet.data) - 20 for packet in taken.read().packets] == sizes


def test_a_packet_is_cut_at_the_snaplen():
    taken = Taken(snaplen=50)
    frame = frame_v4(b"x" * 100, 132)
    taken.capture.guest_sent((frame,), 0.0)
    found = taken.read()
    assert found.snaplen == 50
    assert (found.packets[0].data, found.packets[0].original) == (frame[10:60], 120)


def test_it_is_written_before_much_has_gathered():
    taken = Taken()
    frame = frame_v6(bytes(60_000), 132)
    for _ in range(CAPTURE_BUFFER // 60_000):
        taken.capture.guest_sent((frame,), 0.0)
    assert taken.file.writes == 0
    taken.capture.guest_sent((frame,), 0.0)
    assert taken.file.writes == 1
    assert len(taken.file.data) > CAPTURE_BUFFER
    taken.read()
    assert taken.file.writes == 1


# ---- checksums -----------------------------------------------------------------------


@pytest.mark.parametrize(("src", "dst"), [V4, V6], ids=["v4", "v6"])
@pytest.mark.parametrize("size", [0, 1, 2, 1447, 65_400])
def test_tcp_checksums_are_completed(src, dst, size):
    payload = bytes(range(256)) * 256
    header = tcp.HeaderTemplate(src, 80, dst, 5000).build(7, 8, tcp.ACK, 9, size, 1448 if size > 1448 else 0)
    taken = Taken()
    taken.capture.guest_receives((header, memoryview(payload)[:size]), 0.0)
    (packet,) = taken.read().packets
    protocol, segment = check(packet.data)
    assert (protocol, segment[20:]) == (ip.TCP, payload[:size])


@pytest.mark.parametrize(("src", "dst"), [V4, V6], ids=["v4", "v6"])
def test_udp_checksums_are_completed_and_never_zero(src, dst):
    """A datagram whose sum is 0 has 0xFFFF in its field: 0 there means that there is none."""
    seen = set()
    for word in range(0x10000):
        frame = bytearray(udp.build(src, 53, dst, 1000, word.to_bytes(2, "big")))
        offload.complete(frame)
        at = ip.parse(bytes(frame)).payload + 6
        field = bytes(frame[at : at + 2])
        assert field != b"\0\0"
        seen.add(field)
        if word % 999 == 0:
            check(bytes(frame[10:]))
    assert b"\xff\xff" in seen


@pytest.mark.parametrize(("src", "dst"), [V4, V6], ids=["v4", "v6"])
@pytest.mark.parametrize("protocol", [ip.TCP, ip.UDP])
@pytest.mark.parametrize("size", [0, 1, 400, 5000])
def test_checksums_in_the_quotes_of_icmp_errors_are_completed(src, dst, protocol, size):
    if protocol == ip.TCP:
        frame = tcp.HeaderTemplate(src, 80, dst, 99).build(7, 8, tcp.SYN, 9, size, 0) + b"x" * size
    else:
        frame = udp.build(src, 5000, dst, 443, b"x" * size)
    error = icmp.error(frame, ip.parse(frame), icmp.Unreachable.PORT.error(len(src) == 4), 0, dst)
    taken = Taken()
    taken.capture.guest_receives((error,), 0.0)
    (packet,) = taken.read().packets
    _, message = check(packet.data)
    assert len(packet.data) == len(error) - 10
    quote = message[8:]
    if size < 5000:
        assert check(quote)[1][20 if protocol == ip.TCP else 8 :] == b"x" * size
    else:
        assert packet.data == error[10:]


def test_a_complete_checksum_in_a_quote_stays_as_it_is():
    for damage in (0, 0x0101):
        frame = transport(ip.TCP, bytes(12) + b"\x50" + bytes(7), 16, damage=damage)
        error = icmp.error(frame, ip.parse(frame), icmp.Unreachable.PORT.error(True), 0, V4[1])
        whole = bytearray(error)
        offload.complete(whole)
        assert whole == error


def test_complete_checksums_stay_as_they_are():
    for damage in (0, 0x0101):
        frame = bytearray(transport(ip.TCP, bytes(12) + b"\x50" + bytes(7), 16, damage=damage))
        before = bytes(frame)
        offload.complete(frame)
        assert frame == before


@given(start=st.integers(0, 0xFFFF), offset=st.integers(0, 0xFFFF))
def test_a_place_outside_the_frame_is_left_alone(start, offset):
    """Who may inject packets inside can name any place."""
    front = struct.pack("<BBHHHH", vnet.NEEDS_CSUM, 0, 0, 0, start, offset)
    frame = bytearray(frame_v4(bytes(100), 132, front=front))
    before = bytes(frame)
    offload.complete(frame)
    if start + offset + 2 > 120:
        assert frame == before
    else:
        at = 10 + start + offset
        assert frame[:at] + frame[at + 2 :] == before[:at] + before[at + 2 :]


@given(damaged())
def test_no_frame_of_a_guest_can_break_it(frame):
    taken = Taken()
    frame = frame.ljust(vnet.SIZE, b"\0")  # the kernel puts a header before each
    taken.capture.guest_sent((frame,), 0.0)
    taken.capture.remark(b"x", "y")
    taken.capture.guest_receives((frame,), 0.0)
    assert len(taken.read().packets) >= 2


# ---- BIG TCP -------------------------------------------------------------------------


def big(src, dst, payload, gso_size, options=b"", flags=tcp.ACK | tcp.PSH | tcp.FIN):
    """A frame of more than 64 KiB, whose IP length says 0."""
    header = bytearray(
        tcp.HeaderTemplate(src, 80, dst, 5000).build(0xFFFFFF00, 8, flags, 9, 0, gso_size, options)
    )
    at = 12 if len(src) == 4 else 14
    header[at : at + 2] = bytes(2)
    return bytes(header) + payload


@pytest.mark.parametrize(("src", "dst"), [V4, V6], ids=["v4", "v6"])
@pytest.mark.parametrize("gso_size", [1448, 0])
@pytest.mark.parametrize("options", [b"", tcp.sack_option([(1, 2)])], ids=["plain", "sack"])
@pytest.mark.parametrize("size", [65_496, 131_072, 200_001])
def test_what_is_too_large_for_ip_is_split(src, dst, gso_size, options, size):
    payload = bytes(i * i % 251 for i in range(size))
    taken = Taken()
    taken.capture.guest_receives((big(src, dst, payload, gso_size, options), b""), 0.0)
    packets = taken.read().packets
    assert len(packets) > 1
    whole = b""
    for packet in packets:
        protocol, segment = check(packet.data)
        assert protocol == ip.TCP
        assert len(segment) <= 65_515
        assert int.from_bytes(segment[4:8], "big") == (0xFFFFFF00 + len(whole)) & 0xFFFFFFFF
        assert segment[20 : 20 + len(options)] == options
        last = packet is packets[-1]
        assert segment[13] == (tcp.ACK | tcp.PSH | tcp.FIN if last else tcp.ACK)
        data = segment[20 + len(options) :]
        assert last or not gso_size or len(data) % gso_size == 0
        whole += data
    assert whole == payload


@pytest.mark.parametrize("frame", GOOD, ids=range(len(GOOD)))
def test_frames_with_a_length_are_not_split(frame):
    (part,) = offload.split(bytearray(frame))
    assert part == frame


@pytest.mark.parametrize(("at", "value"), [(42, 0x00), (42, 0x40), (42, 0xF0), (19, ip.UDP)])
def test_a_length_of_zero_before_nonsense_is_no_segment(at, value):
    """A data offset that cannot be, or another protocol."""
    frame = bytearray(big(*V4, b"x" * 10, 0))
    frame[at] = value
    assert offload.split(bytearray(frame)) == [frame]


# ---- names ---------------------------------------------------------------------------


def test_a_mapped_address_is_named_before_its_first_packet_and_when_it_changes():
    names = Names(1)
    v4, v6 = names.map("www.test.example", 60, 0.0)
    taken = Taken(name_of=names.name_of)
    tun4, tun6 = addresses.TUN

    def packets():
        taken.capture.guest_sent((tcp.HeaderTemplate(tun4, 1, v4, 80).build(1, 2, tcp.SYN, 9, 0, 0),), 0.0)
        taken.capture.guest_receives(
            (tcp.HeaderTemplate(v6, 80, tun6, 1).build(1, 2, tcp.SYN, 9, 0, 0),), 0.0
        )

    packets()
    packets()
    assert names.map("other.example", 60, 10_000.0) == (v4, v6)
    packets()
    shape = [block[0] if isinstance(block, list) else block.direction for block in taken.read().blocks]
    first, second = "www.test.example", "other.example"
    assert shape == [
        (v4, first), "out", (v6, first), "in", "out", "in", (v4, second), "out", (v6, second), "in",
    ]  # fmt: skip


def test_addresses_that_stand_for_nothing_have_no_name():
    taken = Taken(name_of=Names().name_of)
    for dst in (bytes((198, 18, 7, 7)), V4[1]):
        template = tcp.HeaderTemplate(addresses.TUN[0], 1, dst, 80)
        taken.capture.guest_sent((template.build(1, 2, tcp.SYN, 9, 0, 0),), 0.0)
    assert taken.read().names == []


# ---- what the upstream said ----------------------------------------------------------


def captured(net):
    """Let a capture hear `net`'s stack, and see what it sends."""
    taken = Taken()
    net.stack.capture = taken.capture
    deliver = net._deliver

    def see(frame):
        taken.capture.guest_receives((frame,), net.now)
        deliver(frame)

    net._deliver = see
    return taken


@pytest.mark.parametrize("server", FAMILIES, ids=["v4", "v6"])
@pytest.mark.parametrize(
    ("code", "verdict", "said"),
    [
        (0x05, 0, "refused by socks5, code 0x05: RST"),
        (0x03, 1, "refused by socks5, code 0x03: ICMP network unreachable"),
    ],
)
def test_the_answer_to_a_syn_has_the_verdict_as_its_comment(server, code, verdict, said):
    net = Net("socks5")
    taken = captured(net)
    _, flow = parked(net, server)
    net.say(messages.REFUSED, flow, code, verdict, "")
    (packet,) = taken.read().packets
    assert packet.comment == f"flow {flow} at w0: {said}"


def test_the_answers_to_a_syn_and_a_reset_have_comments_and_other_packets_none():
    net = Net("socks5")
    taken = captured(net)
    socket, flow = parked(net)
    net.say(messages.OPENED, flow, 50_000)
    socket.send()
    net.say(messages.DATA, flow, payload=b"hello")
    net.say(messages.RESET, flow, 0x01)
    packets = taken.read().packets
    assert [packet.data[33] for packet in packets] == [
        tcp.SYN | tcp.ACK,
        tcp.ACK | tcp.PSH,
        tcp.RST | tcp.ACK,
    ]
    first, last = f"flow {flow} at w0: opened", f"flow {flow} at w0: reset, code 0x01"
    assert [packet.comment for packet in packets] == [first, "", last]


def test_a_remark_that_no_packet_carries_is_forgotten():
    net = Net("socks5")
    taken = captured(net)
    socket, flow = parked(net)
    net.say(messages.REFUSED, flow, 0x06, 4, "")  # silence
    taken.read()
    net.gone()
    template = tcp.HeaderTemplate(socket.server, 80, socket.guest, socket.local)
    taken.capture.guest_receives((template.build(1, 2, tcp.RST, 9, 0, 0),), net.now)
    (packet,) = taken.read().packets
    assert packet.comment == ""


# ---- a disk that is full -------------------------------------------------------------


def test_a_full_disk_ends_the_capture_at_a_whole_block_and_is_told_once():
    taken = Taken(file=File(room=5000, chunk=999))
    frame = frame_v4(bytes(1000), 132)
    taken.capture.guest_sent((frame,), 0.0)
    assert taken.capture.flush() is None
    for _ in range(6):
        taken.capture.guest_sent((frame,), 0.0)
    assert taken.capture.flush() == errno.ENOSPC
    assert len(pcapng.read(bytes(taken.file.data)).packets) == 1
    assert taken.counters["capture-lost"] == 6
    taken.file.room = 1 << 40
    taken.capture.guest_receives((frame,), 0.0)
    assert taken.capture.flush() is None
    assert taken.counters["capture-lost"] == 7
    assert len(pcapng.read(bytes(taken.file.data)).packets) == 1


def test_a_disk_that_is_full_in_the_middle_of_a_turn_is_told_at_its_end():
    taken = Taken(file=File(room=0))
    frame = frame_v6(bytes(60_000), 132)
    for _ in range(CAPTURE_BUFFER // 60_000 + 2):
        taken.capture.guest_sent((frame,), 0.0)
    assert taken.file.writes == 1
    assert taken.capture.flush() == errno.ENOSPC
    assert not taken.file.data
