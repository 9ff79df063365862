# SPDX-License-Identifier: GPL-3.0-or-later
"""`avne worker --connect`: a network namespace is the other machine.

The run is in one namespace, its workers, their proxy and the server in another; a veth pair is between them.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from avne.cli import elsewhere, keys, routing
from avne.config import load
from avne.errors import AvneError
from avne.ipc.heartbeat import INTERVAL
from tests.cli.conftest import COMMAND, ROOT

PORT = 7400
HERE, THERE = "10.77.0.1", "10.77.0.2"
PLACE = f"tcp://{HERE}:{PORT}"
# Opens a connection for "open", and keeps it; uses the one of a number, or all for "again".
CLIENT = """
import os, socket, sys, threading
held = []
print("begun", flush=True)
for word in map(str.strip, sys.stdin):
    try:
        if word == "open":
            held.append(socket.create_connection(("198.51.100.7", int(sys.argv[1])), timeout=20))
        if word == "much":
            data, back = os.urandom(3 << 20), b""
            thread = threading.Thread(target=held[-1].sendall, args=(data,))
            thread.start()
            while len(back) < len(data) and (more := held[-1].recv(1 << 20)):
                back += more
            thread.join()
            print(back == data, flush=True)
            continue
        used = held if word == "again" else held[int(word):][:1] if word.isdigit() else held[-1:]
        for one in used:
            one.sendall(b"x" if word == "open" else b"y")
        print(b"".join(one.recv(1) for one in used).decode(), flush=True)
    except OSError as error:
        print(type(error).__name__, flush=True)
"""
ECHO = """
import socket, threading
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
def serve(connection):
    while data := connection.recv(65536):
        connection.sendall(data)
    connection.close()
while True:
    threading.Thread(target=serve, args=listener.accept()[:1], daemon=True).start()
"""


def _ip(*words):
    subprocess.run(["ip", *words], check=True)


class Machines:
    """Both namespaces, and what runs in them."""

    def __init__(self, stack, environ, directory):
        self._stack = stack
        self.environ = environ
        self.directory = directory
        self.here, self.there = f"avne-h{os.getpid()}", f"avne-t{os.getpid()}"
        for name in (self.here, self.there):
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "del", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip(
            "link", "add", "v0", "netns", self.here, "type", "veth", "peer", "name", "v0", "netns", self.there
        )
        for name, address in ((self.here, HERE), (self.there, THERE)):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "v0")
            _ip("-n", name, "link", "set", "v0", "up")
        self.socks = f"socks5://127.0.0.1:{self._server('-m', 'tests.cli.plain_socks')}"
        self.echo = self._server("-c", ECHO)
        self.public = {name: self.avne("keys", f"{directory}/{name}").stdout.strip() for name in "rwx"}
        (directory / "allowed").write_text(f"# the workers\n{self.public['w']} the first\n")

    def start(self, namespace, *words):
        process = subprocess.Popen(
            ["ip", "netns", "exec", namespace, *words], cwd=ROOT, env=self.environ, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self._stack.callback(self._end, process)
        return process

    @staticmethod
    def _end(process):
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()

    def _server(self, *words):
        return self.start(self.there, sys.executable, *words).stdout.readline().strip()

    def avne(self, *words):
        return subprocess.run(
            [*COMMAND, *words], env=self.environ, text=True, capture_output=True, timeout=20, check=False
        )

    def run(self, *options):
        """A run of CLIENT that has only workers there."""
        places = ["--workers-at", PLACE, "--workers-key", f"{self.directory}/r"]
        places += ["--workers-allowed", f"{self.directory}/allowed", "--upstream", self.socks]
        words = ["run", "--name", "it", "--workers", "0", *places, *options]
        process = self.start(self.here, *COMMAND, *words, "--", sys.executable, "-c", CLIENT, self.echo)
        return Run(self, process)

    def worker(self, key="w", server="r", upstream=""):
        words = ["--connect", PLACE, "--key", f"{self.directory}/{key}", "--server-key", self.public[server]]
        return self.start(self.there, *COMMAND, "worker", *words, "--upstream", upstream or self.socks)

    def lose(self, percent):
        """So many of the packets between them, both ways."""
        script = "table ip loss { chain in { type filter hook input priority 0; "
        script += f'iifname "v0" numgen random mod 100 < {percent} drop; }}; }}'
        for name in (self.here, self.there):
            words = ["ip", "netns", "exec", name, "nft", "-f", "-"]
            subprocess.run(words, input=script, text=True, check=True)


class Run:
    """As test_crew.Session."""

    def __init__(self, machines, process):
        self._machines = machines
        self.process = process
        assert self.read() == "begun"

    def read(self):
        return self.process.stdout.readline().strip()

    def tell(self, word="open"):
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def ask(self, word="open"):
        self.tell(word)
        return self.read()

    def until(self, condition):
        until = time.monotonic() + 20
        while not condition(rows := self.workers()):
            assert time.monotonic() < until, rows
        return rows

    def workers(self):
        return json.loads(self._machines.avne("workers", "--json", "it").stdout)

    def end(self):
        """Its exit code, and the session's log."""
        self.process.stdin.close()
        code = self.process.wait(20)
        (log,) = (self._machines.directory / "state" / "avne").glob("*.log")
        return code, log.read_text()


