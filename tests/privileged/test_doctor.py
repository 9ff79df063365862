# SPDX-License-Identifier: GPL-3.0-or-later
"""What the doctor says where something is wrong: each fault is made, on a machine of the test's own."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import json
import os
import resource
import shutil
import struct
import sys
from pathlib import Path

import pytest

from avne.cli import doctor
from avne.doctor import helpers, machine
from avne.privileged import _build, explain, launch, setup  # before the process is somebody else
from tests.privileged import stage
from tests.privileged.stage import ROOT, ROOTLESS, SETUID
from tests.privileged.test_stages import _in_user_namespace

LATER = (_build, explain)
STAGES = [name for name, _ in helpers.GROUPS]


def _examine(helper, mode=ROOTLESS, arrange=None, before=None, installed=False):
    """``[exit code, {name: [state, detail, cure]}]`` for the user of `mode`.

    `arrange`, as root, changes the machine first; `before` is of the user's own process."""

    def work():
        stage.private_mounts()
        stage.private_tun(mode.tun)
        launch.PACKAGED = str(helper)
        launch.INSTALLED = setup.DIRECTORY + "/avne-helper"
        os.makedirs("/usr/local/libexec", exist_ok=True)
        stage.mount("tmpfs", "/usr/local/libexec", "tmpfs", 0, "mode=0755")
        if installed:
            _install(helper)
        if arrange:
            arrange()
        stage.become(mode)
        os.environ.update(HOME="/nonexistent", AVNE_UPSTREAM="tor://127.0.0.1:1")
        os.environ["XDG_STATE_HOME"] = f"/dev/shm/avne-{mode.uid}-doctor"
        if before:
            before()
        sys.stdout = io.StringIO()
        code = doctor.doctor(as_json=True)
        rows = json.loads(sys.stdout.getvalue())
        shutil.rmtree(os.environ["XDG_STATE_HOME"], ignore_errors=True)
        shutil.rmtree(f"/dev/shm/avne-{mode.uid}", ignore_errors=True)
        return [code, {row["name"]: [row["state"], row["detail"], row["cure"]] for row in rows}]

    return stage.apart(work)


def _install(helper):
    os.mkdir(setup.DIRECTORY)
    shutil.copyfile(helper, launch.INSTALLED)
    os.chown(launch.INSTALLED, 0, stage.GROUPS[0])
    os.chmod(launch.INSTALLED, 0o4750)
    setup._group = lambda: stage.GROUPS[0]


def _states(rows, kind):
    return [rows[f"{kind}: {name}"][0] for name in STAGES if f"{kind}: {name}" in rows]


@pytest.mark.parametrize("mode", [ROOT, ROOTLESS], ids=lambda mode: mode.name)
def test_a_whole_machine_passes_every_stage(helper, mode):
    _, rows = _examine(helper, mode)
    assert _states(rows, mode.name) == ["ok"] * (len(STAGES) - (mode is ROOT))
    for name in ("user namespaces", "seccomp", "/proc and /sys", "helper", "/dev/net/tun", "setuid helper"):
        assert rows[name][0] == "ok", rows[name]


def test_what_fails_decides_the_exit_status(helper):
    """Nothing answers there; all else is well."""
    code, rows = _examine(helper)
    assert code == 1
    assert [name for name, row in rows.items() if row[0] == "fails"] == ["upstream"]
    assert "cannot reach Tor" in rows["upstream"][1]


# ---- user namespaces ------------------------------------------------------------------------


def _filter(number, error, argument=None, test=0x45):
    """From here on that system call fails so (seccomp(2)); if `argument` is given, only where the first one
    has a bit of it (`test` BPF_JSET), or is it (BPF_JEQ)."""
    load, jump, ret = 0x20, 0x15, 0x06
    code = [struct.pack("=HBBI", load, 0, 0, 0)]
    code.append(struct.pack("=HBBI", jump, 0, 1 if argument is None else 3, number))
    if argument is not None:
        code += [struct.pack("=HBBI", load, 0, 0, 16), struct.pack("=HBBI", test, 0, 1, argument)]
    code.append(struct.pack("=HBBI", ret, 0, 0, 0x00050000 | error))
    code.append(struct.pack("=HBBI", ret, 0, 0, 0x7FFF0000))
    data = ctypes.create_string_buffer(b"".join(code))
    program = struct.pack("@HxxxxxxP", len(code), ctypes.addressof(data))
    libc = ctypes.CDLL(None, use_errno=True)
    stage.checked(libc.prctl(38, 1, 0, 0, 0))
    stage.checked(libc.prctl(22, 2, program, 0, 0))


