# SPDX-License-Identifier: GPL-3.0-or-later
"""The ZeroMQ line with keys, over TCP: who gets in, and what both ends are told."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable, Iterator

import pytest
import zmq
from zmq.utils import z85

from avne.ipc.channel import LOST, UNREACHABLE, Dealer, Keys, Router
from avne.limits import MAX_PAYLOAD

TIMEOUT = 10.0


def pair() -> tuple[bytes, bytes]:
    secret = z85.decode(zmq.curve_keypair()[1])
    return secret, z85.decode(zmq.curve_public(z85.encode(secret)))


SERVER, WORKER, OTHER = pair(), pair(), pair()
RIGHT = Keys(*WORKER, [SERVER[1]])


class World:
    """A router, and what it was told."""

    def __init__(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = "tcp://{}:{}".format(*listener.getsockname())
        self.router = Router(listener.detach(), self.endpoint, Keys(*SERVER, [WORKER[1]]))
        self.news: list[tuple[str, str]] = []
        self.messages: list[tuple[bytes, bytes]] = []
        self.far: list[tuple[str, str]] = []

    def until(self, condition: Callable[[], object], dealer: Dealer) -> None:
        """Both ends work until then."""
        until = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < until, (self.news, self.messages, self.far)
            self.news += self.router.news()
            self.far += dealer.news()
            while message := self.router.receive():
                self.messages.append(message[:2])
            fds = [self.router.fileno(), *self.router.others(), dealer.fileno(), *dealer.others()]
            select.select(fds, [], [], 0.05)

    def next(self) -> tuple[bytes, bytes, bytes | memoryview | None]:
        while (message := self.router.receive()) is None:
            assert select.select([self.router.fileno()], [], [], TIMEOUT)[0]
        return message


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.router.close()


@contextlib.contextmanager
def dealer(endpoint: str, keys: Keys | None) -> Iterator[Dealer]:
    one = Dealer(endpoint, b"r-1", keys)
    try:
        one.send(b"hello")
        yield one
    finally:
        one.close()


def test_the_right_key_gets_in_and_its_end_is_told(world: World) -> None:
    with dealer(world.endpoint, RIGHT) as one:
        world.until(lambda: world.messages, one)
        assert (world.messages, world.news, world.far) == ([(b"r-1", b"hello")], [], [])
        assert world.router.send(b"r-1", b"welcome")
    with dealer(world.endpoint, RIGHT) as another:
        world.until(lambda: (LOST, "") in world.news and len(world.messages) > 1, another)


def test_the_largest_payload_arrives_and_a_larger_one_ends_the_connection(world: World) -> None:
    payload = os.urandom(MAX_PAYLOAD)
    with dealer(world.endpoint, RIGHT) as one:
        world.until(lambda: world.messages, one)
        one.send(b"h", payload)
        assert world.next() == (b"r-1", b"h", payload)
        one.send(b"h", payload + b"x")
        world.until(lambda: (LOST, "") in world.far, one)


def test_another_key_is_refused_and_told_so(world: World) -> None:
    with dealer(world.endpoint, Keys(*OTHER, [SERVER[1]])) as one:
        world.until(lambda: world.far and world.news, one)
        assert world.news[0] == ("unknown-key", "127.0.0.1")
        assert world.far[0] == ("unknown-key", "")
        assert world.messages == []
        one.send(b"again")  # which nobody takes, and which does not wait


def test_who_does_not_know_the_server_s_key_is_refused(world: World) -> None:
    with dealer(world.endpoint, Keys(*WORKER, [OTHER[1]])) as one:
        world.until(lambda: world.far and world.news, one)
        assert world.far[0] == ("no-handshake", "")
        assert world.news[0][0] in ("no-key", "no-handshake")
        assert world.messages == []


def test_without_a_key_nobody_gets_in(world: World) -> None:
    with dealer(world.endpoint, None) as one:
        world.until(lambda: world.news, one)
        assert world.news[0][0] in ("no-key", "no-handshake")
        assert world.messages == []


def test_a_server_that_is_not_there_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = "tcp://{}:{}".format(*listener.getsockname())
    with dealer(endpoint, RIGHT) as one:
        assert select.select(one.others(), [], [], TIMEOUT)[0]
        assert next(iter(one.news())) == (UNREACHABLE, "")