@pytest.fixture
def machines(environ, tmp_path):
    with contextlib.ExitStack() as stack:
        yield Machines(stack, environ, tmp_path)


def _said(process):
    """The exit code and what was written, of one that ends by itself."""
    process.stdin.close()
    code = process.wait(30)
    return code, process.stderr.read()


def test_who_has_no_right_key_is_refused_and_who_has_carries_everything(machines):
    code, said = _said(machines.worker())
    assert (code, "cannot be reached" in said) == (125, True)
    it = machines.run()
    it.tell()  # waits for a worker
    code, said = _said(machines.worker(key="x"))
    assert (code, "does not know this key" in said) == (125, True)
    code, said = _said(machines.worker(server="x"))
    assert (code, "has not got the key of --server-key" in said) == (125, True)
    assert it.workers() == []
    worker = machines.worker()
    assert it.read() == "x"
    (row,) = it.workers()
    assert row["worker"].startswith("r-")
    assert (row["upstream"], row["connections"]) == ("socks5", 1)
    assert it.ask("again") == "y"
    assert it.ask("much") == "True"
    code, log = it.end()
    assert code == 0
    assert "worker-refused why=unknown-key from=10.77.0.2" in log
    assert "worker-refused=2" in log
    code, said = _said(worker)
    assert (code, "has let this worker go" in said) == (0, True)


@pytest.fixture
def pair(machines):
    """A run with two workers there, which have a connection each: 0 and 1."""
    it = machines.run()
    workers = []
    for count in (1, 2):
        workers.append(machines.worker())
        it.until(lambda rows, count=count: len(rows) == count)
        assert it.ask() == "x"  # the least loaded one is chosen
    assert [row["connections"] for row in it.workers()] == [1, 1]
    return it, workers


def _below(process):
    """The worker's own process."""
    with open(f"/proc/{process.pid}/task/{process.pid}/children", encoding="ascii") as file:
        return int(file.read())


def test_a_stall_costs_time_lost_packets_nothing_and_a_death_its_own_flows(machines, pair):
    it, workers = pair
    second = _below(workers[1])
    os.kill(second, signal.SIGSTOP)
    try:
        assert it.ask("0") == "y"
    finally:
        os.kill(second, signal.SIGCONT)
    assert it.ask("1") == "y"
    machines.lose(5)
    until = time.monotonic() + 2.2 * INTERVAL
    while time.monotonic() < until:
        assert it.ask("again") == "yy"
    assert [row["connections"] for row in it.workers()] == [1, 1]
    os.kill(second, signal.SIGKILL)
    began = time.monotonic()
    assert it.ask("1") == "ConnectionResetError"
    assert time.monotonic() - began < 5.0
    assert it.ask("0") == "y"
    assert it.ask() == "x"
    assert [row["connections"] for row in it.workers()] == [2]
    code, log = it.end()
    assert (code, log.count("worker-gone"), "worker-cut-off" in log) == (0, 1, False)


