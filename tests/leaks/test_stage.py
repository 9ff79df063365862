# SPDX-License-Identifier: GPL-3.0-or-later
"""The stage and its ears, without an environment: what gets out is heard, and nothing is left."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from avne.probes import facts
from avne.probes.probe import LEAKED, STOPPED, load
from avne.probes.runner import Tries
from avne.probes.stage import Stage
from avne.probes.upstream import Refuser

HEARD = ["fd-tcp", "fd-unix", "cwd", "unix-home", "unix-home-late", "unix-home-rights", "fifo-tmp", "orphan",
         "signal-process", "proc-environ", "sysv-shm", "stdin-tcp", "stdin-directory"]  # fmt: skip


@pytest.fixture
def stage(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with Stage() as stage:
        yield stage


def test_what_gets_out_is_heard(stage):
    found = Tries(stage).run([], [load()[name] for name in HEARD])
    assert {name: finding.kind for name, finding in found.items()} == dict.fromkeys(HEARD, LEAKED)


def test_a_run_hears_nothing_of_the_one_before(stage):
    """The same stage, and a program that closes what it inherits."""
    probes = [load()[name] for name in ("fd-tcp", "fd-unix", "unix-home")]
    tries = Tries(stage)
    assert tries.run([], probes)["fd-tcp"].kind == LEAKED
    closing = [
        "/bin/sh",
        "-c",
        "for n in 20 21 22 23 24 25 26 27 28; do eval exec $n'>&-'; done; exec \"$@\"",
        "sh",
    ]
    found = tries.run(["/bin/bash", *closing[1:]], probes)
    assert found["fd-tcp"] == found["fd-unix"] == (STOPPED, "closed", 9)
    assert found["unix-home"].kind == LEAKED


def test_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    before = Path("/proc/sysvipc/shm").read_text().count("\n"), len(os.listdir("/proc/self/fd"))
    with Stage() as stage:
        Tries(stage).run([], [load()["unix-home"]])
        places = list(stage.directories.values())
    assert not any(map(os.path.exists, places))
    assert (Path("/proc/sysvipc/shm").read_text().count("\n"), len(os.listdir("/proc/self/fd"))) == before


def test_the_upstream_refuses_and_counts(tmp_path):
    upstream = Refuser(str(tmp_path / "socks"))
    for _ in range(2):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(tmp_path / "socks"))
            sock.sendall(b"\x05\x01\x00")
            assert sock.recv(2) == b"\x05\x00"
            sock.sendall(b"\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50")
            assert sock.recv(10)[:2] == b"\x05\x02", "connection not allowed by ruleset (RFC 1928 §6)"
            assert sock.recv(1) == b""
    assert upstream.asked == 2
    upstream.close()


def test_a_client_that_hangs_up_ends_nothing(tmp_path):
    upstream = Refuser(str(tmp_path / "socks"))
    for _ in range(20):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(tmp_path / "socks"))
            sock.sendall(b"\x05\x01\x00")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(tmp_path / "socks"))
        sock.sendall(b"\x05\x01\x00")
        assert sock.recv(2) == b"\x05\x00"
    upstream.close()


def test_words_of_configuration_files():
    text = "passwd: files systemd # x\nhosts: files mdns4_minimal [NOTFOUND=return] resolve dns\n"
    assert facts.foreign_modules(text) == ["mdns4_minimal", "resolve", "systemd"]
    assert facts.name_servers("# nameserver 1\nnameserver 192.0.2.1\nnameserver\noptions x\n") == [
        "192.0.2.1"
    ]
