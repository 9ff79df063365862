# SPDX-License-Identifier: GPL-3.0-or-later
"""What avne opens for the helper, and what it says about it."""

from __future__ import annotations

import os
import socket

import pytest

from avne.cli import openings, published
from avne.cli.openings import Openings, Options
from avne.errors import AvneError


class Words:
    def __init__(self):
        self.notices = []
        self.phases = []
        self.notice = self.notices.append
        self.phase = self.phases.append


@pytest.fixture
def look(monkeypatch, tmp_path):
    """look(OPTIONS, ENVIRON) as from / → (Openings, what it said)."""
    monkeypatch.chdir("/")

    def look(options=openings.NONE, environ=None, session="/run/avne/abc"):
        words = Words()
        return Openings(options, {"HOME": "/nonexistent", **(environ or {})}, session, words), words

    return look


def names(opened):
    return {os.readlink(f"/proc/self/fd/{share.fd}"): share for share in opened.request.shares}


def test_nothing_is_opened_and_said_by_default(look):
    opened, words = look()
    assert opened.request.shares == ()
    assert opened.request.homes == ()
    assert not opened.request.strict
    assert words.notices == []


def test_what_is_opened_is_said(look, tmp_path):
    (tmp_path / "f").write_text("")
    options = Options(share=(f"{tmp_path}:ro", f"{tmp_path}/f", "/dev/zero"))
    opened, words = look(options)
    shares = names(opened)
    assert {name: share.read_only for name, share in shares.items()} == {
        str(tmp_path): True, f"{tmp_path}/f": False, "/dev/zero": False,
    }  # fmt: skip
    assert all(share.opened for share in shares.values())
    assert words.notices == [f"open: {tmp_path} (read-only)", f"open: {tmp_path}/f", "open: /dev/zero"]


@pytest.mark.parametrize(
    "path",
    ["/", "/proc", "/proc/self/net", "/sys/class", "/etc", "/run", "/dev", "/run/avne", "/run/avne/abc"],
)
def test_what_would_be_the_end_of_the_environment_is_refused(look, path):
    made = path.startswith("/run/avne") and not os.path.exists(path)
    if made:
        os.makedirs(path)
    try:
        with pytest.raises(AvneError, match="no environment left"):
            look(Options(share=(path,)))
    finally:
        if made:
            os.removedirs(path)


def test_a_share_that_is_not_there(look):
    with pytest.raises(AvneError, match="cannot show /nowhere inside: No such file"):
        look(Options(share=("/nowhere",)))


def test_too_many_shares(look, tmp_path):
    for number in range(65):
        (tmp_path / str(number)).mkdir()
    with pytest.raises(AvneError, match="too many --share"):
        look(Options(share=tuple(f"{tmp_path}/{number}" for number in range(65))))


def test_a_home_in_a_private_place_is_kept_in_sight_and_not_called_open(look, tmp_path):
    opened, words = look(environ={"HOME": str(tmp_path)})
    assert [*names(opened)] == [str(tmp_path)]
    assert not names(opened)[str(tmp_path)].opened
    assert words.notices == []
    assert f"the home directory {tmp_path} stays in sight" in words.phases


def test_a_place_of_everybody_s_is_not(look, monkeypatch):
    monkeypatch.chdir("/tmp")
    opened, words = look()
    assert opened.request.shares == ()
    assert words.notices[0].startswith(
        "the working directory is /tmp, which the program has a new, empty one"
    )


def test_the_directory_of_the_sessions_is_not(look, monkeypatch):
    directory = f"/dev/shm/avne-test-{os.getpid()}"
    os.makedirs(f"{directory}/avne/abcdef", 0o700)
    try:
        for here in (directory, f"{directory}/avne", f"{directory}/avne/abcdef"):
            monkeypatch.chdir(here)
            opened, _ = look(session=f"{directory}/avne/abcdef")
            assert opened.request.shares == (), here
    finally:
        os.removedirs(f"{directory}/avne/abcdef")


def test_what_is_hidden_of_the_command_line(look, tmp_path):
    (tmp_path / "in").mkdir()
    opened, _ = look(Options(share=(f"{tmp_path}/in",)))
    assert opened.hides(f"{tmp_path}/out")
    assert opened.hides("/run/x")
    assert opened.hides("/dev/shm/x")
    assert not opened.hides(f"{tmp_path}/in/x")
    assert not opened.hides("/usr/bin/env")
    assert not opened.hides("/dev/null")
    assert not opened.hides("/tmp"), "there is one inside"


def test_sockets_are_masked_where_they_can_be_reached(look, tmp_path, monkeypatch):
    def masked(*args):
        opened, _ = look(*args)
        return [os.readlink(f"/proc/self/fd/{fd}") for fd in opened.request.masks]

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        assert not set(masked()) & {str(tmp_path / "s")}, "hidden with /tmp, and it does not listen"
        monkeypatch.chdir(tmp_path)
        assert str(tmp_path / "s") in masked(), "by its kind"
        server.listen()
        assert str(tmp_path / "s") in masked()
        assert str(tmp_path / "s") not in masked(Options(share=(str(tmp_path),)))
        assert masked(Options(strict=True)) == []


