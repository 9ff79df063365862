# SPDX-License-Identifier: GPL-3.0-or-later
"""`sudo avne setup --apparmor`: a profile for what only root can change, taken by the real parser.

The kernels of these tests restrict nothing by AppArmor: what the profile does there is not shown here.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from avne.cli import setup as command
from avne.doctor import Limited, helpers
from avne.errors import AvneError
from avne.privileged import _build, apparmor, explain, launch, setup
from tests.privileged import stage
from tests.privileged.test_setup import on_machine

__all__ = ("on_machine",)
LATER = (_build, explain)


def _parser():
    return shutil.which("apparmor_parser", path=setup.PATH)


def _knows_namespaces():
    version = subprocess.run([_parser(), "--version"], capture_output=True, text=True, check=True).stdout
    return int(re.search(r"version (\d+)", version)[1]) >= 4


def _parse(text, path):
    path.write_text(text)
    words = [_parser(), "--skip-kernel-load", "--skip-cache", path]
    return subprocess.run(words, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "path", ["/usr/lib/python3/dist-packages/avne/privileged/avne-helper", launch.USERNS]
)
def test_the_parser_takes_the_profile(tmp_path, path):
    """One before AppArmor 4 knows no `userns`: it takes all the rest, and names that line."""
    text = apparmor.profile_text(path)
    done = _parse(text, tmp_path / "profile")
    if _knows_namespaces():
        assert (done.returncode, done.stdout) == (0, "")
        return
    lines = text.splitlines(keepends=True)
    known = [line for line in lines if line.strip() not in ("userns,", "abi <abi/4.0>,")]
    assert len(known) == len(lines) - 2
    assert _parse("".join(known), tmp_path / "profile").returncode == 0
    rest = [line for line in lines if not line.startswith("abi")]
    number = 1 + [line.strip() for line in rest].index("userns,")
    assert f"at line {number}: syntax error" in _parse("".join(rest), tmp_path / "profile").stderr


def _without_parser():
    setup.PATH = "/nonexistent"


def _changeable_package():
    """As in a venv of the user's own."""
    place = Path("/dev/shm/avne-test-venv")
    stage.mount("tmpfs", "/dev/shm", "tmpfs", 0, "mode=1777")
    place.mkdir(mode=0o755)
    launch.PACKAGED = shutil.copy(launch.PACKAGED, place)
    os.chown(place, stage.UID, stage.GID)
    os.chown(launch.PACKAGED, stage.UID, stage.GID)


def _state():
    rows = []
    for path in (apparmor.PROFILE, launch.USERNS):
        if os.path.exists(path):
            status = os.stat(path)
            rows.append([path, f"{stat.S_IMODE(status.st_mode):o}", status.st_uid, status.st_gid])
    return [rows, Path(apparmor.PROFILE).read_text(), apparmor.problems()]


def test_the_package_s_own_helper_where_only_root_can_change_it(on_machine, helper):
    def work():
        _without_parser()
        launch.PACKAGED = str(helper)
        done = apparmor.install()
        state = _state()
        told = helpers.apparmor()
        removed = apparmor.remove()
        return [done, state, told, removed, os.path.exists(apparmor.PROFILE), apparmor.remove()]

    done, (rows, text, wrong), told, removed, left, again = on_machine(work)
    assert done[0] == f"installed {apparmor.PROFILE}"
    assert rows == [[apparmor.PROFILE, "644", 0, 0]]
    assert f'"{helper}"' in text
    assert (wrong, removed, left, again) == ([], [apparmor.PROFILE], False, [])
    assert str(helper) in told


def test_a_copy_where_others_can_change_the_package(on_machine):
    def work():
        _without_parser()
        _changeable_package()
        done = apparmor.install()
        state = _state()
        tried = stage.apart(lambda: [stage.become(stage.ROOTLESS), launch.candidates()][1])
        events = stage.apart(_run_as_user)
        return [done, state, tried, events, apparmor.remove(), os.path.exists(setup.DIRECTORY)]

    done, (rows, text, wrong), tried, events, removed, left = on_machine(work)
    assert done[:2] == [f"installed {launch.USERNS}", f"installed {apparmor.PROFILE}"]
    assert rows == [[apparmor.PROFILE, "644", 0, 0], [launch.USERNS, "755", 0, 0]]
    assert f'"{launch.USERNS}"' in text
    assert wrong == []
    assert tried[1:] == [launch.USERNS]
    assert events == [["Tun"], ["Started"], ["Exited", 0], ["Gone"]]
    assert removed == [apparmor.PROFILE, launch.USERNS, setup.DIRECTORY]
    assert not left


