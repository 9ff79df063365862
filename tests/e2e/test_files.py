# SPDX-License-Identifier: GPL-3.0-or-later
"""Files are where their user expects them, and programs find the places and terminals that they need."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from pathlib import Path

import pytest

from tests.bed import places

URL = "http://www.test.example/"


@pytest.fixture
def somewhere(any_avne):
    """somewhere(TOP): a directory of the person's own there."""
    with contextlib.ExitStack() as stack:

        def make(top):
            path = Path(tempfile.mkdtemp(prefix="avne-test-", dir=top))
            stack.callback(shutil.rmtree, path)
            os.chown(path, any_avne.person.uid, any_avne.person.gid)
            return path

        yield make


@pytest.mark.parametrize("top", ["/tmp", "/var/tmp", "/dev/shm", "home"])
def test_wget_saves_into_the_working_directory(any_avne, bed, somewhere, top):
    there = somewhere(any_avne.person.home if top == "home" else top)
    done = any_avne.run("wget", "-q", URL, upstream=bed.socks, cwd=there)
    assert (done.returncode, done.stderr) == (0, "")
    (saved,) = there.iterdir()
    assert (saved.read_text(), saved.stat().st_uid) == (places.PAGE, any_avne.person.uid)


def test_what_is_written_to_tmp_itself_is_said_to_be_lost(any_avne, bed):
    done = any_avne.run("wget", "-q", "-O", f"avne-{os.getpid()}", URL, upstream=bed.socks, cwd=Path("/tmp"))
    assert done.returncode == 0
    assert done.stderr.startswith(
        "avne: the working directory is /tmp, which the program has a new, empty one"
    )
    assert not os.path.exists(f"/tmp/avne-{os.getpid()}")


def test_git_commits_in_a_repository_below_tmp(any_avne, bed, somewhere):
    there = somewhere("/tmp")
    script = "git init -q . && echo x > f && git add f && git -c user.name=a -c user.email=b commit -qm m"
    done = any_avne.run("sh", "-c", script, upstream=bed.socks, cwd=there)
    assert (done.returncode, done.stderr) == (0, "")
    assert (there / ".git/refs/heads").is_dir()


def test_shared_memory_and_temporary_files(any_avne, bed):
    code = "import multiprocessing.shared_memory as m, tempfile, os; s = m.SharedMemory(create=True, size=9);"
    code += "s.unlink(); f = tempfile.NamedTemporaryFile(); print(os.path.dirname(f.name))"
    done = any_avne.run("python3", "-c", code, upstream=bed.socks)
    assert (done.stdout, done.stderr) == ("/tmp\n", "")


def test_a_tmpdir_that_is_passed_on(any_avne, bed, somewhere):
    there = somewhere(any_avne.person.home)
    options = ["--env", "TMPDIR"]
    done = any_avne.run("mktemp", upstream=bed.socks, options=options, env={"TMPDIR": str(there)})
    assert done.stdout.startswith(f"{there}/")
    assert any_avne.run("mktemp", upstream=bed.socks, env={"TMPDIR": str(there)}).stdout.startswith("/tmp/")


def test_programs_that_make_terminals(any_avne, bed):
    """script(1), and tmux with a socket of its own."""
    done = any_avne.run("script", "-qc", "tty; stty size", "/dev/null", upstream=bed.socks)
    assert done.stdout.split()[0] == "/dev/pts/0"
    inside = "echo in $(tty) > /tmp/out; tmux wait-for -S done; read x"
    script = f"tmux new-session -d '{inside}' && tmux wait-for done && cat /tmp/out; tmux kill-server"
    done = any_avne.run("sh", "-c", script, upstream=bed.socks)
    assert (done.stdout, done.stderr) == ("in /dev/pts/0\n", "")


def test_an_agent_s_socket_in_the_home_directory_is_out_of_reach_until_it_is_shared(any_avne, bed):
    path = any_avne.person.home / f"S.agent-{os.getpid()}"
    code = f"import socket; print(socket.socket(socket.AF_UNIX).connect_ex({str(path)!r}))"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        try:
            os.chmod(path, 0o777)
            server.listen()
            hidden = any_avne.run("python3", "-c", code, upstream=bed.socks)
            shared = any_avne.run("python3", "-c", code, upstream=bed.socks, options=["--share", str(path)])
        finally:
            path.unlink()
    assert (hidden.stdout, hidden.stderr) == ("111\n", "")
    assert (shared.stdout, shared.stderr) == ("0\n", f"avne: open: {path}\n")


@pytest.mark.parametrize("option", ["--private-home", "--profile=test"])
def test_a_home_directory_that_stays_as_it_is(any_avne, bed, option):
    home = any_avne.person.home
    name = f"avne-{os.getpid()}"
    done = any_avne.run("sh", "-c", f"echo x > ~/{name}; cat ~/{name}", upstream=bed.socks, options=[option])
    if any_avne.mode == "setuid":
        assert done.returncode == 125
        assert "not for the setuid helper" in done.stderr
        return
    assert (done.stdout, done.stderr) == ("x\n", "")
    assert not (home / name).exists()
    again = any_avne.run("cat", f"{home}/{name}", upstream=bed.socks, options=[option])
    assert again.stdout == ("x\n" if "profile" in option else "")
    shutil.rmtree(home / ".local/state/avne/profiles", ignore_errors=True)


def test_git_wget_and_curl_need_no_unix_sockets(any_avne, bed):
    for client in (["wget", "-qO-", URL], ["curl", "-sS", URL]):
        done = any_avne.run(*client, upstream=bed.socks, options=["--strict"])
        assert (done.stdout, done.stderr) == (places.PAGE, "")


def test_a_file_of_the_command_line_that_is_hidden_is_named(any_avne, bed, somewhere):
    there = somewhere("/tmp")
    (there / "script").write_text("echo ran\n")
    hidden = any_avne.run("sh", f"{there}/script", upstream=bed.socks)
    assert f"avne: {there}/script is hidden inside; to show it: --share {there}/script\n" in hidden.stderr
    shown = any_avne.run("sh", f"{there}/script", upstream=bed.socks, options=["--share", f"{there}:ro"])
    assert shown.stdout == "ran\n"
