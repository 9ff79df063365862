# SPDX-License-Identifier: GPL-3.0-or-later
"""``--capture FILE``: where it may go, what it leaves of what was there, and a disk that gets full."""

from __future__ import annotations

import os
import re
import resource
import socket
import time

import pytest

from avne.cli.capture import open_capture
from avne.errors import AvneError
from tests import pcapng

FETCH = """
import socket, sys
sock = socket.create_connection(("192.0.2.1", int(sys.argv[1])))
print(sum(iter(lambda: len(sock.recv(65536)), 0)))
"""

ASK = """
import socket, sys
sock = socket.create_connection(("192.0.2.1", int(sys.argv[1])))
for number in range(3):
    sock.send(b"question %d" % number)
    sock.recv(100)
"""


def test_a_new_file_is_the_users_alone(tmp_path):
    os.close(open_capture(str(tmp_path / "new")))
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600


def test_it_is_not_inherited_and_waits_for_the_disk(tmp_path):
    fd = open_capture(str(tmp_path / "new"))
    assert not os.get_inheritable(fd)
    assert os.get_blocking(fd)
    os.close(fd)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("-", "standard output, which is the program's"),
        ("", "No such file"),
        ("missing/file", "No such file"),
        (".", "Is a directory"),
        ("/dev/null", "is not a regular file"),
        ("fifo", "is not a regular file"),
        ("read-fifo", "is not a regular file"),
    ],
)
def test_what_a_capture_cannot_be_written_to(tmp_path, monkeypatch, name, said):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    os.mkfifo("read-fifo")
    reader = os.open("read-fifo", os.O_RDONLY | os.O_NONBLOCK)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(AvneError, match=said) as caught:
        open_capture(name)
    assert caught.value.exit_code == 125
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(reader)


def test_nothing_is_started_without_the_file(run, tmp_path):
    done = run("true", options=["--upstream", "socks5://127.0.0.1:1", "--capture", str(tmp_path)])
    assert done.returncode == 125
    assert done.stderr.startswith(f"avne: cannot write a capture to '{tmp_path}': Is a directory\n  ")
    assert not (tmp_path / "state").exists()


def test_an_old_file_is_overwritten_and_keeps_its_mode(run, tmp_path):
    file = tmp_path / "old"
    file.write_bytes(bytes(100_000))
    file.chmod(0o640)
    done = run("sh", "-c", "ls -l /proc/self/fd", options=["--capture", str(file)])
    assert (done.returncode, done.stderr) == (0, "")
    assert str(file) not in done.stdout
    found = pcapng.read(file.read_bytes())
    assert re.fullmatch(rb"avne [0-9a-f]{6}", found.interface[2])
    assert file.stat().st_mode & 0o777 == 0o640


def test_a_file_that_is_watched_grows_while_the_program_runs(start, tmp_path):
    """No packet waits for a later one before it is written."""
    file = tmp_path / "capture"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        words = ("/usr/bin/python3", "-c", ASK, str(listener.getsockname()[1]))
        process = start(*words, options=["--capture", str(file)])
        listener.settimeout(20)
        sock = listener.accept()[0]
        for number in range(3):
            line = b"question %d" % number
            assert sock.recv(100) == line
            # The netstack goes to sleep right after it has handed the question on.
            end = time.monotonic() + 20
            while line not in file.read_bytes():
                assert time.monotonic() < end
                assert process.poll() is None
                os.sched_yield()
            sock.send(b"ok")
        sock.close()
    assert process.wait(20) == 0


def test_a_disk_that_gets_full_ends_the_capture_and_not_the_program(start, tmp_path):
    """A limit on the size of the netstack's files stands in for it: an error of the same call."""
    limit, size = 300_000, 2_000_000
    file = tmp_path / "capture"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        words = ("/usr/bin/python3", "-c", FETCH, str(listener.getsockname()[1]))
        process = start(
            *words, options=["--capture", str(file)],
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        )  # fmt: skip
        with listener.accept()[0] as sock:
            sock.sendall(bytes(size))
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output) == (0, f"{size}\n")
    assert errors == "avne: the capture ends here (File too large); the program goes on\n"
    assert 0 < file.stat().st_size <= limit
    assert pcapng.read(file.read_bytes()).packets
    (log,) = (tmp_path / "state/avne").iterdir()
    assert re.search(r"capture-lost\D+[1-9]", log.read_text())
