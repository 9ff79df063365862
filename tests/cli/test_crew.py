# SPDX-License-Identifier: GPL-3.0-or-later
"""`avne workers`: more and fewer while a program runs, a stalled one, and several upstreams as a pool."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from avne.cli import isolation
from avne.cli.routing import parse
from avne.cli.workers import number
from avne.config import load, redacted
from avne.errors import AvneError

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "avne"]

# Opens a connection for each line it reads, and keeps it; says what its echo is, or the error.
CLIENT = """
import socket, sys
held = []
print("begun", flush=True)
for line in sys.stdin:
    try:
        if line == "again\\n":
            for s in held:
                s.sendall(b"y")
            print(b"".join(s.recv(1) for s in held).decode(), flush=True)
            continue
        s = socket.create_connection(("198.51.100.7", int(sys.argv[1])), timeout=20)
        s.sendall(b"x")
        print(s.recv(1).decode(), flush=True)
        held.append(s)
    except OSError as error:
        print(type(error).__name__, flush=True)
"""


@pytest.fixture
def echo():
    """The port of a server that sends back what it gets."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection):
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(4096):
                connection.sendall(data)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=listener.accept()[:1], daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


class Session:
    """A run of CLIENT, and `avne workers` for it."""

    def __init__(self, environ, process):
        self.environ = environ
        self.process = process
        assert self.read() == "begun"

    def read(self):
        return self.process.stdout.readline().strip()

    def ask(self, word="open"):
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self.read()

    def workers(self, *change):
        done = subprocess.run(
            [*COMMAND, "workers", "--json", "it", *change], env=self.environ, text=True, timeout=20,
            capture_output=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise AssertionError(done.stderr)
        return json.loads(done.stdout)

    def until(self, condition):
        """The list of the workers, once `condition` holds of it."""
        until = time.monotonic() + 20
        while not condition(rows := self.workers()):
            assert time.monotonic() < until, rows
        return rows


@pytest.fixture
def session(environ, echo):
    with contextlib.ExitStack() as stack:

        def start(*options):
            words = [*COMMAND, "run", "--name", "it", *options, "--", sys.executable, "-c", CLIENT, str(echo)]
            process = stack.enter_context(
                subprocess.Popen(
                    words, env=environ, text=True, start_new_session=True,
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                )
            )  # fmt: skip
            stack.callback(process.kill)
            return Session(environ, process)

        yield start


def _ready(rows):
    return [row["worker"] for row in rows if row["state"] == "ready"]


def test_more_and_fewer_while_connections_live_on(session):
    it = session()
    assert _ready(it.workers()) == ["w1.1"]
    assert it.ask() == "x"
    it.workers("+2")
    rows = it.until(lambda rows: len(_ready(rows)) == 3)
    assert [row["connections"] for row in rows] == [1, 0, 0]
    assert [it.ask() for _ in range(5)] == ["x"] * 5
    assert [row["connections"] for row in it.workers()] == [2, 2, 2]
    with pytest.raises(AssertionError, match="it has 3 of its own, and keeps 1 to 64"):
        it.workers("-3")
    it.workers("-2")
    rows = it.until(lambda rows: len(rows) == 1)  # SOCKS5: nobody has to say what an end means
    assert it.ask("again") == "y" * 6
    it.workers("+1")
    assert _ready(it.until(lambda rows: len(_ready(rows)) == 2)) == ["w1.1", "w2.2"]  # no name is used twice
    it.process.stdin.close()
    assert it.process.wait(20) == 0


def test_a_stalled_worker_does_not_hold_the_flows_of_others(session):
    it = session("--workers", "2")
    assert [it.ask() for _ in range(4)] == ["x"] * 4
    pid = it.workers()[0]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        assert it.ask("again") == "y" * 4
        assert [row["connections"] for row in it.workers()] == [2, 2]
    finally:
        os.kill(pid, signal.SIGCONT)
    assert it.ask() == "x"


def test_what_is_no_change_is_told(environ):
    done = subprocess.run([*COMMAND, "workers", "it", "2"], env=environ, capture_output=True, check=False)
    assert done.returncode == 2
    assert b"'2' is no change of a number" in done.stderr


def test_auto_is_by_the_processors_and_each_upstream_has_a_worker(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4))
    assert number("auto", 1) == 3
    assert number(1, 3) == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(1))
    assert number("auto", 1) == 1
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(99))
    assert number("auto", 1) == 8


# ---- several upstreams ------------------------------------------------------------------------------------


@pytest.fixture
def second_socks():
    """Another SOCKS server: its URL, and a way to kill it."""
    argv = [sys.executable, "-m", "tests.cli.plain_socks"]
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        yield f"socks5://127.0.0.1:{server.stdout.readline().strip()}", server.kill
        server.kill()


def test_one_upstreams_death_costs_only_its_own_flows(session, socks, second_socks):
    """Also those that are opened later: they go by the other one."""
    url, kill = second_socks
    it = session("--upstream", socks, "--upstream", url)
    assert len(_ready(it.workers())) == 2
    assert [it.ask() for _ in range(4)] == ["x"] * 4
    kill()
    assert [it.ask() for _ in range(40)] == ["x"] * 40
    with pytest.raises(AssertionError, match="keeps 2 to 64, as there are upstreams"):
        it.workers("-1")


def test_what_cannot_be_a_pool():
    two = "tor://127.0.0.1:9050,tor://127.0.0.1:9060"
    assert [spec.address[1] for spec in parse(load({"upstream": two})).pool] == [9050, 9060]
    with pytest.raises(AvneError, match="must be of one kind"):
        parse(load({"upstream": "tor://h:1,socks5://h:1"}))
    with pytest.raises(AvneError, match="twice"):
        parse(load({"upstream": "tor://h:1, tor://h:1"}))


def test_a_run_is_one_at_all_its_tors():
    """Each instance compares it by itself (IsolateSOCKSAuth)."""
    config = load({"upstream": "tor://h:1,tor://h:2"})
    routing = parse(config).completed(None, isolation.credentials(config))
    assert len({spec.username for spec in routing.pool}) == 1
    assert all(spec.username for spec in routing.pool)


def test_no_password_of_a_pool_is_shown():
    assert redacted("socks5://a:b@h:1,socks5://c:d@h:2") == "socks5://a:***@h:1,socks5://c:***@h:2"