def _run_as_user():
    os.chmod("/dev/net/tun", 0o666)
    stage.become(stage.ROOTLESS)
    return stage.run_program(launch.USERNS, ["true"])


def test_a_parser_that_does_not_know_it_leaves_nothing(on_machine):
    """Of AppArmor 3; one of 4 takes it, and the profile is there."""

    def work():
        try:
            apparmor.install()
        except AvneError as error:
            return [error.problem, error.cure, sorted(os.listdir("/etc/apparmor.d"))]
        return sorted(os.listdir("/etc/apparmor.d"))

    found = on_machine(work)
    if _knows_namespaces():
        assert "avne-helper" in found
    else:
        problem, cure, files = found
        assert "abi/4.0" in problem
        assert "AppArmor 4" in cure
        assert not [name for name in files if "avne" in name]


@pytest.mark.parametrize("package", [lambda: None, _changeable_package], ids=["root's", "changeable"])
def test_the_commands_of_the_dry_run_do_the_same(on_machine, package):
    def by_hand():
        _without_parser()
        package()
        os.umask(0o022)
        for line in apparmor.plan():
            subprocess.run(line, shell=True, check=True)
        state = _state()
        for line in apparmor.plan(remove=True):
            subprocess.run(line, shell=True, check=True)
        return [state, apparmor.plan(remove=True), os.path.exists(apparmor.PROFILE)]

    def by_setup():
        _without_parser()
        package()
        apparmor.install()
        return _state()

    state, again, left = on_machine(by_hand)
    assert state == on_machine(by_setup)
    assert (again, left) == ([], False)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda: Path(apparmor.PROFILE).write_text("profile x {}\n"), "is not the profile for"),
        (lambda: os.chmod(apparmor.PROFILE, 0o666), "others may change"),
        (lambda: os.chmod(launch.USERNS, 0o777), "others may change it"),
        (lambda: Path(launch.USERNS).write_bytes(b"x"), "not the helper of this version"),
    ],
    ids=["text", "mode", "copy's mode", "copy"],
)
def test_what_is_wrong_with_it_is_found(on_machine, spoil, said):
    def work():
        _without_parser()
        _changeable_package()
        apparmor.install()
        spoil()
        try:
            return helpers.apparmor()
        except Limited as less:
            return less.problem

    assert said in on_machine(work)


def test_a_directory_that_others_may_change_is_refused(on_machine):
    def work():
        _without_parser()
        os.chmod("/etc/apparmor.d", 0o777)
        try:
            apparmor.install()
        except AvneError as error:
            return [error.problem, os.path.exists(apparmor.PROFILE)]
        return []

    problem, left = on_machine(work)
    assert "not a directory that only root can change" in problem
    assert not left


def test_each_of_the_two_goes_alone(on_machine, capsys):
    """And without a flag `--remove` takes both."""

    def work():
        _without_parser()
        _changeable_package()
        path = setup.PATH
        setup.PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
        command.setup(False, False)
        setup.PATH = path
        command.setup(False, False, ["apparmor"])
        both = [os.path.exists(launch.INSTALLED), os.path.exists(launch.USERNS)]
        command.setup(True, False, ["apparmor"])
        one = [os.path.exists(launch.INSTALLED), os.path.exists(launch.USERNS)]
        command.setup(False, False, ["apparmor"])
        setup.PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
        command.setup(True, False)
        return [both, one, os.path.exists(setup.DIRECTORY), os.path.exists(apparmor.PROFILE)]

    assert on_machine(work) == [[True, True], [True, False], False, False]


def test_a_name_that_means_something_to_apparmor_is_not_put_into_a_profile(monkeypatch):
    for name in ("/usr/lib/a b/avne-helper", "/usr/lib/{a,b}/avne-helper", "/usr/lib/*/x", '/usr/lib/"'):
        monkeypatch.setattr(launch, "PACKAGED", name)
        assert apparmor.helper_path() == launch.USERNS
