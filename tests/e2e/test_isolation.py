# SPDX-License-Identifier: GPL-3.0-or-later
"""--isolate and `avne newnym` on the private Tor network: what Tor says of the circuits that were used."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.bed import places
from tests.bed.second_tor import SecondTor

# Holds each connection open: for "HOST" one more, and says that it is there.
HOLD = """
import socket, sys
held = []
print("begun", flush=True)
for line in sys.stdin:
    s = socket.create_connection((line.strip(), 7), timeout=40); s.sendall(b"x"); s.recv(1)
    held.append(s)
    for one in held[:-1]: one.sendall(b"y"); assert one.recv(1) == b"y"
    print("open", flush=True)
"""
OTHER = places.V6

# The same, but for "held" it says what the connections are that it holds.
TRY = """
import socket, sys
held = []
print("begun", flush=True)
for line in sys.stdin:
    if line == "held\\n":
        live = lost = 0
        for one in held:
            try: one.sendall(b"y"); live += one.recv(1) == b"y"
            except ConnectionResetError: lost += 1
        print(f"{live} live, {lost} reset", flush=True)
        continue
    s = socket.create_connection((line.strip(), 7), timeout=40); s.sendall(b"x"); s.recv(1)
    held.append(s)
    print("open", flush=True)
"""


class Circuits:
    """Which circuit each stream to port 7 got, and for which password, in their order.

    The two legs of a conflux set are one circuit: they have one exit and one owner.
    """

    def __init__(self, control):
        self._control = control
        control.command("SETEVENTS STREAM")
        self._seen = len(self._found())

    def _found(self):
        sets = {}
        for row in self._control.getinfo("circuit-status").splitlines():
            words = row.split()
            sets[words[0]] = next((word for word in words if word.startswith("CONFLUX_ID=")), words[0])
        self._control.command("GETINFO version")  # collects what has arrived
        found = []
        for event in self._control.events:
            words = event.split()
            if words[0] == "STREAM" and words[2] == "SUCCEEDED" and words[4].endswith(":7"):
                password = next(word for word in words if word.startswith("SOCKS_PASSWORD="))
                found.append((sets.get(words[3], words[3]), password))
        return found

    def passwords(self):
        """The circuit and password of each stream."""
        return self._found()[self._seen :]

    def used(self):
        """The circuit of each stream."""
        streams = self.passwords()
        for one in streams:
            for other in streams:
                assert (one[0] == other[0]) == (one[1] == other[1]), streams
        return [circuit for circuit, _ in streams]


@pytest.fixture(scope="module")
def plain(bed, tor):
    """A client without conflux, whose equal streams stay on one circuit."""
    with SecondTor(bed) as second:
        yield second


@pytest.fixture
def circuits(plain):
    with plain.control() as control:
        yield Circuits(control)


def _open(process, host=places.V4):
    process.stdin.write(host + "\n")
    process.stdin.flush()
    assert process.stdout.readline() == "open\n"


@contextlib.contextmanager
def _start(avne, plain, *options):
    with avne.start(
        "python3", "-c", HOLD, upstream=plain.upstream, stdin=True, options=list(options)
    ) as process:
        assert process.stdout.readline() == "begun\n"
        yield process


def _ask(process, word):
    process.stdin.write(word + "\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def _finish(process):
    process.stdin.close()
    assert process.wait(40) == 0


def test_a_run_is_one_and_two_runs_are_two(avne, plain, circuits):
    with _start(avne, plain) as first, _start(avne, plain) as second:
        for process in (first, first, second):
            _open(process)
        one, same, other = circuits.used()
        assert one == same != other
        _finish(first)
        _finish(second)


def test_runs_of_one_name_share_and_of_two_names_do_not(avne, plain, circuits):
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(_start(avne, plain, "--isolate", f"name={name}")) for name in "aab"]
        for process in started:
            _open(process)
        one, same, other = circuits.used()
        assert one == same != other
        for process in started:
            _finish(process)


def test_each_destination_by_itself(avne, plain, circuits):
    with _start(avne, plain, "--isolate", "destination") as process:
        for host in (places.V4, OTHER) * 4:
            _open(process, host)
        used = circuits.used()
        assert len(used) == 8
        assert len({*used[::2]}) == len({*used[1::2]}) == 1
        assert used[0] != used[1]
        _finish(process)


def test_with_conflux_no_circuit_serves_two_destinations(avne, bed, tor):
    """There Tor may take another circuit for an equal stream (bed/second_tor.py), but never a foreign one."""
    with bed.control() as control:
        circuits = Circuits(control)
        options = ["--isolate", "destination"]
        with avne.start("python3", "-c", HOLD, upstream=tor, stdin=True, options=options) as process:
            assert process.stdout.readline() == "begun\n"
            for host in (places.V4, OTHER) * 6:
                _open(process, host)
            streams = circuits.passwords()
            assert len(streams) == 12
            assert len({password for _, password in streams}) == 2
            assert len({*streams}) == len({circuit for circuit, _ in streams}), "one password a circuit"
            _finish(process)


def test_several_tors_are_one_pool(avne, bed, tor, plain):
    """Connections go by both; when one dies its own end, and new ones go by the other."""
    with SecondTor(bed) as second, contextlib.ExitStack() as stack:
        controls = [stack.enter_context(one.control()) for one in (plain, second)]
        circuits = [Circuits(control) for control in controls]
        options = ["--upstream", second.upstream]
        with avne.start(
            "python3", "-c", TRY, upstream=plain.upstream, stdin=True, options=options
        ) as process:
            assert process.stdout.readline() == "begun\n"
            assert [_ask(process, places.V4) for _ in range(6)] == ["open"] * 6
            assert [len(one.used()) for one in circuits] == [3, 3]
            assert len({*circuits[0].used()}) == len({*circuits[1].used()}) == 1
            second.kill()
            assert _ask(process, "held") == "3 live, 3 reset"
            assert [_ask(process, places.V4) for _ in range(4)] == ["open"] * 4
            assert len(circuits[0].used()) == 7
            _finish(process)


def test_newnym_is_for_what_comes_after_it(avne, plain, circuits):
    with _start(avne, plain, "--isolate", "name=n", "--name", "renewed") as process:
        _open(process)
        words = avne.as_person([avne.command, "newnym", "renewed"])
        subprocess.run(words, check=True, timeout=20)
        _open(process)  # and the old one still echoes
        _open(process)
        old, new, same = circuits.used()
        assert old != new == same
        _finish(process)


def test_each_program_by_itself(any_avne, plain, circuits, tmp_path_for):
    """Two processes of one executable, and one of a copy of it."""
    copy = Path(tmp_path_for(any_avne)) / "other-python"
    shutil.copy2(Path("/usr/bin/python3").resolve(), copy)
    copy.chmod(0o755)
    code = "import socket,sys; s=socket.create_connection((sys.argv[1],7),40); s.sendall(b'x'); s.recv(1)"
    script = 'for p in python3 "$1" python3 "$1"; do $p -c "$2" "$3" || exit 1; done; echo done'
    words = ["sh", "-c", script, "sh", str(copy), code, places.V4]
    done = any_avne.run(*words, upstream=plain.upstream, options=["--isolate", "program"])
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    one, other, same, also = circuits.used()
    assert one == same != other == also


def test_without_tor_there_is_nothing_to_isolate(avne, bed):
    done = avne.run("true", upstream=bed.socks, options=["--isolate", "destination"])
    assert done.returncode == 125
    assert "only Tor has circuits" in done.stderr
