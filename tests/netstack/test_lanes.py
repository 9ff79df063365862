# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers with shared memory: what lies where, for how long, and that nobody reads what is not theirs."""

from __future__ import annotations

import os

import pytest
from guest import FAMILIES, SERVER_V4, Net, connected, parked

from avne.errors import Malformed
from avne.ipc import messages
from avne.ipc.lane import Piece
from avne.ipc.messages import encode
from avne.ipc.slab import Slab
from avne.limits import CREDIT_MAX, CREDIT_MIN, INLINE_BELOW, SLAB_CHUNK
from avne.netstack.wire import split, tcp

LARGE = INLINE_BELOW


class LaneNet(Net):
    """A `Net` whose first worker has a lane; frames are read as the process reads them."""

    def __init__(self, kind: str = "socks5") -> None:
        super().__init__()
        self.slab = Slab()
        self.stack.add_slab(b"w0", self.slab)
        self.join(b"w0", kind)

    def frame(self, frame: bytes) -> None:
        size = split.HEAD_V6 if frame[10] >> 4 == 6 else split.HEAD_V4
        room = self.stack.slab.room(65536 + 100) if self.stack.slab else None
        if room is None or len(frame) < size:
            super().frame(frame)
            return
        text = frame[size:]
        room[: len(text)] = text
        self.stack.receive_text(bytearray(frame[:size]), room[: len(text)], self.now)
        again = self.stack.slab.room(1) if self.stack.slab else None
        if again is not None:
            again[:70_000] = bytes(min(70_000, len(again)))  # the next packet is read to there
        self.turn()

    def piece(self, flow: int, data: bytes, offset: int) -> None:
        """DATA of the worker that lies in its own slab at `offset`."""
        self.stack.handle(b"w0", encode(messages.DATA, flow), Piece(offset, memoryview(data)), self.now)
        self.turn()


@pytest.fixture
def net() -> LaneNet:
    return LaneNet()


# ---- up: from the tun -----------------------------------------------------------------------


@pytest.mark.parametrize("server", FAMILIES, ids=["v4", "v6"])
def test_large_text_stays_where_it_was_read(net: LaneNet, server: bytes) -> None:
    socket, flow = connected(net, server, CREDIT_MAX)
    data = os.urandom(LARGE)
    socket.send(data)
    (message,) = net.told()
    assert (message.name, message.flow, message.payload) == ("DATA", flow, data)
    (piece,) = net.pieces
    assert piece.view.obj is net.slab.memory.obj
    net.say(messages.RETURN, 0, piece.offset)
    with pytest.raises(Malformed, match="wire-slab"):
        net.say(messages.RETURN, 0, piece.offset)


@pytest.mark.parametrize("size", [0, 1, INLINE_BELOW - 1])
def test_small_text_is_copied(net: LaneNet, size: int) -> None:
    socket, _ = connected(net, SERVER_V4, CREDIT_MAX)
    data = os.urandom(size)
    socket.send(data)
    assert [m.payload for m in net.told()] == ([data] if size else [])
    assert not net.pieces


def test_what_comes_in_one_turn_back_to_back_is_one_piece(net: LaneNet) -> None:
    socket, _ = connected(net, SERVER_V4, CREDIT_MAX)
    parts = [os.urandom(LARGE) for _ in range(3)]
    turn, net.turn = net.turn, lambda: None  # type: ignore[method-assign]
    for part in parts:
        socket.send(part)
    net.turn = turn  # type: ignore[method-assign]
    net.turn()
    assert [m.payload for m in net.told()] == [b"".join(parts)]
    assert len(net.pieces) == 1


def test_text_out_of_order_is_kept_apart(net: LaneNet) -> None:
    """What waits for its turn must not lie where the next packet is read to."""
    socket, _ = connected(net, SERVER_V4, CREDIT_MAX)
    first, second = os.urandom(LARGE), os.urandom(LARGE)
    net.frame(socket.raw(tcp.ACK, socket.snd_nxt + LARGE, socket.rcv_nxt, second))
    assert not net.told()
    socket.send(first)
    assert b"".join(m.payload or b"" for m in net.told()) == first + second


