# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports that are opened to the inside on purpose (-p): real programs inside, real clients outside."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.bed import places

SIZE = 20_000_000
# A server of its own for each test of bytes: says when it listens, and what it was sent.
SERVER = f"""
import hashlib, socket, threading
from tests_stream import stream
def serve(connection):
    with connection:
        sent = hashlib.sha256()
        first = connection.recv(1)
        if first == b"d":
            connection.sendall(stream({SIZE}))
            return
        while data := connection.recv(65536):
            sent.update(data)
        connection.sendall(sent.hexdigest().encode())
server = socket.create_server(("0.0.0.0", 80), backlog=200)
print("listening", flush=True)
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""
HELD = """
import socket, sys
server = socket.create_server(("0.0.0.0", 80))
print("listening", flush=True)
kept = []
while True:
    connection = server.accept()[0]
    connection.sendall(b"hello")
    kept.append(connection)
"""


def _opened(process) -> list[tuple[str, int]]:
    """Where it listens, as the first lines of its standard error say."""
    found = []
    while not found:
        line = process.stderr.readline()
        assert line, "it has ended"
        found += re.findall(r"open: (\S+):(\d+) leads to port \d+ inside", line)
    return [(host.strip("[]"), int(port)) for host, port in found]


def _listening(process) -> None:
    assert process.stdout.readline() == "listening\n"


def _say(address, first: bytes) -> bytes:
    """Everything that comes back on a connection of which this is all."""
    with socket.create_connection(address, 20) as sock:
        sock.sendall(first)
        sock.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: sock.recv(1 << 20), b""))


@pytest.fixture
def server(tmp_path_for, bed):
    """server(avne, PROGRAM) is a run of it with port 80 open; gives the process and the address."""

    @contextlib.contextmanager
    def start(avne, program=SERVER, *options: str):
        home = tmp_path_for(avne)
        (home / "tests_stream.py").write_text(
            f"import hashlib\nperiod = {places.PERIOD}\n"
            "def stream(count):\n"
            "    whole = hashlib.shake_128(b'avne test bed').digest(period)\n"
            "    return (whole * (count // period + 1))[:count]\n"
        )
        (home / "server.py").write_text(program)
        words = ["python3", f"{home}/server.py"]
        with avne.start(*words, upstream=bed.socks, options=["-p", "0:80", *options]) as process:
            (address,) = _opened(process)
            _listening(process)
            yield process, address
            process.terminate()
            process.wait(20)

    return start


def test_a_web_server_inside_is_reached_from_outside(any_avne, bed, tmp_path_for):
    """As everybody would do it, at port 80; `avne ps` shows it, and it is gone with the program."""
    home = tmp_path_for(any_avne)
    (home / "index.html").write_text("inside\n")
    words = ["sh", "-c", f"echo started; exec python3 -um http.server 80 -d {home} 2>&1"]
    options = ["-p", "0:80", "--name", "web", "--receipt", f"{home}/receipt"]
    with any_avne.start(*words, upstream=bed.socks, options=options) as process:
        ((host, port),) = _opened(process)
        assert process.stdout.readline() == "started\n"
        assert process.stdout.readline().startswith("Serving HTTP on")
        curl = ["curl", "-sS", "--max-time", "20", f"http://{host}:{port}/"]
        assert subprocess.run(curl, capture_output=True, text=True, check=True).stdout == "inside\n"
        listed = subprocess.run(
            any_avne.as_person([any_avne.command, "ps", "--json"]), capture_output=True, text=True, check=True
        )
        (about,) = [row for row in json.loads(listed.stdout) if row["name"] == "web"]
        assert about["opened"] == [f"{host}:{port}->80"]
        assert process.stdout.readline().startswith("10.213.0.1 ")  # who came, as the program sees it
        process.terminate()
        assert process.wait(20) != 125
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, port), 5)
    receipt = json.loads((home / "receipt").read_text())
    assert receipt["opened"] == [f"inside {host}:{port}->80"]
    assert receipt["tried"]["inbound"] == 1
    assert receipt["network"]["inbound"]["from_program"] > 100


def test_large_transfers_are_whole_both_ways(any_avne, server):
    """Down, and up with a half-close: the answer comes after the end of what was sent."""
    with server(any_avne) as (_, address):
        down = _say(address, b"d")
        assert hashlib.sha256(down).hexdigest() == places.stream_sha256(SIZE)
        up = places.stream(SIZE)
        assert _say(address, b"u" + up).decode() == hashlib.sha256(up).hexdigest()


def test_a_hundred_in_parallel(avne, server):
    texts = [b"u" + bytes([n]) * (n * 1000) for n in range(100)]
    with server(avne) as (_, address), ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda text: _say(address, text), texts))
    assert answers == [hashlib.sha256(text[1:]).hexdigest().encode() for text in texts]


def test_who_does_not_read_holds_nobody_else_up(avne, server):
    with server(avne) as (_, address), socket.create_connection(address, 20) as lazy:
        lazy.sendall(b"d")
        assert _say(address, b"uabc").decode() == hashlib.sha256(b"abc").hexdigest()
        left = b"".join(iter(lambda: lazy.recv(1 << 20), b""))
        assert hashlib.sha256(left).hexdigest() == places.stream_sha256(SIZE)


def test_before_the_program_listens_and_after(avne, bed):
    """A port that nobody listens on is a reset, and no end that looks whole."""
    program = "import sys; print('up', flush=True); sys.stdin.readline()\n" + HELD
    words = ["python3", "-c", program]
    options = ["-p", "0:80"]
    with avne.start(*words, upstream=bed.socks, options=options, stdin=True) as process:
        (address,) = _opened(process)
        assert process.stdout.readline() == "up\n"
        with socket.create_connection(address, 20) as early, pytest.raises(ConnectionResetError):
            early.recv(1)
        process.stdin.write("\n")
        process.stdin.flush()
        _listening(process)
        with socket.create_connection(address, 20) as sock:
            assert sock.recv(5) == b"hello"


def test_a_reload_in_the_middle(any_avne, server):
    """Open connections are reset; who comes meanwhile waits, and is served."""
    name = f"reloaded-{os.getpid()}"
    with server(any_avne, HELD, "--name", name) as (process, address):
        with socket.create_connection(address, 20) as held:
            assert held.recv(5) == b"hello"
            before = process.part("net")
            reload = any_avne.as_person([any_avne.command, "reload", name])
            subprocess.run(reload, check=True, timeout=20)
            with pytest.raises(ConnectionResetError):
                held.recv(1)
        with socket.create_connection(address, 20) as new:
            assert new.recv(5) == b"hello"
        assert process.part("net") != before


def test_a_program_that_is_attached_later(any_avne, bed):
    name = f"later-{os.getpid()}"
    options = ["-p", "0:80", "--name", name]
    words = ["sh", "-c", "echo up; exec sleep 60"]
    with any_avne.start(*words, upstream=bed.socks, options=options) as process:
        (address,) = _opened(process)
        assert process.stdout.readline() == "up\n"
        attach = any_avne.as_person([any_avne.command, "attach", name, "python3", "-c", HELD])
        with subprocess.Popen(attach, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as second:
            _listening(second)
            with socket.create_connection(address, 20) as sock:
                assert sock.recv(5) == b"hello"
            process.terminate()
            second.wait(20)


def test_the_last_words_of_a_program_arrive(avne, bed, tmp_path_for):
    """It writes and ends at once: the run ends when that has been handed on."""
    program = HELD.replace("kept.append(connection)", "connection.sendall(b'x' * 1000000); break")
    words = ["python3", "-c", program]
    with avne.start(*words, upstream=bed.socks, options=["-p", "0:80"]) as process:
        (address,) = _opened(process)
        _listening(process)
        assert _say(address, b"")[5:] == b"x" * 1_000_000
        assert process.wait(20) == 0


PROBE = """
import socket, sys, os
for host in ("127.0.0.1", "::1", "10.213.0.1", "fd61:766e:6500::1", sys.argv[2]):
    try:
        socket.create_connection((host, int(sys.argv[1])), 5).close()
        print("reached", host, flush=True)
    except OSError as error:
        print(type(error).__name__, host, flush=True)