def test_a_leaving_worker_drains(pair):
    it, (first, second) = pair
    second.send_signal(signal.SIGTERM)
    it.until(lambda rows: [row["state"] for row in rows].count("leaving") == 1)
    assert [it.ask() for _ in range(2)] == ["x"] * 2
    assert it.ask("again") == "yyyy"  # it goes on while it is needed
    assert sorted(row["connections"] for row in it.workers()) == [1, 3]
    assert it.end()[0] == 0
    assert second.wait(20) == 0
    assert first.wait(20) == 0


def test_another_kind_of_upstream_is_not_taken(machines):
    it = machines.run()
    worker = machines.worker(upstream=machines.socks.replace("socks5", "tor"))
    code, said = _said(worker)
    assert (code, "does not take this worker" in said) == (125, True)
    assert "wire-kind" in it.end()[1]


# ---- without another machine -------------------------------------------------------------------


def test_a_key_is_made_once_and_closed_to_others(tmp_path, capsys):
    path = f"{tmp_path}/key"
    assert keys.keys(path) == keys.keys(path) == 0
    first, second = capsys.readouterr().out.split()
    assert first == second == keys.read_pair(path).public.hex()
    assert os.stat(path).st_mode & 0o777 == 0o600
    os.chmod(path, 0o640)
    with pytest.raises(AvneError, match="open to others"):
        keys.read_pair(path)


@pytest.mark.parametrize("text", ["", "x", "0" * 63, "g" * 64, "~" * 40, "#" * 40, "é" * 40])
def test_what_is_no_key(text):
    assert keys.parse_key(text) is None


def test_both_forms_of_a_key():
    assert keys.parse_key("00" * 32) == keys.parse_key("0" * 40) == bytes(32)


def test_a_list_of_keys(tmp_path):
    path = tmp_path / "allowed"
    path.write_text("# comment\n\n" + "ab" * 32 + " a name\n" + "0" * 40 + "\n")
    assert keys.read_allowed(str(path)) == [b"\xab" * 32, bytes(32)]
    for content, said in (
        ("x\n", "line 1"),
        ("# none\n", "allows nobody"),
        ("ab" * 32 + "\n" * 1 + "?", "line 2"),
    ):
        path.write_text(content)
        with pytest.raises(AvneError, match=said):
            keys.read_allowed(str(path))
    path.write_text(("ab" * 32 + "\n") * 1001)
    with pytest.raises(AvneError, match="more than 1000"):
        keys.read_allowed(str(path))


def place(**settings):
    config = load(settings, {}, ())
    return elsewhere.open_place(config, routing.parse(config))


def test_without_a_place_nothing_may_depend_on_it():
    assert place() is None
    with pytest.raises(AvneError, match="no use without workers_at"):
        place(workers_key="/x")
    with pytest.raises(AvneError, match="no workers there is no way out"):
        place(workers="0")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rules": "*.example=block"}, "rules would not hold"),
        ({"onion_only": "true"}, "onion_only"),
        ({"https_only": "true"}, "https_only"),
        ({"upstream": "log+tor"}, "a filter"),
        ({"upstream": "tor://h:1,tor://h:2"}, "several upstreams"),
        ({"isolate": "program"}, "isolate = program"),
        ({"isolate": "name=x"}, "isolate = name=x"),
        ({"netstack": "/run/x"}, "netstack"),
        ({"optimistic": "80"}, "optimistic"),
        ({"workers_key": None}, "by their keys only"),
        ({"workers_allowed": None}, "by their keys only"),
    ],
)
def test_what_holds_here_only_is_refused(settings, said):
    with pytest.raises(AvneError, match=said) as error:
        place(**{"workers_at": PLACE, "workers_key": "/k", "workers_allowed": "/a", **settings})
    assert error.value.cure
