# SPDX-License-Identifier: GPL-3.0-or-later
"""A netstack that dies, or is asked to go, has a successor; the program lives on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.bed import places

# Holds a connection, and says what becomes of it; then opens one more for each line that it reads.
CLIENT = """
import socket, sys, time
def connect():
    s = socket.create_connection((sys.argv[1], 7), timeout=20); s.sendall(b"x"); s.recv(1)
    return s
held = connect()
print("open", flush=True)
for line in sys.stdin:
    try:
        if line == "read\\n":
            held.settimeout(10)
            print("got", held.recv(1), flush=True)
        elif line == "wait\\n":
            print("waiting", flush=True)
            print("got", held.recv(1), flush=True)
        else:
            began = time.monotonic()
            held = connect()
            print(f"{time.monotonic() - began:.3f}", flush=True)
    except OSError as error:
        print(type(error).__name__, flush=True)
"""


def _line(process):
    return process.stdout.readline().strip()


def _ask(process, word):
    process.stdin.write(word + "\n")
    process.stdin.flush()
    return _line(process)


def _kill_netstack(process):
    os.kill(process.part("net"), signal.SIGKILL)


def test_a_new_netstack_takes_the_tun_within_a_second(any_avne, bed):
    with any_avne.start("python3", "-c", CLIENT, places.V4, upstream=bed.socks, stdin=True) as process:
        assert _line(process) == "open"
        began = time.monotonic()
        _kill_netstack(process)
        assert float(_ask(process, "connect")) > 0.0
        assert time.monotonic() - began < 1.0
        process.stdin.close()
        assert process.wait(20) == 0
        assert "connections that were open are reset" in process.stderr.read()


@pytest.mark.parametrize("server", [places.V4, places.V6])
def test_a_program_that_only_waits_is_told(any_avne, bed, server):
    with any_avne.start("python3", "-c", CLIENT, server, upstream=bed.socks, stdin=True) as process:
        assert _line(process) == "open"
        assert _ask(process, "wait") == "waiting"
        began = time.monotonic()
        _kill_netstack(process)
        assert _line(process) == "ConnectionResetError"
        assert time.monotonic() - began < 1.0
        process.stdin.close()
        assert process.wait(20) == 0


def test_what_keeps_dying_ends_the_run(avne, bed):
    with avne.start("python3", "-c", CLIENT, places.V4, upstream=bed.socks, stdin=True) as process:
        assert _line(process) == "open"
        for _ in range(5):
            _kill_netstack(process)
            assert float(_ask(process, "connect")) > 0.0
        _kill_netstack(process)
        assert process.wait(20) == 125
        assert "the network process died 6 times in a minute" in process.stderr.read()


def test_reload(avne, bed):
    words = ["python3", "-c", CLIENT, places.V4]
    options = ["--name", "reloaded"]
    with avne.start(*words, upstream=bed.socks, stdin=True, options=options) as process:
        assert _line(process) == "open"
        before = process.part("net")
        sizes = [int(Path(f"/proc/{process.supervisor}/statm").read_text().split()[1])]
        for _ in range(7):  # what was asked for is no crash
            subprocess.run(avne.as_person([avne.command, "reload", "reloaded"]), check=True, timeout=20)
            assert float(_ask(process, "connect")) > 0.0
            sizes.append(int(Path(f"/proc/{process.supervisor}/statm").read_text().split()[1]))
        assert process.part("net") != before
        assert sizes[-1] <= sizes[0] * 1.05, "the supervisor's memory"
        process.stdin.close()
        assert process.wait(20) == 0, process.stderr.read()


def test_nothing_to_reload(avne):
    words = avne.as_person([avne.command, "reload", "nobody"])
    found = subprocess.run(words, capture_output=True, text=True, timeout=20)
    assert found.returncode == 125
    assert "nobody" in found.stderr