def test_more_sockets_than_can_be_masked_is_an_error(look, tmp_path, monkeypatch):
    monkeypatch.setattr(openings, "MAX_MASKS", 2)
    monkeypatch.chdir(tmp_path)
    servers = []
    for number in range(3):
        servers.append(socket.socket(socket.AF_UNIX))
        servers[-1].bind(str(tmp_path / str(number)))
    with pytest.raises(AvneError, match="more than 2 sockets") as error:
        look()
    assert "--strict" in error.value.cure
    for server in servers:
        server.close()


def test_a_private_home_and_a_profile_exclude_each_other(look):
    with pytest.raises(AvneError, match="exclude each other"):
        look(Options(private_home=True, profile="x"))


@pytest.mark.parametrize("name", ["../x", "", ".", "a/b", "-x", "x" * 65])
def test_names_of_profiles(look, tmp_path, monkeypatch, name):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    if not name:
        assert look(Options(profile=""))[0].request.homes == ()
        return
    with pytest.raises(AvneError, match="cannot be the name of a profile"):
        look(Options(profile=name), {"HOME": str(tmp_path)})


def test_a_profile_is_for_one_run_at_a_time(look, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    opened, _ = look(Options(profile="p"), {"HOME": str(tmp_path)})
    assert [os.readlink(f"/proc/self/fd/{fd}") for fd in opened.request.homes] == [
        str(tmp_path), f"{tmp_path}/avne/profiles/p/upper", f"{tmp_path}/avne/profiles/p/work",
    ]  # fmt: skip
    with pytest.raises(AvneError, match="the profile p is in use"):
        look(Options(profile="p"), {"HOME": str(tmp_path)})


def test_gui_opens_the_display_and_nothing_else(look, tmp_path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "wayland-7"))
        (tmp_path / "bus").write_text("")
        opened, words = look(
            Options(gui=True), {"WAYLAND_DISPLAY": "wayland-7", "XDG_RUNTIME_DIR": str(tmp_path)}
        )
    assert [*names(opened)] == [f"{tmp_path}/wayland-7"]
    assert opened.variables == {"WAYLAND_DISPLAY": "wayland-7", "XDG_RUNTIME_DIR": str(tmp_path)}
    assert words.notices == [
        f"open: {tmp_path}/wayland-7 (Wayland: windows, keys typed into them, and the clipboard)"
    ]


def test_gui_with_x11_says_what_that_means(look, tmp_path, monkeypatch):
    monkeypatch.setattr(openings, "X11", str(tmp_path))
    path, cookie = f"{tmp_path}/X4711", tmp_path / "key"
    cookie.write_text("")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        opened, words = look(Options(gui=True), {"DISPLAY": ":4711.0", "XAUTHORITY": str(cookie)})
    assert {name: share.read_only for name, share in names(opened).items()} == {
        path: False,
        str(cookie): True,
    }
    assert opened.variables == {"DISPLAY": ":4711.0", "XAUTHORITY": str(cookie)}
    assert "type into every window" in words.notices[0]


@pytest.mark.parametrize(
    ("environ", "problem"),
    [({}, "there is no display"), ({"DISPLAY": ":4712"}, "there is no display"),
     ({"DISPLAY": "localhost:10.0"}, "over the network")],
)  # fmt: skip
def test_gui_without_a_display_of_this_machine(look, environ, problem):
    with pytest.raises(AvneError, match=problem):
        look(Options(gui=True), environ)


# ---- ports ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "wish"),
    [
        ("8080:80", ("127.0.0.1", 8080, 80)),
        ("0:1", ("127.0.0.1", 0, 1)),
        ("0.0.0.0:8080:80", ("0.0.0.0", 8080, 80)),
        ("[::1]:65535:65535", ("::1", 65535, 65535)),
        ("[0:0:0:0::1]:1:2", ("::1", 1, 2)),
    ],
)
def test_a_port_as_docker_and_ssh_write_it(word, wish):
    (found,) = published.parse([word])
    assert found == (word, *wish)


@pytest.mark.parametrize(
    "word",
    ["", "80", ":80", "8080:", "a:80", "8080:80/udp", "65536:80", "1:65536", "1:0", "localhost:1:2",
     "::1:80:80", "[::1:80:80", ":1:2", "*:1:2", "-1:80", "１:2", "1:2:3:4", "1:2\n"],
)  # fmt: skip
def test_what_opens_nothing(word):
    with pytest.raises(AvneError, match="-p"):
        published.parse([word])


def test_two_openings_of_one_port():
    with pytest.raises(AvneError, match="open the same port twice"):
        published.parse(["8080:80", "127.0.0.1:8080:81"])
    assert len(published.parse(["8080:80", "8081:80", "[::1]:8080:80", "0:80", "0:80"])) == 5
