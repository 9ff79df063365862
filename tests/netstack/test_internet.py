# SPDX-License-Identifier: GPL-3.0-or-later
"""The IP layer of the stack: ICMP both ways, refusals, and datagrams in pieces."""

from __future__ import annotations

from struct import pack

import pytest
from guest import FAMILIES, SERVER_V4, SERVER_V6, V4, V6, Net, Socket, connected, parked
from wire_frames import frame_v4, frame_v6

from avne.ipc import messages
from avne.limits import ICMP_BURST, ICMP_RATE
from avne.netstack import addresses
from avne.netstack.internet import TokenBucket
from avne.netstack.tcp import state
from avne.netstack.wire import checksum, icmp, ip, udp, vnet
from avne.netstack.wire.fragments import TIMEOUT

EACH = pytest.mark.parametrize("server", FAMILIES, ids=["v4", "v6"])


def is_v4(address: bytes) -> bool:
    return len(address) == 4


def message(server: bytes, what: int, code: int = 0, rest: int = 0, body: bytes = b"") -> bytes:
    """An ICMP message from the guest to `server`, its checksum right."""
    src = addresses.TUN[len(server) == 16]
    protocol = ip.ICMP if is_v4(server) else ip.ICMPV6
    whole = pack(">BBHI", what, code, 0, rest) + body
    sum_ = checksum.total(whole)
    if not is_v4(server):
        sum_ = checksum.fold(sum_ + checksum.pseudo_header(src, server, protocol) + len(whole))
    whole = whole[:2] + pack(">H", ~sum_ & 0xFFFF) + whole[4:]
    return vnet.PLAIN + ip.build(protocol, src, server, len(whole)) + whole


def echo(server: bytes) -> bytes:
    return message(server, 8 if is_v4(server) else 128, 0, 0x00070001, b"ping")


# ---- what is answered, and what is not -----------------------------------------------------------


@EACH
@pytest.mark.rfc("4443", "2.2")
@pytest.mark.rfc("4443", "3.1-2")
def test_echo_is_prohibited(server):
    net = Net("tor")
    net.frame(echo(server))
    (frame,) = net.other
    assert ip.parse(frame).src == addresses.gateway_for(server)
    assert net.unreachable() == [(*((3, 13) if is_v4(server) else (1, 1)), echo(server)[vnet.SIZE :])]
    assert net.stack.counters == {"icmp-echo": 1}


@EACH
@pytest.mark.rfc("1122", "3.2.2-5")
@pytest.mark.rfc("4443", "2.4e1")
@pytest.mark.rfc("4443", "2.4e2")
def test_errors_and_redirects_are_not_answered(server):
    """Not even where there would be a reason for it: an option that must be understood."""
    net = Net("tor")
    for what in (3, 4, 5, 11, 12) if is_v4(server) else (1, 2, 3, 4, 100, 127, 137):
        net.frame(message(server, what, 0, 0, bytes(48)))
    for what in (3, 4, 5, 11, 12) if is_v4(server) else (1, 2, 3, 4, 100, 127, 137):
        error = message(server, what, 0, 0, bytes(48))[vnet.SIZE + (20 if is_v4(server) else 40) :]
        if is_v4(server):
            net.frame(frame_v4(error, ip.ICMP, options=bytes((1, 1, 7, 9))))
        else:
            net.frame(frame_v6(bytes((ip.ICMPV6, 0, 0xBE, 0, 0, 0, 0, 0)) + error, 60))
    assert not net.other
    assert net.stack.counters["malformed-ipv4-option" if is_v4(server) else "malformed-ipv6-option"] >= 5


@EACH
@pytest.mark.rfc("1122", "3.2.2-1")
@pytest.mark.rfc("1122", "3.2.2.7")
@pytest.mark.rfc("1122", "3.2.2.9")
@pytest.mark.rfc("4443", "2.4b")
def test_unknown_messages_are_silently_discarded(server):
    """Among them the requests for a time, for information and for an address mask (13, 15, 17)."""
    net = Net("tor")
    known = {8, 3, 4, 5, 11, 12} if is_v4(server) else set(range(129))
    unknown = [what for what in range(256) if what not in known]
    for what in unknown:
        net.frame(message(server, what))
    assert not net.other
    assert net.stack.counters == {"icmp-other": len(unknown)}


@EACH
@pytest.mark.rfc("792", "checksum")
@pytest.mark.rfc("4443", "2.3")
def test_a_message_with_a_wrong_checksum_is_dropped(server):
    net = Net("tor")
    good = echo(server)
    net.frame(good[:-1] + bytes((good[-1] ^ 1,)))
    assert not net.other
    assert net.stack.counters == {"malformed-icmp-checksum": 1}


