# SPDX-License-Identifier: GPL-3.0-or-later
"""`sudo avne setup` on a machine of the test's own: what it installs, what it refuses, what it undoes."""

from __future__ import annotations

import grp
import os
import stat
import subprocess

import pytest

from avne.errors import AvneError
from avne.privileged import _build, launch, setup
from tests.privileged import stage


@pytest.fixture
def on_machine(helper):
    """`on_machine(work)`: what `work` gives where /etc and /usr/local/libexec may be changed."""

    def run(work, sudo_user="nobody"):
        def prepared():
            stage.private_mounts()
            scratch = helper.parent / "setuid"
            stage.mount("tmpfs", scratch, "tmpfs", 0, "mode=0755")
            for name in ("upper", "work"):
                (scratch / name).mkdir()
            stage.mount(
                "overlay", "/etc", "overlay", 0,
                f"lowerdir=/etc,upperdir={scratch}/upper,workdir={scratch}/work",
            )  # fmt: skip
            os.makedirs("/usr/local/libexec", exist_ok=True)
            stage.mount("tmpfs", "/usr/local/libexec", "tmpfs", 0, "mode=0755")
            stage.private_tun(0o600)
            os.environ["SUDO_USER"] = sudo_user
            os.umask(0o077)
            return work()

        return stage.apart(prepared)

    return run


def _state():
    """What of the installation can be seen: mode, owner, group, hash of each path; the group's members."""
    rows = {}
    for path in (setup.DIRECTORY, launch.INSTALLED):
        status = os.stat(path)
        group = grp.getgrgid(status.st_gid).gr_name
        rows[path] = [
            f"{stat.S_IMODE(status.st_mode):o}",
            status.st_uid,
            group,
            status.st_size * (path != setup.DIRECTORY),
        ]
    return [rows, grp.getgrnam(setup.GROUP).gr_mem, sorted(os.listdir(setup.DIRECTORY))]


def test_install_verify_run_remove(on_machine):
    def work():
        added = setup.install()
        state = _state()
        sound = setup.verify_installed()
        again = setup.install()
        group = grp.getgrnam(setup.GROUP).gr_gid
        events = stage.apart(lambda: _run_as_member(group))
        removed = setup.remove()
        left = [os.path.exists(setup.DIRECTORY), setup._group(), setup.remove()]
        return [added, state, sound, again, events, removed, left, setup.verify_installed()]

    added, (paths, members, files), sound, again, events, removed, left, after = on_machine(work)
    size = os.stat(launch.PACKAGED).st_size
    assert added == "nobody"
    assert paths == {
        setup.DIRECTORY: ["755", 0, "root", 0],
        launch.INSTALLED: ["4750", 0, "avne", size],
    }
    assert members == ["nobody"]
    assert files == ["avne-helper", "group-is-ours"]
    assert sound == []
    assert again is None, "is a member already"
    assert events == [["Tun"], ["Started"], ["Exited", 0], ["Gone"]]
    assert removed[0] == launch.INSTALLED
    assert removed[-2:] == ["group avne", setup.DIRECTORY]
    assert left == [False, None, []]
    assert after == [f"{launch.INSTALLED}: No such file or directory"]


def _run_as_member(group):
    stage.become(stage.SETUID._replace(groups=[group]))
    return stage.run_program(launch.INSTALLED, ["true"])


def test_the_commands_of_the_dry_run_do_the_same(on_machine):
    def by_hand():
        for command in setup.plan():
            subprocess.run(command, shell=True, check=True)
        return [_state(), setup.verify_installed()]

    def by_setup():
        setup.install()
        return [_state(), setup.verify_installed()]

    assert on_machine(by_hand) == on_machine(by_setup)


def test_the_commands_of_the_dry_run_undo_it_as_well(on_machine):
    def work():
        setup.install()
        for command in setup.plan(remove=True):
            subprocess.run(command, shell=True, check=True)
        return [os.path.exists(setup.DIRECTORY), setup._group(), setup.plan(remove=True)]

    assert on_machine(work) == [False, None, []]


def test_a_group_that_was_there_before_stays(on_machine):
    def work():
        subprocess.run(["groupadd", setup.GROUP], check=True)
        setup.install()
        setup.remove()
        return setup._group() is not None

    assert on_machine(work)


def test_nobody_is_added_where_root_asks(on_machine):
    for user in ("root", "no-such-user"):
        assert on_machine(lambda: [setup.install(), *grp.getgrnam(setup.GROUP).gr_mem], user) == [None]


def test_only_root_may():
    def work():
        stage.become(stage.ROOTLESS)
        problems = []
        for action in (setup.install, setup.remove):
            with pytest.raises(AvneError) as caught:
                action()
            problems.append([caught.value.problem, caught.value.cure])
        return problems

    assert stage.apart(work) == [["setup needs root", "sudo avne setup"]] * 2


