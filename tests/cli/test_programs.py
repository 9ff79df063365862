# SPDX-License-Identifier: GPL-3.0-or-later
"""Which program has a connection: real processes with real sockets, below this one in place of an init."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from avne.cli.programs import Programs
from avne.errors import AvneError

CAT = shutil.which("cat")


class Sockets:
    """What sock_diag says: the inode of a connection by its key."""

    def __init__(self) -> None:
        self.inodes: dict[bytes, int] = {}

    def waiting(self):
        return []

    def inode(self, key):
        if key not in self.inodes:
            raise AvneError("it is gone", "")
        return self.inodes[key]


@pytest.fixture
def known():
    return Sockets()


@pytest.fixture
def programs(known):
    return Programs(known, os.getpid())


@pytest.fixture
def start(known):
    """`start(key, PROGRAM …)`: a process that holds the socket `key`, and no other has it."""
    with contextlib.ExitStack() as stack:

        def run(key: bytes, *words: str, executable: str | None = None) -> subprocess.Popen[bytes]:
            with socket.socket() as held:
                known.inodes[key] = os.fstat(held.fileno()).st_ino
                process = stack.enter_context(
                    subprocess.Popen(
                        words,
                        executable=executable,
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        pass_fds=[held.fileno()],
                    )
                )
            stack.callback(process.kill)
            return process

        yield run


def test_one_executable_is_one_program_whatever_it_is_called(programs, start, tmp_path):
    start(b"1", CAT)
    start(b"2", "another-name", executable=CAT)
    copy = tmp_path / "cat"
    shutil.copy2(CAT, copy)
    start(b"3", str(copy))
    one, same, other = (programs.owner(key) for key in (b"1", b"2", b"3"))
    assert one == same != other
    assert programs.owner(b"3") == other


def test_a_grandchild_is_found_and_so_is_a_script_s_interpreter(programs, start):
    for key in (b"1", b"2"):
        process = start(key, "sh", "-c", "cat; :")
        process.stdin.write(b"x")  # until there is a cat
        process.stdin.flush()
        assert process.stdout.read(1) == b"x"
    start(b"3", "sh", "-c", "echo; read go; :").stdout.readline()
    script, again, shell = (programs.owner(key) for key in (b"1", b"2", b"3"))
    assert script == again
    assert shell == script, "the shell, which has the socket, too"


def test_what_cannot_be_told_shares_with_none(programs, start, known):
    process = start(b"1", CAT)
    mine = programs.owner(b"1")
    process.kill()
    process.wait()
    known.inodes[b"none"] = 0
    owners = [programs.owner(key) for key in (b"1", b"1", b"unknown", b"none", b"none")]
    assert len({mine, *owners}) == 6


def test_a_process_that_is_not_inside_is_nobody(known):
    with socket.socket() as ours:
        known.inodes[b"1"] = os.fstat(ours.fileno()).st_ino
        # This process is the init, and no descendant of itself.
        programs = Programs(known, os.getpid())
        assert programs.owner(b"1") != programs.owner(b"1")


def test_an_executable_that_was_replaced_is_another_program(programs, start, tmp_path):
    path = Path(tmp_path / "cat")
    shutil.copy2(CAT, path)
    start(b"1", str(path))
    one = programs.owner(b"1")
    path.unlink()
    shutil.copy2(CAT, path)
    start(b"2", str(path))
    assert programs.owner(b"2") != one


def test_without_sock_diag_it_is_an_error():
    class None_(Sockets):
        def waiting(self):
            raise AvneError("no sock_diag", "")

    with pytest.raises(AvneError):
        Programs(None_(), 1)
