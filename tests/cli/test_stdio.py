# SPDX-License-Identifier: GPL-3.0-or-later
"""Sockets as standard input, output and error: the program gets pipes, and the bytes get through."""

from __future__ import annotations

import array
import contextlib
import os
import socket
import subprocess

import pytest

from tests.cli.conftest import COMMAND

KINDS = """
import os, stat
print([stat.S_IFMT(os.fstat(fd).st_mode) == stat.S_IFIFO for fd in range(3)], flush=True)
"""


def tcp_pair():
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        return ours, server.accept()[0]


@pytest.fixture(params=[socket.socketpair, tcp_pair], ids=["local", "network"])
def pair(request):
    ours, theirs = request.param()
    with ours, theirs:
        ours.settimeout(30)
        yield ours, theirs


@pytest.fixture
def begin(environ):
    """begin(WORD…, stdin=…, stdout=…): `avne run` with these."""
    with contextlib.ExitStack() as stack:

        def begin(*words, **stdio):
            streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
            process = subprocess.Popen(
                [*COMMAND, "run", "--", *words], env=environ, start_new_session=True, **{**streams, **stdio}
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield begin


def _all(stream):
    data = b""
    while chunk := stream.recv(1 << 16):
        data += chunk
    return data


def test_one_socket_for_all_three(begin, pair):
    """As inetd and sshd give it; both ways, to the end of each."""
    ours, theirs = pair
    process = begin("sh", "-c", f"python3 -c '{KINDS}'; wc -c; echo error >&2", stdin=theirs,
                     stdout=theirs, stderr=theirs)  # fmt: skip
    theirs.close()
    ours.sendall(b"x" * 300_000)
    ours.shutdown(socket.SHUT_WR)
    assert _all(ours) == b"[True, True, True]\n300000\nerror\n"
    assert process.wait(30) == 0


def test_everything_that_was_written_arrives_at_a_slow_reader(begin, pair):
    ours, theirs = pair
    process = begin("head", "-c", "3000000", "/dev/zero", stdout=theirs)
    theirs.close()
    assert len(_all(ours)) == 3_000_000
    assert process.wait(30) == 0


def test_a_reader_that_goes_away_ends_the_program(begin, pair):
    ours, theirs = pair
    process = begin("cat", "/dev/zero", stdout=theirs)
    theirs.close()
    ours.recv(1)
    ours.close()
    assert process.wait(30) == -13, "SIGPIPE"


def test_a_descriptor_that_comes_by_a_local_socket_does_not_get_in(begin):
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.create_server(("127.0.0.1", 0)) as server:
        program = "import os; os.read(0, 1); print(sorted(os.listdir('/proc/self/fd')))"
        process = begin("python3", "-c", program, stdin=theirs, stdout=subprocess.PIPE)
        rights = array.array("i", [server.fileno()])
        ours.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        assert process.communicate(timeout=30)[0] == b"['0', '1', '2', '3']\n"


@pytest.mark.parametrize("kind", ["datagrams", "listener"])
def test_what_is_no_stream_is_refused(begin, kind):
    if kind == "listener":
        one = socket.create_server(("127.0.0.1", 0))
    else:
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        other.close()
    with one:
        process = begin("true", stdin=one)
        assert b"is no file, terminal, pipe or stream" in process.communicate(timeout=30)[1]
    assert process.returncode == 125


def test_a_pipe_is_the_program_s_own(begin):
    """Nothing is between where nothing has to be."""
    reading, writing = os.pipe()
    process = begin("sh", "-c", "stat -Lc %i /dev/stdin", stdin=reading, stdout=subprocess.PIPE)
    assert int(process.communicate(timeout=30)[0]) == os.fstat(reading).st_ino
    os.close(reading)
    os.close(writing)