UNSHARE = {"x86_64": 272, "aarch64": 97}[os.uname().machine]
PRCTL = {"x86_64": 157, "aarch64": 167}[os.uname().machine]
SECCOMP = {"x86_64": 317, "aarch64": 277}[os.uname().machine]


def test_user_namespaces_are_switched_off(helper):
    code, rows = _examine(helper, arrange=lambda: _in_user_namespace({"max_user_namespaces": 0}))
    assert code == 1
    for name in ("user namespaces", "rootless: user namespace"):
        state, detail, cure = rows[name]
        assert state == "fails"
        assert "user.max_user_namespaces=0" in detail
        assert "sysctl user.max_user_namespaces=15000" in cure
        assert "sudo avne setup" in cure
    assert _states(rows, "rootless") == ["ok", "fails"]


def test_where_the_setuid_helper_stands_in_it_is_less_and_no_failure(helper):
    def close():
        os.chmod("/dev/net/tun", 0o600)

    _, rows = _examine(helper, arrange=close, installed=True)
    assert rows["rootless: tun"][0] == "limited"
    assert "may not be opened" in rows["rootless: tun"][1]
    assert "the next helper is tried" in rows["rootless: tun"][1]
    assert rows["/dev/net/tun"][0] == "limited"
    assert "crw-------" in rows["/dev/net/tun"][1]
    assert rows["setuid helper"][0] == "ok"
    assert _states(rows, "setuid") == ["ok"] * (len(STAGES) - 1)


def _stand_in(name, value):
    """A /proc/sys/kernel where that is what the setting is."""

    def arrange():
        values = {path.name: path.read_text() for path in Path("/proc/sys/kernel").glob("cap_last_cap")}
        stage.mount("tmpfs", "/proc/sys/kernel", "tmpfs", 0, "mode=0755")
        for file, text in {**values, name: value}.items():
            Path("/proc/sys/kernel", file).write_text(text)

    return arrange


def test_debian_s_switch_is_named(helper):
    _, rows = _examine(
        helper, arrange=_stand_in("unprivileged_userns_clone", "0\n"),
        before=lambda: _filter(UNSHARE, errno.EPERM, 0x10000000),
    )  # fmt: skip
    state, detail, cure = rows["user namespaces"]
    assert state == "fails"
    assert "kernel.unprivileged_userns_clone=0" in detail
    assert "sysctl kernel.unprivileged_userns_clone=1" in cure


def test_ubuntu_s_restriction_is_named_with_its_profile(helper):
    """The namespace can be made there, and gives no right in it: the mounts are refused."""
    number = {"x86_64": 165, "aarch64": 40}[os.uname().machine]
    _, rows = _examine(
        helper, arrange=_stand_in("apparmor_restrict_unprivileged_userns", "1\n"),
        before=lambda: _filter(number, errno.EACCES),
    )  # fmt: skip
    assert rows["user namespaces"][0] == "ok"
    assert "AppArmor" in rows["user namespaces"][1]
    state, detail, cure = rows["rootless: namespaces"]
    assert state == "fails"
    assert "AppArmor restricts" in detail
    assert "sudo avne setup --apparmor" in cure


def test_a_container_s_seccomp_is_named(helper):
    _, rows = _examine(helper, before=lambda: _filter(UNSHARE, errno.EPERM))
    assert rows["user namespaces"][0] == "fails"
    assert "--security-opt seccomp=unconfined" in rows["user namespaces"][2]
    assert "somebody else's" in rows["seccomp"][1]


# ---- the kernel, /proc and /sys -------------------------------------------------------------


def test_a_kernel_without_filters(helper):
    def refuse():
        _filter(SECCOMP, errno.EINVAL)
        _filter(PRCTL, errno.EINVAL, 22, test=0x15)

    _, rows = _examine(helper, before=refuse)
    assert rows["seccomp"][0] == "fails"
    assert "CONFIG_SECCOMP_FILTER" in rows["seccomp"][2]
    assert _states(rows, "rootless")[-1] == "fails"


def test_without_landlock_there_is_less(helper):
    _, rows = _examine(helper, before=lambda: _filter(444, errno.EOPNOTSUPP))
    assert rows["kernel"][0] == "limited"
    assert "no Landlock" in rows["kernel"][1]


def test_a_masked_proc(helper):
    def mask():
        stage.mount("tmpfs", "/proc/fs", "tmpfs", 1, "size=0")

    _, rows = _examine(helper, arrange=mask)
    assert rows["/proc and /sys"][0] == "limited"
    assert "/proc/fs" in rows["/proc and /sys"][1]
    assert rows["rootless: /proc, /sys"][0] == "fails"
    assert "a new /proc cannot be mounted" in rows["rootless: /proc, /sys"][1]
    assert _states(rows, "rootless")[:5] == ["ok"] * 5