for name in os.listdir("/proc/self/fd"):
    try:
        if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
            print("socket", name)
    except OSError:
        pass
print(open("/proc/net/tcp").read().count(":%04X" % int(sys.argv[1])), flush=True)
"""


def test_the_program_reaches_neither_the_listener_nor_the_hosts_loopback(any_avne, bed):
    """-p opens one way only.  The control: from outside the same listener answers."""
    words = ["sh", "-c", 'read port; exec python3 -c "$0" "$port" 127.0.0.2', PROBE]
    options = ["-p", "0:80"]
    with any_avne.start(*words, upstream=bed.socks, options=options, stdin=True) as process:
        ((host, port),) = _opened(process)
        socket.create_connection((host, port), 5).close()
        out, _ = process.communicate(f"{port}\n", timeout=60)
    hosts = ["127.0.0.1", "::1", "10.213.0.1", "fd61:766e:6500::1", "127.0.0.2"]
    assert out.splitlines() == [*(f"ConnectionRefusedError {host}" for host in hosts), "0"]


def test_errors_say_what_to_do(avne, bed):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for opening, problem in {
            f"{port}:80": f"port {port} of 127.0.0.1 is taken",
            "80:80": "port 80 of this machine is root's to open",
            "198.51.100.1:0:80": "this machine does not have the address 198.51.100.1",
            "8080": "-p 8080 is no opening",
            "localhost:80:80": "localhost is no address",
            "8080:0": "ports go from 1 to 65535",
        }.items():
            done = avne.run("true", upstream=bed.socks, options=["-p", opening])
            assert done.returncode == 125, opening
            assert problem in done.stderr, opening
            assert len(done.stderr.splitlines()) == 2