@pytest.mark.rfc("4443", "3.4-1")
@pytest.mark.rfc("8200", "4-3")
@pytest.mark.rfc("8200", "4.2-2")
@pytest.mark.rfc("8200", "4.4-2")
def test_a_header_that_must_be_understood_is_answered_with_its_place():
    net = Net("tor")
    option = frame_v6(bytes((17, 0, 0xBE, 0, 0, 0, 0, 0)) + b"payload", 60)
    routing = frame_v6(bytes((17, 0, 0, 1, 0, 0, 0, 0)) + b"payload", 43)
    hop = frame_v6(bytes((0, 0, 1, 4, 0, 0, 0, 0)) * 2, 60)
    for frame, told in ((option, (2, 42)), (routing, (0, 42)), (hop, (1, 40))):
        net.frame(frame)
        (error,) = net.other
        at = ip.parse(error).payload
        assert (error[at], error[at + 1], int.from_bytes(error[at + 4 : at + 8], "big")) == (4, *told)
        assert net.unreachable()[0][2] == frame[vnet.SIZE :]
    silent = frame_v6(bytes((17, 0, 0x7E, 0, 0, 0, 0, 0)) + b"payload", 60)
    net.frame(silent)
    assert not net.other


@pytest.mark.parametrize(("option", "answered"), [(0xBE, True), (0xFE, False)])
@pytest.mark.rfc("8200", "4.2-2")
@pytest.mark.rfc("4443", "2.4e3")
def test_only_an_option_that_asks_for_it_is_answered_from_a_multicast_address(option, answered):
    net = Net("tor")
    frame = bytearray(frame_v6(bytes((17, 0, option, 0, 0, 0, 0, 0)), 60))
    frame[vnet.SIZE + 24 : vnet.SIZE + 40] = bytes.fromhex("ff02" + "00" * 13 + "01")
    net.frame(bytes(frame))
    assert bool(net.other) is answered


@pytest.mark.rfc("1122", "3.3.5-2")
@pytest.mark.rfc("1122", "3.2.2.5-1")
def test_a_source_route_and_a_broken_option_are_answered():
    net = Net("tor")
    net.frame(frame_v4(b"payload", 17, options=bytes((131, 7, 4, 192, 0, 2, 9, 0))))
    assert [e[:2] for e in net.unreachable()] == [(3, 5)]
    net.frame(frame_v4(b"payload", 17, options=bytes((1, 1, 7, 9))))
    (error,) = net.other
    assert error[vnet.SIZE + 20 : vnet.SIZE + 22] == bytes((12, 0))
    assert error[vnet.SIZE + 24 : vnet.SIZE + 28] == bytes((22, 0, 0, 0))


@pytest.mark.rfc("4443", "2.4e6")
@pytest.mark.rfc("1122", "3.2.2-9")
def test_nobody_is_told_at_an_address_that_is_not_the_guests():
    net = Net("tor")
    for src in (bytes(16), bytes.fromhex("ff02" + "00" * 14)):
        frame = bytearray(frame_v6(bytes((17, 0, 0xBE, 0, 0, 0, 0, 0)), 60))
        frame[vnet.SIZE + 8 : vnet.SIZE + 24] = src
        net.frame(bytes(frame))
    assert not net.other


# ---- how many -----------------------------------------------------------------------------------


@EACH
@pytest.mark.rfc("4443", "2.4f-1")
def test_errors_are_limited(server):
    net = Net("tor")
    frame = udp.build(addresses.TUN[len(server) == 16], 1234, server, 9, b"flood")
    for _ in range(ICMP_BURST + 500):
        net.frame(frame)
    assert len(net.unreachable()) == ICMP_BURST
    assert net.stack.counters["icmp-limited"] == 500
    net.wait(0.1)
    for _ in range(ICMP_RATE):
        net.frame(frame)
    assert len(net.unreachable()) == ICMP_RATE // 10


def test_a_bucket_never_holds_more_than_its_burst():
    bucket = TokenBucket(10, 3)
    assert [bucket.take(64.0) for _ in range(5)] == [True, True, True, False, False]
    assert [bucket.take(64.125) for _ in range(2)] == [True, False]


# ---- what we are told ------------------------------------------------------------------------------


def about(server: bytes, seq: int, local: int = 40000, port: int = 80) -> bytes:
    """The first bytes of a segment of ours, for an error to quote."""
    guest = addresses.TUN[len(server) == 16]
    return ip.build(ip.TCP, server, guest, 20) + pack(">HHI", port, local, seq)


SOFT_V4 = [(3, 0), (3, 1), (3, 4), (3, 5), (11, 0), (11, 1), (12, 0), (5, 1)]
SOFT_V6 = [(1, 0), (1, 3), (2, 0), (3, 0), (3, 1), (4, 0), (4, 1), (4, 2), (99, 0)]
ERRORS = [(SERVER_V4, *e) for e in SOFT_V4] + [(SERVER_V6, *e) for e in SOFT_V6]


