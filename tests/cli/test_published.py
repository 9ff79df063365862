# SPDX-License-Identifier: GPL-3.0-or-later
"""The sockets that -p listens on, and what becomes of who connects: handed on, or left waiting."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct

import pytest

from avne.cli import published
from avne.cli.console import Console
from avne.cli.loop import Loop
from avne.cli.published import Entrances
from avne.ipc.control import Control


class Desk:
    """The supervisor's end with one opening, and the netstack's end of the line."""

    def __init__(self, openings):
        self.loop = Loop()
        self.entrances = Entrances(self.loop, openings)
        self.address = openings[0].sock.getsockname()
        self.line, theirs = Control.pair()
        self.netstack = Control(theirs)

    def turns(self):
        """Until nothing is left to accept."""
        for _ in range(20):
            self.loop.after(0, "turn", lambda: None)
            self.loop.turn()

    def taken(self):
        """The sockets that were handed on since the last time."""
        found = []
        while (received := self.netstack.receive()) is not None:
            message, (fd,) = received
            assert message == ["inbound", 80]
            found.append(socket.socket(fileno=fd))
        return found

    def clients(self, count):
        return [socket.create_connection(self.address, 5) for _ in range(count)]


@pytest.fixture
def desk(monkeypatch):
    monkeypatch.setattr(published, "INBOUND_UNDER_WAY", 2)
    monkeypatch.setattr(published, "MAX_INBOUND", 3)
    with published.listening(["0:80"], Console(quiet=True)) as openings:
        desk = Desk(openings)
        yield desk
        desk.entrances.close()
        desk.loop.close()
        desk.line.close()
        desk.netstack.close()


def close(*groups):
    for one in (one for group in groups for one in group):
        one.close()


def test_nobody_is_let_in_before_there_is_a_netstack(desk):
    clients = desk.clients(2)
    desk.turns()
    assert desk.taken() == []
    desk.entrances.begin(desk.line)
    desk.turns()
    taken = desk.taken()
    assert len(taken) == 2
    for sock in taken:
        assert struct.unpack("ii", sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)) == (1, 0)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 0
    close(clients, taken)


def test_who_comes_beyond_the_places_waits(desk):
    desk.entrances.begin(desk.line)
    clients = desk.clients(6)
    desk.turns()
    taken = desk.taken()
    assert len(taken) == 2  # under way
    desk.entrances.told(2, 0)
    desk.turns()
    taken += desk.taken()
    assert len(taken) == 3  # open
    desk.entrances.told(1, 0)
    desk.turns()
    assert desk.taken() == []
    desk.entrances.told(0, 2)
    desk.turns()
    more = desk.taken()
    assert len(more) == 2
    close(clients, taken, more)


def test_another_netstack_has_all_places_and_who_waited(desk):
    desk.entrances.begin(desk.line)
    clients = desk.clients(2)
    desk.turns()
    taken = desk.taken()
    desk.entrances.stop()
    clients += desk.clients(2)
    desk.turns()
    assert desk.taken() == []
    desk.entrances.begin(desk.line)
    desk.turns()
    more = desk.taken()
    assert (len(taken), len(more)) == (2, 2)
    close(clients, taken, more)


def test_at_the_end_who_waits_and_who_comes_is_refused(desk):
    (waits,) = desk.clients(1)
    desk.entrances.close()
    with pytest.raises(ConnectionResetError):
        waits.recv(1)
    with pytest.raises(ConnectionRefusedError):
        desk.clients(1)
    waits.close()


def test_a_netstack_that_has_gone_is_a_reset(desk):
    desk.entrances.begin(desk.line)
    desk.netstack.close()
    (client,) = desk.clients(1)
    desk.turns()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    client.close()


def test_a_netstack_that_lies_does_not_hold_us_up(desk):
    """It says that it takes what it does not read: who comes when the line is full gets a reset."""
    desk.entrances.begin(desk.line)
    desk.entrances.told(1 << 40, 1 << 40)
    signal.alarm(20)  # where it waits for ever
    try:
        for _ in range(2000):
            (client,) = desk.clients(1)
            desk.turns()
            with client, contextlib.suppress(BlockingIOError):
                client.setblocking(False)
                try:
                    client.recv(1)
                except ConnectionResetError:
                    break
        else:
            raise AssertionError("the line was never full")
    finally:
        signal.alarm(0)
    close(desk.taken())


def test_without_a_descriptor_left_it_tries_again_later(desk, monkeypatch):
    desk.entrances.begin(desk.line)
    clients = desk.clients(1)
    accept = socket.socket.accept
    monkeypatch.setattr(socket.socket, "accept", lambda self: os.open("/nonexistent", 0))
    monkeypatch.setattr(published, "_PAUSE", 0.0)
    desk.loop.after(5, "bound", lambda: None)
    desk.loop.turn()
    assert desk.taken() == []
    monkeypatch.setattr(socket.socket, "accept", accept)
    desk.turns()
    taken = desk.taken()
    assert len(taken) == 1
    close(clients, taken)


def test_what_is_opened_is_said(capfd):
    with contextlib.ExitStack() as stack:
        openings = stack.enter_context(published.listening(["0:80", "0.0.0.0:0:81", "[::1]:0:82"], Console()))
        where = [opening.where for opening in openings]
        assert [opening.text for opening in openings] == [
            f"{where[0]}->80",
            f"{where[1]}->81",
            f"{where[2]}->82",
        ]
    assert capfd.readouterr().err.splitlines() == [
        f"avne: open: {where[0]} leads to port 80 inside",
        f"avne: open: {where[1]} leads to port 81 inside, for all who can reach it there",
        f"avne: open: {where[2]} leads to port 82 inside",
    ]
    assert where[2].startswith("[::1]:")
