# SPDX-License-Identifier: GPL-3.0-or-later
"""Tor's death looks like the end of every stream: it must never become one."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from avne.ipc import messages
from avne.ipc.messages import Code
from avne.upstream.canary import PATIENCE
from avne.upstream.spec import UpstreamSpec
from tests.upstream.rig import KillableTor, Rig
from tests.upstream.socks_server import SocksServer, tor_stream

DIED = Code.UPSTREAM_DOWN


@pytest.fixture
def fake_tor(tmp_path: Path) -> Iterator[KillableTor]:
    with KillableTor(str(tmp_path / "socks")) as tor:
        yield tor


@pytest.fixture(params=[False, True], ids=["frames", "sockets"])
def lane(request: pytest.FixtureRequest) -> bool:
    """Who moves the bytes: the worker, or the netstack, which asks it about each end."""
    return bool(request.param)


@pytest.fixture
def rig(tmp_path: Path, fake_tor: KillableTor, lane: bool) -> Iterator[Rig]:
    with Rig(tmp_path, UpstreamSpec("tor", fake_tor.path), lane=lane) as rig:
        yield rig.ready()


def test_an_end_of_the_server_is_an_end(rig: Rig) -> None:
    for flow in range(1, 30):
        rig.open(flow, "whole")
    for flow in range(1, 30):
        assert rig.collect(flow) == (b"all of it", [messages.SHUT, flow])
    assert not rig.logs


def test_ends_one_after_the_other(rig: Rig) -> None:
    for flow in range(1, 30):
        rig.open(flow, "whole")
        assert rig.collect(flow) == (b"all of it", [messages.SHUT, flow])


def test_an_answer_after_the_program_s_end(rig: Rig) -> None:
    rig.open(1, "answer")
    rig.send(messages.DATA, 1, payload=b"?")
    rig.send(messages.SHUT, 1)
    assert rig.collect(1) == (b"answer", [messages.SHUT, 1])


def test_tor_killed_in_mid_download_is_a_reset(rig: Rig, fake_tor: KillableTor) -> None:
    for flow in range(1, 20):
        rig.open(flow, "half")
        assert rig.receive(messages.DATA, flow)[1] == b"half of"
    start = time.monotonic()
    fake_tor.kill()
    for flow in range(1, 20):
        assert rig.collect(flow) == (b"", [messages.RESET, flow, DIED])
    assert time.monotonic() - start < PATIENCE
    assert rig.log()[:2] == ["warning", "upstream-died"]


def test_tor_killed_while_the_program_does_not_read(rig: Rig, fake_tor: KillableTor) -> None:
    """Its end is read only when Tor may be back: what counts is when it came."""
    rig.open(1, "flood", credit=1)
    rig.receive(messages.DATA, 1)
    rig.drained(1)
    fake_tor.kill()
    assert rig.log() == ["warning", "upstream-died", {"flows": 1}]
    fake_tor.start()
    rig.send(messages.CREDIT, 1, 1 << 20)
    data, end = rig.collect(1)
    assert data
    assert end == [messages.RESET, 1, DIED]


def test_new_connections_are_refused_until_tor_is_back(rig: Rig, fake_tor: KillableTor) -> None:
    rig.open(1, "half")
    fake_tor.kill()
    assert rig.collect(1)[1] == [messages.RESET, 1, DIED]
    rig.send(messages.OPEN, 2, "whole", 80, 1000, "")
    assert rig.receive(messages.REFUSED, 2)[0][2] == DIED
    fake_tor.start()
    for flow in range(3, 30):
        rig.open(flow, "whole")
        assert rig.collect(flow) == (b"all of it", [messages.SHUT, flow])


def test_a_stopped_tor_resets_nothing(rig: Rig, fake_tor: KillableTor) -> None:
    rig.open(1, "echo")
    fake_tor.signal(signal.SIGSTOP)
    rig.send(messages.DATA, 1, payload=b"later")
    assert not rig.drained(1)
    fake_tor.signal(signal.SIGCONT)
    assert rig.receive(messages.DATA, 1)[1] == b"later"


def test_silence_at_an_end_is_a_reset_after_two_seconds(tmp_path: Path, lane: bool) -> None:
    with (
        SocksServer(str(tmp_path / "socks"), tor_stream) as server,
        Rig(tmp_path, UpstreamSpec("tor", server.address), lane=lane) as rig,
    ):
        rig.ready().open(1, "answer")
        server.mute = True
        start = time.monotonic()
        rig.send(messages.DATA, 1, payload=b"?")
        assert rig.collect(1) == (b"answer", [messages.RESET, 1, DIED])
        assert time.monotonic() - start >= PATIENCE


def test_a_spare_that_tor_closes_when_idle_harms_nothing(tmp_path: Path, lane: bool) -> None:
    with (
        SocksServer(str(tmp_path / "socks"), tor_stream) as server,
        Rig(tmp_path, UpstreamSpec("tor", server.address), lane=lane) as rig,
    ):
        rig.ready()
        while not server.connections:
            rig.drained(0)
        server.hang_up()  # the spare alone is there
        rig.open(1, "echo")
        rig.send(messages.DATA, 1, payload=b"x")
        assert rig.receive(messages.DATA, 1)[1] == b"x"
        while server.connections < 2:  # a new spare
            rig.drained(0)
        assert not rig.drained(1)
        assert not rig.logs