@pytest.mark.parametrize(("server", "what", "code"), ERRORS)
@pytest.mark.rfc("9293", "MUST-56")
@pytest.mark.rfc("9293", "SHLD-25")
@pytest.mark.rfc("1122", "3.2.2.1-5")
@pytest.mark.rfc("1122", "3.2.2.4")
@pytest.mark.rfc("1122", "3.2.2.5-2")
@pytest.mark.rfc("4443", "2.4a")
@pytest.mark.rfc("4443", "3.2")
@pytest.mark.rfc("4443", "3.3")
@pytest.mark.rfc("4443", "3.4-2")
def test_a_soft_error_ends_nothing_and_is_counted(server, what, code):
    net = Net("tor")
    socket, flow = parked(net, server)
    net.say(messages.OPENED, flow, 1000)
    (syn_ack,) = socket.segments()
    net.frame(message(server, what, code, 0, about(server, syn_ack.seq)))
    (connection,) = net.stack.connections.values()
    assert connection.state is state.SYN_RECEIVED
    assert net.stack.counters["icmp-soft-error"] == net.stack.counters["tcp-icmp-soft-error"] == 1
    assert not net.told()
    socket.send()
    assert connection.state is state.ESTABLISHED


HARD = [(SERVER_V4, 3, 2), (SERVER_V4, 3, 3), (SERVER_V6, 1, 1), (SERVER_V6, 1, 4)]


@pytest.mark.parametrize(("server", "what", "code"), HARD)
@pytest.mark.rfc("9293", "MUST-54")
@pytest.mark.rfc("9293", "SHLD-26")
@pytest.mark.rfc("1122", "3.2.2-3")
@pytest.mark.rfc("1122", "3.2.2.1-3")
@pytest.mark.rfc("1122", "3.2.2.1-4")
@pytest.mark.rfc("4443", "3.1-4")
def test_a_hard_error_ends_the_attempt_that_it_is_about(server, what, code):
    net = Net("tor")
    flows = {}
    for local in (100, 200):
        socket, flow = parked(net, server, local=local)
        net.say(messages.OPENED, flow, 1000)
        flows[local] = flow, socket.segments()[0].seq
    flow, seq = flows[200]
    net.frame(message(server, what, code, 0, about(server, seq, local=200)))
    assert [(m.name, m.flow) for m in net.told()] == [("RESET", flow)]
    (other,) = net.stack.connections.values()
    assert other.state is state.SYN_RECEIVED
    assert net.stack.counters["icmp-hard-error"] == 1


@pytest.mark.parametrize(("server", "what", "code"), HARD)
@pytest.mark.rfc("9293", "MUST-54")
def test_a_hard_error_ends_no_connection_and_nothing_that_it_is_not_about(server, what, code):
    net = Net("tor")
    socket, flow = parked(net, server)
    net.frame(message(server, what, code, 0, about(server, 0)))  # we have not said anything yet
    net.say(messages.OPENED, flow, 1000)
    seq = socket.segments()[0].seq
    for wrong in (
        about(server, seq + 1),
        about(server, seq - 1),
        about(server, seq, local=7),
        b"",
        bytes(60),
    ):
        net.frame(message(server, what, code, 0, wrong))
    socket.send()
    net.say(messages.DATA, flow, payload=b"data")
    net.frame(message(server, what, code, 0, about(server, seq + 1)))  # in flight, but established
    assert not net.told()
    (connection,) = net.stack.connections.values()
    assert connection.state is state.ESTABLISHED
    assert net.stack.counters["icmp-hard-error"] == 7
    assert net.stack.counters["tcp-icmp-hard-error"] == 1  # the last one


@pytest.mark.rfc("9293", "MUST-55")
@pytest.mark.rfc("1122", "3.2.2.3")
def test_a_source_quench_is_silently_discarded():
    net = Net("tor")
    socket, flow = connected(net)
    net.say(messages.DATA, flow, payload=b"x")
    (data,) = socket.segments()
    net.frame(message(SERVER_V4, 4, 0, 0, about(SERVER_V4, data.seq)))
    net.say(messages.DATA, flow, payload=bytes(15_000))
    assert sum(len(s.payload) for s in socket.segments()) == 15_000
    assert not net.other
    assert net.stack.counters["icmp-source-quench"] == 1


def test_errors_about_answers_of_ours_over_udp_are_only_counted():
    """A program closes its socket before the answer comes: its kernel says so."""
    net = Net("tor")
    quote = udp.build(addresses.GATEWAY[0], 53, V4, 5353, b"answer")[vnet.SIZE :]
    net.frame(message(addresses.GATEWAY[0], 3, 3, 0, quote))
    assert not net.other
    assert net.stack.counters == {"icmp-hard-error": 1}