def test_a_helper_that_was_not_built_here_is_not_installed(on_machine, tmp_path, monkeypatch):
    other = tmp_path / "avne-helper"
    other.write_bytes(b"\x7fELF something else")
    other.chmod(0o755)
    monkeypatch.setattr(launch, "PACKAGED", str(other))

    def work():
        with pytest.raises(AvneError) as caught:
            setup.install()
        return [caught.value.problem, os.path.exists(setup.DIRECTORY)]

    problem, there = on_machine(work)
    assert "not the helper that was built" in problem
    assert not there


@pytest.mark.parametrize(
    "spoil",
    [
        lambda: os.mkdir(setup.DIRECTORY) or os.chmod(setup.DIRECTORY, 0o775),
        lambda: os.mkdir(setup.DIRECTORY) or os.chmod(setup.DIRECTORY, 0o757),
        lambda: os.mkdir(setup.DIRECTORY) or os.chown(setup.DIRECTORY, stage.UID, 0),
        lambda: os.chmod("/usr/local/libexec", 0o1777),
        lambda: os.symlink("/tmp", setup.DIRECTORY),
    ],
    ids=["group", "others", "owner", "above", "symlink"],
)
def test_a_directory_that_others_may_change_is_refused(on_machine, spoil):
    def work():
        spoil()
        with pytest.raises(AvneError) as caught:
            setup.install()
        return [caught.value.problem, os.path.exists(launch.INSTALLED)]

    problem, there = on_machine(work)
    assert "not a directory that only root can change" in problem
    assert not there


def _flip(path):
    with open(path, "r+b") as file:
        file.seek(1000)
        file.write(b"spoilt")
    os.chmod(path, setup.MODE)  # a write takes the bit away


SPOILT = {
    "hash": (lambda path: _flip(path), "not the helper of this version"),
    "mode": (lambda path: os.chmod(path, 0o4755), "4755"),
    "no bit": (lambda path: os.chmod(path, 0o750), "mode is 750"),
    "owner": (lambda path: os.chown(path, stage.UID, -1) or os.chmod(path, setup.MODE), "root"),
    "group": (lambda path: os.chown(path, -1, stage.GID) or os.chmod(path, setup.MODE), "group"),
    "link": (lambda path: os.link(path, path + "2"), "hard link"),
    "symlink": (lambda path: os.rename(path, path + "2") or os.symlink(path + "2", path), "regular"),
    "directory": (lambda path: os.chmod(os.path.dirname(path), 0o777), "only root"),
    "nosuid": (lambda path: stage.mount("none", "/usr/local/libexec", "", 32 | stage.MS_BIND | 2), "nosuid"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_is_wrong_with_it_is_found(on_machine, name):
    spoil, words = SPOILT[name]

    def work():
        setup.install()
        spoil(launch.INSTALLED)
        return setup.verify_installed()

    problems = on_machine(work)
    assert any(words in problem for problem in problems), problems


def test_an_interrupted_installation_leaves_the_old_one(on_machine, monkeypatch):
    def work():
        setup.install()
        before = _state()
        monkeypatch.setattr(os, "rename", _no_space)
        with pytest.raises(OSError, match="No space"):
            setup.install()
        return [_state() == before, sorted(os.listdir(setup.DIRECTORY))]

    assert on_machine(work) == [True, ["avne-helper", "group-is-ours"]]


def test_a_hard_link_of_a_former_helper_is_worth_nothing(on_machine):
    """Else its faults would stay for ever: with the other name gone it looks like the only one."""

    def work():
        modes = []
        for again in (setup.install, setup.remove):
            setup.install()
            os.link(launch.INSTALLED, "/usr/local/libexec/kept")
            again()
            status = os.stat("/usr/local/libexec/kept")
            modes.append([stat.S_IMODE(status.st_mode), status.st_nlink])
            os.unlink("/usr/local/libexec/kept")
        return modes

    assert on_machine(work) == [[0, 1], [0, 1]]


def _no_space(*_, **__):
    raise OSError(28, "No space left on device")


def test_who_is_not_a_member_is_told(on_machine):
    def work():
        setup.install()
        stage.become(stage.ROOTLESS)
        return setup.verify_installed()

    (problem,) = on_machine(work)
    assert "not in the group avne" in problem


def test_a_member_may_verify(on_machine):
    def work():
        setup.install()
        stage.become(stage.SETUID._replace(groups=[grp.getgrnam(setup.GROUP).gr_gid]))
        return setup.verify_installed()

    assert on_machine(work) == []


def test_the_hash_is_that_of_the_packaged_helper():
    with open(launch.PACKAGED, "rb") as file:
        assert setup.hashlib.sha256(file.read()).hexdigest() == _build.HELPER_SHA256
