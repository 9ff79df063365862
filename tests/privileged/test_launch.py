# SPDX-License-Identifier: GPL-3.0-or-later
"""launch.py and explain.py: the contract's other half, the choice of the helper, the words."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys

import pytest

import hatch_build
from avne.errors import AvneError
from avne.privileged import explain, launch
from tests.privileged import stage

HEADER = (hatch_build.PRIVILEGED / "request.h").read_text()


def test_the_stages_are_those_of_the_header():
    assert list(launch.STAGES) == re.findall(r"AVNE_STAGE_(\w+)", HEADER)


def test_the_types_are_those_of_the_header():
    names = re.search(r"enum avne_type \{(.*?)\}", HEADER, re.DOTALL).group(1)
    for number, name in enumerate(re.findall(r"AVNE_(\w+)", names), 1):
        assert getattr(launch, name) == number


def test_no_start_up_time_is_lost_on_imports():
    code = "import sys; old = set(sys.modules); import avne.privileged.launch; print(*set(sys.modules) - old)"
    words = [sys.executable, "-I", "-c", code]
    out = os.memfd_create("out")
    pid = os.posix_spawn(words[0], words, {}, file_actions=[(os.POSIX_SPAWN_DUP2, out, 1)])
    assert os.waitpid(pid, 0)[1] == 0
    loaded = set(os.pread(out, 65536, 0).decode().split())
    os.close(out)
    assert "avne.privileged.launch" in loaded
    assert not loaded & {
        "subprocess",
        "dataclasses",
        "hashlib",
        "logging",
        "asyncio",
        "pathlib",
        "avne.privileged.explain",
    }


def test_a_helper_of_another_version_says_so_itself(helper, tmp_path):
    other = tmp_path / "avne-helper"
    layout = launch.layout().to_bytes(8, "little")
    data = helper.read_bytes()
    assert layout in data
    other.write_bytes(data.replace(layout, (launch.layout() ^ 1).to_bytes(8, "little")))
    other.chmod(0o755)
    assert stage.run_program(other, ["true"]) == [["Failed", "REQUEST", errno.EPROTO]]


def test_something_else_that_answers_is_no_helper(tmp_path):
    other = tmp_path / "avne-helper"
    other.write_text(f"#!{stage.PYTHON} -S\nimport os\nos.write(3, b'x' * 48)\nos.read(3, 100)\n")
    other.chmod(0o755)
    assert stage.run_program(other, ["true"]) == [["Failed", "REQUEST", errno.EPROTO]]


def test_something_that_says_nothing_is_gone():
    assert stage.run_program("/bin/true", ["true"]) == [["Gone"]]


@pytest.mark.parametrize("path", ["/nowhere/avne-helper", "/etc/passwd", "/etc"])
def test_a_helper_that_cannot_be_started(path):
    with pytest.raises(AvneError, match=re.escape(path)):
        launch.Environment(path)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package's own helper and an installed one, both missing at first."""
    monkeypatch.setattr(launch, "PACKAGED", str(tmp_path / "packaged"))
    monkeypatch.setattr(launch, "INSTALLED", str(tmp_path / "installed"))
    return tmp_path


def _make(path, mode=0o755):
    shutil.copy("/bin/true", path)
    os.chmod(path, mode)


def _candidates(choice, mode=stage.ROOTLESS):
    """The names of the helpers that a user gets, or the problem."""

    def work():
        stage.become(mode)
        try:
            return [os.path.basename(path) for path in launch.candidates(choice)]
        except AvneError as error:
            return error.problem

    return stage.apart(work)


def test_which_helpers_are_tried(package):
    for directory in (package, *package.parents):
        if directory.stat().st_uid == os.getuid() and "pytest" in str(directory):
            directory.chmod(0o755)
    assert "missing" in _candidates("auto")
    _make(package / "packaged", 0o644)
    assert "cannot be executed" in _candidates("auto")
    os.chmod(package / "packaged", 0o755)
    assert _candidates("auto") == _candidates("rootless") == ["packaged"]
    assert "not installed" in _candidates("setuid")
    _make(package / "installed", 0o750)
    assert _candidates("auto") == ["packaged"]
    assert "group avne" in _candidates("setuid")
    os.chmod(package / "installed", 0o755)
    assert _candidates("auto") == ["packaged", "installed"]
    assert _candidates("rootless") == ["packaged"]
    assert _candidates("setuid") == ["installed"]
    for choice in ("auto", "rootless", "setuid"):
        assert _candidates(choice, stage.ROOT) == ["packaged"], "root needs no setuid"


def test_where_the_setuid_helper_is_worth_a_try():
    worth = {name for name in launch.STAGES if launch.another_may_work(name)}
    assert {"USER_NAMESPACE", "ID_MAP", "NAMESPACES", "TUN_OPEN", "MOUNT_PROC", "MOUNT_ETC"} <= worth
    assert not worth & {"REQUEST", "STDIO", "IDENTITY", "DROP", "SEAL", "GO", "EXEC"}


@pytest.mark.parametrize("name", launch.STAGES)
def test_every_failure_has_words_and_a_cure(name):
    for setuid in (False, True):
        for error in [0, *errno.errorcode]:
            found = launch.explain(name, error, setuid, "wget")
            assert found.problem
            assert not found.problem.endswith(".")
            assert found.cure
            code = {"EXEC": 127 if error == errno.ENOENT else 126}.get(name, 125)
            assert found.exit_code == code


SETTINGS = {
    "user/max_user_namespaces": "user.max_user_namespaces=0",
    "kernel/unprivileged_userns_clone": "kernel.unprivileged_userns_clone=0",
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_switch_that_is_off_is_named(monkeypatch, name):
    monkeypatch.setattr(explain, "setting", lambda asked: "0" if asked == name else "")
    found = launch.explain("USER_NAMESPACE", errno.ENOSPC, False)
    assert SETTINGS[name] in found.problem
    assert "sysctl" in found.cure
    assert "sudo avne setup" in found.cure


def test_ubuntu_s_restriction_is_named(monkeypatch):
    monkeypatch.setattr(explain, "setting", lambda name: "1" if "apparmor" in name else "")
    monkeypatch.setattr(explain, "in_container", lambda: False)
    for name in ("USER_NAMESPACE", "ID_MAP", "MOUNT_PRIVATE", "ADDRESSES"):
        assert "AppArmor" in launch.explain(name, errno.EPERM, False).problem


def test_a_container_is_told_what_it_needs(monkeypatch):
    monkeypatch.setattr(explain, "setting", lambda _: "")
    monkeypatch.setattr(explain, "in_container", lambda: True)
    for name in ("USER_NAMESPACE", "NAMESPACES", "MOUNT_PROC"):
        assert "--security-opt" in launch.explain(name, errno.EPERM, False).cure


@pytest.mark.parametrize(
    ("error", "words"), [(errno.ENOENT, "no /dev/net/tun"), (errno.EACCES, "not be opened")]
)
def test_the_tun_s_failures(error, words):
    assert words in launch.explain("TUN_OPEN", error, False).problem


def test_what_could_not_be_executed_is_named():
    assert launch.explain("EXEC", errno.ENOENT, False, "wgett").problem == "wgett: not found"
    assert launch.explain("EXEC", errno.EACCES, False, "./x").problem == "./x: Permission denied"


def test_another_version_is_cured_by_installing_again():
    assert "version" in launch.explain("REQUEST", errno.EPROTO, True).problem
    assert "sudo avne setup" in launch.explain("REQUEST", errno.EPROTO, True).cure
    assert "pip install" in launch.explain("REQUEST", errno.EPROTO, False).cure