# ---- pieces -------------------------------------------------------------------------------------------


def fragments(frame: bytes) -> list[bytes]:
    """`frame`, without offloads, in two pieces."""
    datagram = ip.parse(frame)
    cut = 1400
    body = frame[datagram.payload : datagram.end]
    if is_v4(datagram.src):
        return [
            frame_v4(body[:cut], datagram.protocol, fragment=0x2000),
            frame_v4(body[cut:], datagram.protocol, fragment=cut // 8),
        ]
    head = pack(">BBHI", datagram.protocol, 0, 1, 5), pack(">BBHI", datagram.protocol, 0, cut, 5)
    return [frame_v6(head[0] + body[:cut], 44), frame_v6(head[1] + body[cut:], 44)]


def large(v6: bool) -> bytes:
    """A datagram to a port that nobody listens on, its checksum complete."""
    src, dst = (V6, frame_v6(b"")[vnet.SIZE + 24 :]) if v6 else (V4, frame_v4(b"")[vnet.SIZE + 16 :])
    frame = bytearray(udp.build(src, 1234, dst, 9, bytes(3000)))
    frame[: vnet.SIZE] = vnet.PLAIN
    at = ip.parse(bytes(frame)).payload
    frame[at + 6 : at + 8] = pack(">H", checksum.checksum(bytes(frame[at:])))
    return bytes(frame)


@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.rfc("1122", "3.3.2-1")
@pytest.mark.rfc("8200", "4.5-1")
def test_a_datagram_in_pieces_is_refused_like_any_other(v6):
    net = Net("tor")
    first, last = fragments(large(v6))
    net.frame(last)
    assert not net.other
    net.frame(first)
    assert [e[:2] for e in net.unreachable()] == [(1, 4) if v6 else (3, 3)]
    assert net.stack.counters == {"fragment": 2, "udp": 1}
    assert net.stack.poll_at() is None


@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.rfc("1122", "3.3.2-4")
@pytest.mark.rfc("8200", "4.5-3")
@pytest.mark.rfc("1122", "3.2.2-8")
def test_pieces_that_stay_incomplete_are_answered_if_the_first_was_there(v6):
    net = Net("tor")
    first, last = fragments(large(v6))
    net.frame(first)
    net.wait(TIMEOUT - 1)
    assert not net.other
    net.wait(1)
    ((kind, code, quote),) = net.unreachable()
    assert (kind, code) == ((3, 1) if v6 else (11, 1))
    assert first[vnet.SIZE :].startswith(quote)
    net.frame(last)
    net.wait(TIMEOUT)
    assert not net.other
    assert net.stack.poll_at() is None


@pytest.mark.rfc("8200", "4.5-6")
def test_a_first_piece_without_all_headers_is_answered():
    net = Net("tor")
    net.frame(frame_v6(pack(">BBHI", 6, 0, 1, 5) + bytes(16), 44))
    assert [e[:2] for e in net.unreachable()] == [(4, 3)]


@pytest.mark.rfc("1122", "3.2.2-8")
def test_nobody_is_told_of_a_later_fragment():
    """Whatever is wrong with it: its size, its options, its source route."""
    net = Net("tor")
    net.frame(frame_v4(bytes(60), 17, fragment=8190))
    for options in (bytes((1, 1, 7, 9)), bytes((131, 7, 4, 192, 0, 2, 9, 0))):
        net.frame(frame_v4(bytes(8), 17, fragment=5, options=options))
    assert not net.other
    assert net.stack.counters["malformed-fragment-size"] == 1


def test_an_error_in_pieces_is_not_answered():
    """RFC 4443 §2.4 (e.1) behind a fragment header."""
    net = Net("tor")
    net.frame(
        frame_v6(pack(">BBHI", 58, 0, 1, 5) + message(SERVER_V6, 1, 4, 0, bytes(40))[vnet.SIZE + 40 :], 44)
    )
    net.wait(TIMEOUT)
    assert not net.other


def test_a_connection_attempt_that_is_told_of_nothing_is_repeated():
    """Where the limit has swallowed the error, the guest's next SYN gets one."""
    net = Net("socks5")
    frame = udp.build(V4, 1234, SERVER_V4, 9, b"flood")
    for _ in range(ICMP_BURST):
        net.frame(frame)
    net.unreachable()
    for wait, told in ((0.0, []), (1.0, [(3, 0)])):
        net.wait(wait)
        Socket(net).syn()
        (opened,) = net.told("OPEN")
        net.say(messages.REFUSED, opened.flow, messages.Code.NETWORK_UNREACHABLE, 1, "")
        assert [e[:2] for e in net.unreachable()] == told


def test_kinds_have_names_for_the_counters():
    assert len({kind.value for kind in icmp.Kind}) == len(icmp.Kind)