def test_a_flow_of_another_worker_gets_a_copy_and_the_next_read(net: LaneNet) -> None:
    """A worker sees nothing of the flows of another."""
    other = Slab()
    connected(net, SERVER_V4, CREDIT_MAX, local=40000)
    net.stack.add_slab(b"w1", other)
    net.join(b"w1", "socks5")
    socket, flow = parked(net, SERVER_V4, local=40001)
    net.say(messages.OPENED, flow, CREDIT_MAX, worker=b"w1")
    socket.send()
    data = os.urandom(LARGE)
    socket.send(data)
    (message,) = net.told()
    assert (message.worker, message.payload) == (b"w1", data)
    assert not net.pieces
    assert net.stack.slab is other
    socket.send(data)
    (piece,) = net.pieces
    assert piece.view.obj is other.memory.obj
    net.gone(b"w1")
    assert net.stack.slab is net.slab


def test_without_room_everything_goes_on(net: LaneNet) -> None:
    while net.slab.room(SLAB_CHUNK) is not None:
        net.slab.take(SLAB_CHUNK)
    socket, _ = connected(net, SERVER_V4, CREDIT_MAX)
    data = os.urandom(LARGE)
    socket.send(data)
    assert [m.payload for m in net.told()] == [data]


def test_a_worker_without_a_lane_returns_nothing() -> None:
    net = Net("socks5")
    with pytest.raises(Malformed, match="wire-slab"):
        net.say(messages.RETURN, 0, 0)


# ---- down: from the worker's slab -----------------------------------------------------------


def test_a_piece_goes_back_when_the_guest_has_acknowledged_it(net: LaneNet) -> None:
    socket, flow = connected(net)
    one, two = os.urandom(LARGE - 100), os.urandom(LARGE - 100)
    net.piece(flow, one, 1000)
    net.say(messages.DATA, flow, payload=b"in between")
    net.piece(flow, two, 2000)
    assert socket.data == one + b"in between" + two
    assert net.returned == []
    start = socket.isn + 1
    net.frame(socket.raw(tcp.ACK, start, socket.rcv_nxt - len(two) - 10 - 1))
    assert net.returned == []
    net.frame(socket.raw(tcp.ACK, start, socket.rcv_nxt - len(two)))
    assert net.returned == [1000]
    net.frame(socket.raw(tcp.ACK, start, socket.rcv_nxt))
    assert net.returned == [1000, 2000]


@pytest.mark.parametrize("how", ["reset by the guest", "reset by the worker", "ended by both"])
def test_a_piece_goes_back_at_the_end(net: LaneNet, how: str) -> None:
    socket, flow = connected(net)
    net.piece(flow, os.urandom(LARGE), 1000)
    if how == "reset by the guest":
        socket.send_reset()
    elif how == "reset by the worker":
        net.say(messages.RESET, flow, 1)
    else:
        net.say(messages.SHUT, flow)
        socket.send_fin()  # with an ACK of everything
    assert net.returned == [1000]


def test_a_piece_stays_while_the_guest_may_still_need_it(net: LaneNet) -> None:
    """The flow is over at the worker, but its last bytes are not acknowledged."""
    socket, flow = connected(net)
    data = os.urandom(LARGE)
    net.frame(socket.raw(tcp.ACK | tcp.FIN, socket.snd_nxt, socket.rcv_nxt))
    net.piece(flow, data, 1000)
    net.say(messages.SHUT, flow)
    assert socket.data == data
    assert net.returned == []
    net.wait(0.5)  # it is sent again
    net.frame(socket.raw(tcp.ACK, socket.snd_nxt + 1, socket.rcv_nxt))
    assert net.returned == [1000]


def test_a_piece_for_a_flow_that_is_gone_goes_straight_back(net: LaneNet) -> None:
    socket, flow = connected(net)
    socket.send_reset()
    net.piece(flow, b"x" * LARGE, 3000)
    assert net.returned == [3000]


def test_a_piece_counts_as_credit(net: LaneNet) -> None:
    _, flow = connected(net)
    net.piece(flow, bytes(CREDIT_MIN), 50)
    with pytest.raises(Malformed, match="wire-credit"):
        net.piece(flow, b"x", 99)


def test_the_resolvers_stream_copies_and_returns() -> None:
    net = LaneNet("tor")
    net.stack.port53._open(7, "192.0.2.53", 53, net.now)
    net.turn()
    (opening,) = net.told("OPEN")
    net.say(messages.OPENED, opening.flow, 1000)
    net.piece(opening.flow, bytes(LARGE), 5000)
    assert net.returned == [5000]


def test_sockets_of_one_port_are_told_apart(net: LaneNet) -> None:
    """The short way in finds the same connection as the long one."""
    pairs = [connected(net, server, CREDIT_MAX, local=41000) for server in FAMILIES]
    for socket, flow in pairs:
        socket.send(b"to " + socket.server)
        assert [(m.flow, m.payload) for m in net.told()] == [(flow, b"to " + socket.server)]
