# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import select
import socket
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avne.ipc.pace import BURST, PIECE, Bucket, Pace
from avne.ipc.pool import Pool
from avne.ipc.streams import Stream, Streams

RATE = 200_000


@given(st.integers(1024, 1 << 30), st.lists(st.tuples(st.floats(0, 2), st.floats(0, 1)), max_size=50))
def test_no_more_passes_than_the_rate_and_a_burst(rate: int, steps: list[tuple[float, float]]) -> None:
    bucket = Bucket(rate)
    now, passed = 100.0, 0
    for wait, share in steps:
        now += wait
        allowed = bucket.allowed(now)
        assert allowed == 0 or allowed >= min(PIECE, int(rate * BURST))
        taken = int(allowed * share)
        bucket.take(taken)
        passed += taken
        assert passed <= rate * (now - 100.0 + BURST) + 1
    again = max(now, bucket.next_at())
    assert bucket.allowed(again + 1e-3) > 0


class Sink:
    """The `Peer` of a stream: takes everything at once."""

    def __init__(self) -> None:
        self.stream: Stream
        self.got = 0
        self.ended = False
        self.credit = 0
        self.owes = 0  # bytes to send up, as the credit allows
        self.shut = False  # behind them

    def on_data(self, payload: memoryview, now: float) -> None:
        self.got += len(payload)

    def on_credit(self, count: int, now: float) -> None:
        self.credit += count

    def on_end(self, now: float) -> None:
        self.ended = True

    def on_reset(self, code: int, now: float) -> None:
        raise AssertionError(code)

    def on_hangup(self, now: float) -> None:
        raise AssertionError

    def on_gone(self, now: float) -> None: ...


class Bench:
    """Two streams of one pace, at a time of the test's."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.streams = Streams(self.epoll, lambda *_: None, Pool())
        self.now = self.streams.now = time.monotonic()
        self.far: list[socket.socket] = []
        self.sinks: list[Sink] = []

    def add(self, pace: Pace | None) -> Sink:
        ours, far = socket.socketpair()
        far.setblocking(False)
        sink = Sink()
        sink.stream = self.streams.adopt(len(self.sinks), ours, sink, 1 << 20, True, False, pace)
        sink.credit = sink.stream.relay.grant
        self.sinks.append(sink)
        self.far.append(far)
        return sink

    def run(self, seconds: float) -> None:
        """Turns, as the loop takes them, until `seconds` have gone by."""
        until = self.now + seconds
        turns = 0
        while self.now < until:
            self.streams.now = self.now
            for fd, mask in self.epoll.poll(0):
                self.streams.on_event(fd, mask)
            for sink in self.sinks:
                self.push(sink)
            self.streams.take_turn()
            self.streams.handle_timer()
            turns += 1
            self.now = min(until, max(self.now + 1e-6, min(self.streams.poll_at(), self.now + 0.05)))
        assert turns < 2000 * (1 + seconds), "it sleeps while nothing may pass"

    def push(self, sink: Sink) -> None:
        count = min(sink.credit, sink.owes)
        if count:
            sink.credit -= count
            sink.owes -= count
            self.streams.send(sink.stream, bytes(count))
        elif sink.shut and not sink.owes:
            sink.shut = False
            self.streams.shut(sink.stream)

    def close(self) -> None:
        for sink in self.sinks:
            self.streams.reset(sink.stream)
        self.streams.take_turn()
        self.epoll.close()
        for far in self.far:
            far.close()


@pytest.fixture
def bench() -> Any:
    bench = Bench()
    yield bench
    bench.close()


def test_down_and_up_are_bounded_each_and_shared_fairly(bench: Bench) -> None:
    pace = Pace(RATE)
    sinks = [bench.add(pace) for _ in range(2)]
    free = bench.add(None)
    for far in bench.far:
        far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    for far in bench.far:
        sent = 0
        while sent < 150_000:
            sent += far.send(bytes(150_000 - sent))
    for sink in sinks:
        sink.owes = 150_000
    bench.run(1.0)
    assert free.got == 150_000, "another upstream's flows do not wait"
    got = [sink.got for sink in sinks]
    assert RATE * 0.8 <= sum(got) <= RATE * (1 + BURST)
    assert min(got) >= sum(got) / 4
    up = 0
    for far in bench.far[:2]:
        up += len(far.recv(1 << 20, socket.MSG_PEEK))
    assert RATE * 0.8 <= up <= RATE * (1 + BURST)
    bench.run(1.0)
    assert [sink.got for sink in sinks] == [150_000, 150_000]
    assert sum(len(far.recv(1 << 20)) for far in bench.far[:2]) == 300_000


def test_the_end_comes_behind_the_last_byte(bench: Bench) -> None:
    sink = bench.add(Pace(RATE))
    bench.far[0].send(bytes(50_000))
    bench.far[0].shutdown(socket.SHUT_WR)
    sink.owes, sink.shut = 50_000, True
    bench.run(0.05)
    assert 0 < sink.got < 50_000
    assert not sink.ended
    bench.run(1.0)
    assert (sink.got, sink.ended) == (50_000, True)
    data = b""
    while more := bench.far[0].recv(1 << 20):
        data += more
    assert len(data) == 50_000


def test_a_flow_that_ends_while_it_waits_is_forgotten(bench: Bench) -> None:
    sink = bench.add(Pace(RATE))
    bench.far[0].send(bytes(50_000))
    bench.run(0.01)
    bench.streams.reset(sink.stream)
    bench.run(1.0)
    assert sink.got < 50_000
    assert bench.streams.poll_at() == float("inf")