def test_little_memory_and_few_files(helper):
    def arrange():
        text = Path("/proc/meminfo").read_text().splitlines()
        small = [line if "MemAvailable" not in line else "MemAvailable:   100000 kB" for line in text]
        place = helper.parent / "setuid"
        stage.mount("tmpfs", place, "tmpfs", 0, "mode=0755")
        (place / "meminfo").write_text("\n".join(small) + "\n")
        stage.mount(str(place / "meminfo"), "/proc/meminfo", "", stage.MS_BIND)
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))

    _, rows = _examine(helper, ROOT, arrange=arrange)
    assert rows["memory"][:2] == ["limited", "97 MiB are free"]
    assert rows["open files"][0] == "limited"
    assert "200 files" in rows["open files"][1]


def test_a_limit_of_addresses():
    def work():
        resource.setrlimit(resource.RLIMIT_AS, (512 << 20, 512 << 20))
        with contextlib.suppress(machine.Limited):
            return machine.memory()
        return "limited"

    assert stage.apart(work) == "limited"


# ---- the tun and the helpers ----------------------------------------------------------------


def test_no_tun_at_all(helper):
    _, rows = _examine(helper, arrange=lambda: os.unlink("/dev/net/tun"))
    for name in ("/dev/net/tun", "rootless: tun"):
        assert rows[name][0] == "fails"
        assert "modprobe tun" in rows[name][2]


def test_a_node_that_is_no_tun(helper):
    def replace():
        os.unlink("/dev/net/tun")
        os.mknod("/dev/net/tun", 0o20666, os.makedev(1, 5))

    _, rows = _examine(helper, arrange=replace)
    assert rows["/dev/net/tun"][0] == "fails"
    assert "is not the tun device" in rows["/dev/net/tun"][1]
    assert rows["rootless: tun"][0] == "fails"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: os.chmod(path, 0o777), "others may exchange"),
        (lambda path: os.chown(path, 54999, 0), "others may exchange"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"), "not the helper that was built"),
        (lambda path: os.chmod(path, 0o644), "cannot be executed"),
        (lambda path: os.unlink(path), "the helper is missing"),
    ],
    ids=["mode", "owner", "hash", "not-executable", "missing"],
)
def test_what_is_wrong_with_the_package_s_helper(helper, spoil, said):
    def arrange():
        place = helper.parent / "setuid"
        stage.mount("tmpfs", place, "tmpfs", 0, "mode=0755")
        launch.PACKAGED = shutil.copy(helper, place / "avne-helper")
        spoil(Path(launch.PACKAGED))

    code, rows = _examine(helper, arrange=arrange)
    assert (code, rows["helper"][0]) == (1, "fails")
    assert said in rows["helper"][1]


def _remount_nosuid():
    stage.mount("/usr/local/libexec", "/usr/local/libexec", "", stage.MS_BIND)
    stage.mount("none", "/usr/local/libexec", "", stage.MS_BIND | 0x20 | 2)


@pytest.mark.parametrize(
    ("spoil", "state", "said"),
    [
        (lambda: os.chmod(launch.INSTALLED, 0o755), "fails", "its mode is 755"),
        (lambda: os.chown(launch.INSTALLED, 54999, stage.GROUPS[0]), "fails", "does not belong to root"),
        (_remount_nosuid, "fails", "nosuid"),
        (lambda: os.link(launch.INSTALLED, launch.INSTALLED + "2"), "fails", "second name"),
        (lambda: os.chmod(setup.DIRECTORY, 0o777), "fails", "only root can change"),
    ],
    ids=["mode", "owner", "nosuid", "link", "directory"],
)
def test_what_is_wrong_with_the_setuid_helper(helper, spoil, state, said):
    code, rows = _examine(helper, SETUID, arrange=spoil, installed=True)
    assert (code, rows["setuid helper"][0]) == (1, state)
    assert said in rows["setuid helper"][1]
    assert "sudo avne setup" in rows["setuid helper"][2]


def test_who_is_not_in_its_group_is_told_and_needs_it_not(helper):
    stranger = ROOTLESS._replace(groups=[])
    _, rows = _examine(helper, stranger, installed=True)
    assert rows["setuid helper"][0] == "limited"
    assert "you may not run it" in rows["setuid helper"][1]
    assert "usermod -aG avne" in rows["setuid helper"][2]
    assert _states(rows, "rootless") == ["ok"] * len(STAGES)
