# SPDX-License-Identifier: GPL-3.0-or-later
"""What happens when a part dies: nothing leaves, nothing is left, and the program is told."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from tests.bed import places

CLIENT = """
import socket, sys
s = socket.create_connection((sys.argv[1], 7)); s.sendall(b"x"); s.recv(1)
print("open", flush=True)
s.settimeout(20)
try:
    print("got", s.recv(1), flush=True)
except OSError as error:
    print(type(error).__name__, flush=True)
try:
    s = socket.create_connection((sys.argv[1], 7), timeout=10); s.sendall(b"y")
    print("again", s.recv(1), flush=True)
except OSError as error:
    print("no more:", type(error).__name__, flush=True)
"""


def _line(process):
    return process.stdout.readline().strip()


def _lives(pid):
    """A zombie has ended; it waits for its parent, which may be this test."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _gone(pids, seconds=5.0):
    deadline = time.monotonic() + seconds
    while any(_lives(pid) for pid in pids):
        left = [pid for pid in pids if _lives(pid)]
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


def test_a_killed_worker_resets_its_flows_and_is_replaced(avne, bed):
    with avne.start("python3", "-c", CLIENT, places.V4, upstream=bed.socks) as process:
        assert _line(process) == "open"
        started = time.monotonic()
        os.kill(process.part("socks5 1"), signal.SIGKILL)
        assert _line(process) == "ConnectionResetError"
        assert time.monotonic() - started < 1.0
        assert _line(process) == "again b'y'"
        assert process.wait(10) == 0


def test_without_a_netstack_the_program_has_no_network_and_the_run_ends(avne, bed):
    options = ["--on-failure", "kill"]
    with avne.start("python3", "-c", CLIENT, places.V4, upstream=bed.socks, options=options) as process:
        assert _line(process) == "open"
        everything = process.parts()
        os.kill(process.part("net"), signal.SIGKILL)
        assert process.wait(15) == 125
        assert "again" not in process.stdout.read()
        assert "network process died" in process.stderr.read()
        _gone(everything)


def test_without_a_supervisor_nothing_is_left(avne, bed):
    with avne.start("python3", "-c", CLIENT, places.V4, upstream=bed.socks) as process:
        assert _line(process) == "open"
        everything = process.parts()
        assert len(everything) >= 4
        os.kill(process.supervisor, signal.SIGKILL)
        _gone(everything, 1.0)


def test_without_an_init_the_program_ends(avne, bed):
    with avne.start("python3", "-c", CLIENT, places.V4, upstream=bed.socks) as process:
        assert _line(process) == "open"
        everything = process.parts()
        os.kill(process.init, signal.SIGKILL)
        process.wait(15)
        _gone(everything)


DOWNLOAD = f"""
wget -q -t1 -O- http://{places.V4}/slow/400 | tee /dev/stderr | wc -c
echo first
read go
curl -sS http://{places.V4}/
"""


def test_tor_killed_in_mid_download_is_a_reset_and_its_return_is_used(avne, bed, tor):
    with avne.start("sh", "-c", DOWNLOAD, upstream=tor, stdin=True) as process:
        os.read(process.stderr.fileno(), 1)  # the download flows
        bed.act_on_tor("client", "kill")
        assert int(_line(process)) < 400
        assert _line(process) == "first"
        bed.act_on_tor("client", "start")
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.read() == places.PAGE
        assert process.wait(20) == 0


def test_tor_s_death_is_never_an_orderly_end(avne, bed, tor):
    """A body without a length ends with the connection: a FIN would make it look whole."""
    client = (
        "import socket\n"
        f"s = socket.create_connection(('{places.V4}', {places.CHARGEN}))\n"
        "s.recv(1); print('flowing', flush=True)\n"
        "try:\n"
        "    while s.recv(65536): pass\n"
        "    print('orderly end')\n"
        "except ConnectionResetError: print('reset')\n"
    )
    for _ in range(3):
        with avne.start("python3", "-c", client, upstream=tor) as process:
            assert _line(process) == "flowing"
            bed.act_on_tor("client", "kill")
            try:
                assert _line(process) == "reset"
            finally:
                bed.act_on_tor("client", "start")
