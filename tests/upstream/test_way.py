# SPDX-License-Identifier: GPL-3.0-or-later
"""The way to a proxy that comes and goes, for a worker that sees no files."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from avne.upstream import way
from avne.upstream.way import Way


@pytest.fixture(autouse=True)
def descriptors(monkeypatch):
    monkeypatch.setattr(way, "DESCRIPTORS", "/proc/self/fd")


def _listen(path):
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen(8)
    return sock


class Supervisor:
    """Answers on a thread of its own, as another process would."""

    def __init__(self, path):
        self.asked = 0
        self.path = path
        self.way = Way(str(path), self._ask)

    def _ask(self):
        self.asked += 1
        threading.Thread(target=self._answer).start()

    def _answer(self):
        try:
            fd = os.open(self.path, os.O_PATH)
        except OSError:
            fd = None
        self.way.renew(fd)


@pytest.fixture
def connect():
    """connect(way, timeout=5): whether it is; a timeout of 0 is the loop's."""

    def connect(one, timeout=5.0):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(timeout)
            one.connect(sock)
            return sock.getpeername()

    return connect


def test_the_socket_as_it_was_is_reached_by_its_descriptor(tmp_path, connect):
    path = tmp_path / "s"
    with _listen(path):
        supervisor = Supervisor(path)
        path.rename(tmp_path / "elsewhere")  # no name is looked up
        assert connect(supervisor.way) == str(path)
        assert connect(supervisor.way, 0) == str(path)
    assert supervisor.asked == 0


def test_a_proxy_that_is_started_again_is_asked_for(tmp_path, connect):
    path = tmp_path / "s"
    _listen(path).close()
    supervisor = Supervisor(path)
    with _listen(path):
        with pytest.raises(BlockingIOError):  # the loop must not wait; a thread is to try
            connect(supervisor.way, 0)
        assert connect(supervisor.way) == str(path)
        assert connect(supervisor.way, 0) == str(path)
    assert supervisor.asked == 1


def test_a_proxy_that_stays_away_is_refused_at_once(tmp_path, connect):
    path = tmp_path / "s"
    supervisor = Supervisor(path)
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            connect(supervisor.way)
    assert supervisor.asked == 2
    with _listen(path):
        assert connect(supervisor.way) == str(path)


def test_a_supervisor_that_does_not_answer_is_not_waited_for_for_ever(tmp_path, connect, monkeypatch):
    monkeypatch.setattr(way, "PATIENCE", 0.05)
    silent = Way(str(tmp_path / "s"), lambda: None)
    with pytest.raises(ConnectionRefusedError):
        connect(silent)


def test_many_threads_ask_once(tmp_path, connect):
    path = tmp_path / "s"
    _listen(path).close()
    asked, answer = [], threading.Event()
    door = Way(str(path), lambda: asked.append(1))
    with _listen(path):
        results = []
        threads = [threading.Thread(target=lambda: results.append(connect(door))) for _ in range(8)]
        for thread in threads:
            thread.start()
        while not asked:
            answer.wait(0.01)
        door.renew(os.open(path, os.O_PATH))
        for thread in threads:
            thread.join()
    assert results == [str(path)] * 8
    assert len(asked) == 1


def test_without_a_way_a_path_is_a_path(tmp_path):
    path = tmp_path / "s"
    with _listen(path), socket.socket(socket.AF_UNIX) as sock:
        way.connect(sock, str(path))
