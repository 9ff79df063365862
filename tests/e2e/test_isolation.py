# SPDX-License-Identifier: GPL-3.0-or-later
"""--isolate and `avne newnym` on the private Tor network: what Tor says of the circuits that were used."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.bed import places

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


class Circuits:
    """Which circuit each stream to port 7 got, in their order."""

    def __init__(self, control):
        self._control = control
        control.command("SETEVENTS STREAM")

    def __enter__(self):
        self._seen = len(self._found())
        return self

    def __exit__(self, *_):
        pass

    def _found(self):
        events = self._control.stream_events()
        return [
            circuit for _, state, circuit, target in events if state == "SUCCEEDED" and target.endswith(":7")
        ]

    def used(self):
        return self._found()[self._seen :]


@pytest.fixture
def circuits(bed, tor):
    with bed.control() as control, Circuits(control) as found:
        yield found


def _open(process, host=places.V4):
    process.stdin.write(host + "\n")
    process.stdin.flush()
    assert process.stdout.readline() == "open\n"


@contextlib.contextmanager
def _start(avne, tor, *options):
    with avne.start("python3", "-c", HOLD, upstream=tor, stdin=True, options=list(options)) as process:
        assert process.stdout.readline() == "begun\n"
        yield process


def _finish(process):
    process.stdin.close()
    assert process.wait(40) == 0


def test_a_run_is_one_and_two_runs_are_two(avne, tor, circuits):
    with _start(avne, tor) as first, _start(avne, tor) as second:
        for process in (first, first, second):
            _open(process)
        one, same, other = circuits.used()
        assert one == same != other
        _finish(first)
        _finish(second)


def test_runs_of_one_name_share_and_of_two_names_do_not(avne, tor, circuits):
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(_start(avne, tor, "--isolate", f"name={name}")) for name in "aab"]
        for process in started:
            _open(process)
        one, same, other = circuits.used()
        assert one == same != other
        for process in started:
            _finish(process)


def test_each_destination_by_itself(avne, tor, circuits):
    with _start(avne, tor, "--isolate", "destination") as process:
        for host in (places.V4, OTHER) * 3:
            _open(process, host)
        used = circuits.used()
        one, other = used[::2], used[1::2]
        assert not {*one} & {*other}
        assert max(len({*one}), len({*other})) < 3, "a circuit may end, and Tor take another"
        _finish(process)


def test_newnym_is_for_what_comes_after_it(avne, tor, circuits):
    with _start(avne, tor, "--isolate", "name=n", "--name", "renewed") as process:
        _open(process)
        words = avne.as_person([avne.command, "newnym", "renewed"])
        subprocess.run(words, check=True, timeout=20)
        _open(process)  # and the old one still echoes
        _open(process)
        old, new, same = circuits.used()
        assert old != new == same
        _finish(process)


def test_each_program_by_itself(any_avne, tor, circuits, tmp_path_for):
    """Two processes of one executable, and one of a copy of it."""
    copy = Path(tmp_path_for(any_avne)) / "other-python"
    shutil.copy2(Path("/usr/bin/python3").resolve(), copy)
    copy.chmod(0o755)
    code = "import socket,sys; s=socket.create_connection((sys.argv[1],7),40); s.sendall(b'x'); s.recv(1)"
    script = 'for p in python3 "$1" python3 "$1"; do $p -c "$2" "$3" || exit 1; done; echo done'
    words = ["sh", "-c", script, "sh", str(copy), code, places.V4]
    done = any_avne.run(*words, upstream=tor, options=["--isolate", "program"])
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    one, other, same, also = circuits.used()
    assert one == same != other == also


def test_without_tor_there_is_nothing_to_isolate(avne, bed):
    done = avne.run("true", upstream=bed.socks, options=["--isolate", "destination"])
    assert done.returncode == 125
    assert "only Tor has circuits" in done.stderr
