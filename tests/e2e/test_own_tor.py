# SPDX-License-Identifier: GPL-3.0-or-later
"""Where no Tor runs avne starts one of its own: shared by its sessions, gone with the last of them.

It runs in the world's network namespace, where the private Tor network's authorities can be reached.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.bed import places
from tests.bed.second_tor import network_lines


@pytest.fixture
def in_the_world(avne, bed, tor, tmp_path_for):
    """The argument vector of `avne run WORDS` there, without an upstream."""
    home = tmp_path_for(avne)
    extra = home / "torrc"
    extra.write_text("\n".join(network_lines(bed)) + "\n")
    extra.chmod(0o644)
    there = ["nsenter", "-t", str(bed.pid), "-n", "--"]
    env = {"AVNE_TOR_TORRC": str(extra), "XDG_STATE_HOME": str(home)}

    def argv(*words: str, options: tuple[str, ...] = ()) -> list[str]:
        return [*there, *avne.as_person(avne.argv(words, None, options), env)]

    return argv


def _tors() -> set[str]:
    """Commands of the Tors that run for a keeper of avne."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            command = path.read_bytes().replace(b"\0", b" ").decode()
            if "/avne/tor/" in command and command.split()[0].endswith("tor"):
                found.add(command)
    return found


# One page to each who comes.
SERVE = """python3 -c '
import socket
server = socket.create_server(("0.0.0.0", 80))
while True:
    with server.accept()[0] as connection:
        connection.recv(10000)
        connection.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\ninside, by Tor\\n")
'"""


def _fetch_as_an_onion(bed, process) -> str:
    """By the world's Tor: the service is one of avne's own."""
    found = None
    while not found:
        line = process.stderr.readline()
        assert line
        found = re.search(r"open: ([a-z2-7]{56}\.onion):80 leads to port 80 inside", line)
    words = ["curl", "-sS", "--max-time", "60", "--proxy", f"socks5h://localhost{bed.tor_path}"]
    return subprocess.run([*words, f"http://{found[1]}/"], capture_output=True, text=True, check=True).stdout


def test_own_tor_is_shared_and_ends_with_the_last_session(in_the_world, bed):
    with subprocess.Popen(
        in_the_world(
            "sh",
            "-c",
            f"wget -qO- http://{places.V4}/; echo; {SERVE} & read go; kill $!",
            options=("--onion", "80"),
        ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as first:
        page = "".join(iter(first.stdout.readline, "\n"))
        assert page == places.PAGE
        assert len(_tors()) == 1
        second = subprocess.run(
            in_the_world("wget", "-qO-", "http://www.test.example/"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            start_new_session=True,
        )
        assert (second.stdout, second.stderr) == (places.PAGE, "")
        assert len(_tors()) == 1
        assert _fetch_as_an_onion(bed, first) == "inside, by Tor\n"
        first.communicate("\n", timeout=30)
    deadline = time.monotonic() + 10
    while _tors():
        assert time.monotonic() < deadline, "Tor has outlived the last session"
        time.sleep(0.05)
