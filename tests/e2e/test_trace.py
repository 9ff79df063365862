# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole run under strace(1): with Tor at a unix socket no process of avne's makes an internet socket.

The positive control is in the same trace: the program makes one, and the worker's unix sockets are seen.
"""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict

import pytest

from tests.bed import places

MARK = "the program inside"
PROGRAM = (
    f"'{MARK}'; import socket; s = socket.create_connection(('{places.V4}', {places.ECHO}));"
    "s.sendall(b'x'); print(s.recv(1))"
)
CALL = re.compile(r"^(\d+) +(\w+)\((.*)")


def _calls(text):
    """pid → its calls, each (name, arguments)."""
    found = defaultdict(list)
    for line in text.splitlines():
        if match := CALL.match(line):
            found[match[1]].append((match[2], match[3]))
    return found


@pytest.mark.parametrize("mode", ["rootless", "root"])
def test_no_process_of_avne_s_makes_an_internet_socket(in_mode, tor, tmp_path, mode):
    avne = in_mode(mode)
    trace = tmp_path / "trace"
    argv = avne.as_person(avne.argv(["python3", "-c", PROGRAM], tor, ()))
    which = "trace=socket,execve,io_uring_setup"
    traced = ["strace", "-f", "-qq", "-s", "200", "-e", which, "-o", str(trace)]
    done = subprocess.run(
        [*traced, *argv], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
        start_new_session=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "b'x'\n"), done.stderr
    calls = _calls(trace.read_text())

    def who(name, words):
        return {pid for pid, made in calls.items() if any(n == name and words in said for n, said in made)}

    program = who("execve", MARK) & who("socket", "AF_INET")
    assert len(program) == 1, "the control: it is seen"
    internet = who("socket", "AF_INET")  # and AF_INET6
    assert internet == program
    (worker,) = who("execve", "avne.upstream.worker")
    assert any(name == "socket" and "AF_UNIX" in said for name, said in calls[worker])
    assert who("execve", "avne.netstack.process")
    assert not who("io_uring_setup", "")
