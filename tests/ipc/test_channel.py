# SPDX-License-Identifier: GPL-3.0-or-later
"""The ZeroMQ line: real sockets, and a worker in a process of its own where it matters."""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from avne.errors import Malformed
from avne.ipc.channel import Dealer, Router
from avne.ipc.messages import BadFrames
from avne.limits import MAX_PAYLOAD

TIMEOUT = 10


class Place:
    """A listening socket as the supervisor makes it."""

    def __init__(self, directory: Path) -> None:
        self.endpoint = f"ipc://{directory}/n"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{directory}/n")
        listener.listen(8)
        self.fd = listener.detach()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def router(place: Place) -> Iterator[Router]:
    router = Router(place.fd, place.endpoint)
    yield router
    router.close()


@pytest.fixture
def dealer(router: Router, place: Place) -> Iterator[Dealer]:
    dealer = Dealer(place.endpoint, b"w1.1")
    yield dealer
    dealer.close()


def receive(channel: Router | Dealer) -> tuple[bytes, bytes, bytes | memoryview | None]:
    while (message := channel.receive()) is None:
        assert select.select([channel], [], [], TIMEOUT)[0], "no message came"
    return message


def meet(router: Router, dealer: Dealer) -> None:
    dealer.send(b"hello")
    assert receive(router) == (b"w1.1", b"hello", None)


def test_messages_with_and_without_payload_arrive_both_ways_in_order(router: Router, dealer: Dealer) -> None:
    meet(router, dealer)
    assert router.send(b"w1.1", b"header")
    assert router.send(b"w1.1", b"data", b"payload")
    assert router.send(b"w1.1", b"empty", b"")
    dealer.send(b"up", b"bytes")
    assert receive(dealer) == (b"", b"header", None)
    assert receive(dealer) == (b"", b"data", b"payload")
    assert receive(dealer) == (b"", b"empty", b"")
    assert receive(router) == (b"w1.1", b"up", b"bytes")
    assert router.receive() is None
    assert dealer.receive() is None


@pytest.mark.parametrize("size", [1, (32 << 10) - 1, 32 << 10, 65536, MAX_PAYLOAD])
def test_a_payload_of_any_size_arrives_whole_and_outlives_the_next(
    router: Router, dealer: Dealer, size: int
) -> None:
    first, second = os.urandom(size), os.urandom(size)
    slab = bytearray(first)
    dealer.send(b"h", memoryview(slab))
    slab[:] = second  # the message has its own copy
    dealer.send(b"h", memoryview(slab))
    _, _, one = receive(router)
    _, _, two = receive(router)
    assert isinstance(one, bytes if size < 32 << 10 else memoryview)
    gc.collect()
    assert one == first
    assert two == second


def test_an_unknown_peer_is_reported(router: Router) -> None:
    assert not router.send(b"nobody", b"header", b"payload")
    assert not router.send(b"nobody", b"header")


def test_any_other_error_of_the_socket_is_ours(place: Place) -> None:
    router = Router(place.fd, place.endpoint)
    router.close()
    with pytest.raises(zmq.ZMQError):
        router.send(b"w1.1", b"header")


def test_a_peer_that_died_is_unknown_again(router: Router, place: Place) -> None:
    code = (
        "import sys; from avne.ipc.channel import Dealer; d = Dealer(sys.argv[1], b'w7.2')\n"
        "d.send(b'hello'); sys.stdin.read()"
    )
    child = subprocess.Popen([sys.executable, "-c", code, place.endpoint], stdin=subprocess.PIPE)
    assert receive(router) == (b"w7.2", b"hello", None)
    assert router.send(b"w7.2", b"x")
    child.send_signal(signal.SIGKILL)
    child.communicate()
    for _ in range(1000):
        if not router.send(b"w7.2", b"x"):
            break
        select.select([router], [], [], 0.01)
    else:
        pytest.fail("a dead peer takes messages for ever")


def test_pending_sees_what_the_descriptor_has_signalled_already(router: Router, dealer: Dealer) -> None:
    """The edge can be consumed by a send: then only `pending` knows of the message."""
    meet(router, dealer)
    assert not router.pending()
    dealer.send(b"one")
    while not router.pending():
        assert select.select([router], [], [], TIMEOUT)[0]
    router.send(b"w1.1", b"consumes the signal")
    assert router.pending()
    assert receive(router)[1] == b"one"
    assert not router.pending()


def raw(place: Place, kind: int = zmq.DEALER) -> tuple[zmq.Context[zmq.Socket[bytes]], zmq.Socket[bytes]]:
    context = zmq.Context()
    sock = context.socket(kind)
    sock.setsockopt(zmq.LINGER, 0)
    sock.setsockopt(zmq.IDENTITY, b"rogue")
    sock.connect(place.endpoint)
    return context, sock


@pytest.mark.parametrize("frames", [3, 4, 9])
def test_too_many_frames_name_the_culprit_and_harm_no_one_else(
    router: Router, dealer: Dealer, place: Place, frames: int
) -> None:
    meet(router, dealer)
    context, sock = raw(place)
    sock.send_multipart([b"x"] * frames)
    with pytest.raises(BadFrames) as caught:
        receive(router)
    assert caught.value.peer == b"rogue"
    assert caught.value.reason == "wire-frames"
    assert isinstance(caught.value, Malformed)
    dealer.send(b"still fine")
    assert receive(router) == (b"w1.1", b"still fine", None)
    sock.close()
    context.term()


def test_a_frame_above_the_limit_never_comes_in(router: Router, dealer: Dealer, place: Place) -> None:
    context, sock = raw(place)
    sock.send_multipart([b"x", bytes(MAX_PAYLOAD + 1)])
    dealer.send(b"hello")
    assert receive(router) == (b"w1.1", b"hello", None)
    events = [select.select([router], [], [], 0.05)[0] and router.receive() for _ in range(4)]
    assert not any(events)
    sock.close()
    context.term()


def test_nothing_is_dropped_while_a_peer_does_not_read(router: Router, dealer: Dealer) -> None:
    """libzmq's own high-water mark would be 1,000 messages."""
    meet(router, dealer)
    for number in range(5000):
        assert router.send(b"w1.1", number.to_bytes(4, "big"))
    assert [receive(dealer)[1] for _ in range(5000)] == [n.to_bytes(4, "big") for n in range(5000)]


def test_the_file_of_the_listening_socket_stays_its_owner_s(place: Place) -> None:
    Router(place.fd, place.endpoint).close()
    assert os.path.exists(place.endpoint.removeprefix("ipc://"))
