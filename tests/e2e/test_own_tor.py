# SPDX-License-Identifier: GPL-3.0-or-later
"""Where no Tor runs avne starts one of its own: shared by its sessions, gone with the last of them.

It runs in the world's network namespace, where the private Tor network's authorities can be reached.
"""

from __future__ import annotations

import contextlib
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

    def argv(*words: str) -> list[str]:
        return [*there, *avne.as_person(avne.argv(words, None, ()), env)]

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


def test_own_tor_is_shared_and_ends_with_the_last_session(in_the_world):
    with subprocess.Popen(
        in_the_world("sh", "-c", f"wget -qO- http://{places.V4}/; echo; read go"),
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
        first.communicate("\n", timeout=30)
    deadline = time.monotonic() + 10
    while _tors():
        assert time.monotonic() < deadline, "Tor has outlived the last session"
        time.sleep(0.05)
