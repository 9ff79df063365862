# SPDX-License-Identifier: GPL-3.0-or-later
"""Session directories are private, unique, out of the program's reach, and never left behind."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from avne import paths
from avne.errors import AvneError


@pytest.fixture
def runtime():
    """A directory below /dev/shm, as a user's XDG_RUNTIME_DIR would be."""
    path = tempfile.mkdtemp(dir="/dev/shm", prefix="avne-test-")
    yield path
    shutil.rmtree(path)


def test_a_session_has_a_private_directory(runtime):
    session = paths.open_session({"XDG_RUNTIME_DIR": runtime})
    assert session.directory == f"{runtime}/avne/{session.id}"
    assert len(session.id) == 6
    int(session.id, 16)
    for path in (session.directory, f"{runtime}/avne"):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(session.socket("attach"))
        session.close()
    assert os.listdir(f"{runtime}/avne") == []


def test_two_sessions_live_side_by_side(runtime):
    sessions = [paths.open_session({"XDG_RUNTIME_DIR": runtime}) for _ in range(3)]
    assert sorted(os.listdir(f"{runtime}/avne")) == sorted(session.id for session in sessions)
    for session in sessions:
        session.close()


def test_an_id_that_is_taken_is_not_used_again(runtime, monkeypatch):
    ids = iter([b"\1\2\3", b"\x1a\2\3", b"\x1a\2\3", b"\x4b\5\6"])
    monkeypatch.setattr(os, "urandom", lambda n: next(ids))
    first = paths.open_session({"XDG_RUNTIME_DIR": runtime})
    second = paths.open_session({"XDG_RUNTIME_DIR": runtime})
    assert (first.id, second.id) == ("1a0203", "4b0506"), "and none that looks like a process's number"
    first.close()
    second.close()


def test_the_next_start_removes_what_a_killed_one_left(runtime):
    program = """if True:
        import os
        from avne.paths import open_session
        session = open_session()
        open(session.directory + "/attach", "w").close()
        print(session.directory, flush=True)
        os._exit(9)"""
    dead = subprocess.run(
        [sys.executable, "-c", program],
        env={"XDG_RUNTIME_DIR": runtime, "PYTHONPATH": os.getcwd()},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    ).stdout.strip()
    assert os.path.exists(f"{dead}/attach")
    Path(runtime, "avne/notours").mkdir()
    session = paths.open_session({"XDG_RUNTIME_DIR": runtime})
    assert sorted(os.listdir(f"{runtime}/avne")) == sorted([session.id, "notours"])
    session.close()


@pytest.mark.parametrize("value", ["relative", "/tmp", "/var/lib", "/run", "/nonexistent", ""])
def test_a_runtime_dir_that_the_program_could_reach_is_not_used(value):
    root = paths._runtime_root({"XDG_RUNTIME_DIR": value})
    assert root == "/run" if os.geteuid() == 0 else root.startswith(("/run/user/", "/dev/shm/avne-"))


def test_a_runtime_dir_open_to_others_is_not_used(runtime):
    os.chmod(runtime, 0o750)
    assert paths._runtime_root({"XDG_RUNTIME_DIR": runtime}) != runtime


def test_a_link_out_of_the_masked_places_is_seen_through(runtime, tmp_path):
    os.chmod(tmp_path, 0o700)
    os.symlink(tmp_path, f"{runtime}/link")
    assert not paths._runtime_root({"XDG_RUNTIME_DIR": f"{runtime}/link"}).startswith(str(tmp_path))


@pytest.mark.parametrize("spoil", ["mode", "link", "file"])
def test_a_base_directory_that_is_not_ours_alone_is_refused(runtime, spoil, tmp_path):
    base = f"{runtime}/avne"
    if spoil == "mode":
        os.mkdir(base)
        os.chmod(base, 0o755)
    elif spoil == "link":
        os.symlink(tmp_path, base)
    else:
        Path(base).touch()
    with pytest.raises(AvneError, match="not a directory that is ours alone") as error:
        paths.open_session({"XDG_RUNTIME_DIR": runtime})
    assert base in error.value.cure


def as_user(program, uid=64123):
    """Run Python `program` as an ordinary user without a home or a runtime directory."""
    setup = f"import os, sys; sys.path.insert(0, {os.getcwd()!r}); from avne import paths"
    code = f"{setup}\nos.setresgid({uid}, {uid}, {uid})\nos.setresuid({uid}, {uid}, {uid})\n{program}"
    return subprocess.run([sys.executable, "-c", code], env={}, capture_output=True, text=True, check=False)


def test_an_ordinary_user_without_a_runtime_dir_uses_shm():
    try:
        done = as_user("s = paths.open_session(); print(s.directory); s.close()")
        assert done.stdout.startswith("/dev/shm/avne-64123/avne/"), done.stderr
        assert stat.S_IMODE(os.stat("/dev/shm/avne-64123").st_mode) == 0o700
    finally:
        shutil.rmtree("/dev/shm/avne-64123", ignore_errors=True)


def test_a_squatted_shm_directory_is_refused():
    os.mkdir("/dev/shm/avne-64123", 0o700)  # root's, not the user's
    try:
        done = as_user("paths.open_session()")
        assert "AvneError: /dev/shm/avne-64123 is not a directory that is ours alone" in done.stderr
    finally:
        os.rmdir("/dev/shm/avne-64123")


def test_a_socket_path_that_is_too_long_is_an_error(runtime):
    long = f"{runtime}/{'x' * 100}"
    os.mkdir(long, 0o700)
    session = paths.open_session({"XDG_RUNTIME_DIR": long})
    with pytest.raises(AvneError, match="too long for a socket"):
        session.socket("attach")
    session.close()


def test_state_and_config_follow_xdg(tmp_path):
    environ = {"XDG_STATE_HOME": f"{tmp_path}/state", "XDG_CONFIG_HOME": f"{tmp_path}/etc/"}
    assert paths.state_dir(environ) == f"{tmp_path}/state/avne"
    assert stat.S_IMODE(os.stat(f"{tmp_path}/state/avne").st_mode) == 0o700
    assert paths.config_files(environ)[1] == f"{tmp_path}/etc/avne/config.toml"


def test_relative_xdg_values_are_ignored(tmp_path):
    environ = {"XDG_STATE_HOME": "state", "XDG_CONFIG_HOME": "etc", "HOME": str(tmp_path)}
    assert paths.state_dir(environ) == f"{tmp_path}/.local/state/avne"
    assert paths.config_files(environ)[1] == f"{tmp_path}/.config/avne/config.toml"


def test_a_home_of_nowhere_falls_back_to_the_password_file():
    home = os.path.expanduser("~" if "HOME" in os.environ else "~root")
    assert paths.config_files({"HOME": ""})[1] == f"{home}/.config/avne/config.toml"


def test_a_state_dir_that_cannot_be_made_is_an_error(tmp_path):
    Path(tmp_path, "file").touch()
    with pytest.raises(AvneError, match="cannot use"):
        paths.state_dir({"XDG_STATE_HOME": f"{tmp_path}/file"})
