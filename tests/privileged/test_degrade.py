# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host forbids for real is replaced by something as tight, or stops the start and says the cure."""

from __future__ import annotations

import errno
import os

import pytest

from avne.privileged import launch
from tests.privileged import forbid, stage
from tests.privileged.stage import ROOT, ROOTLESS, SETUID
from tests.privileged.test_stages import _events, _failed, _in_user_namespace

CANARY = "192.0.2.1"  # what the host's own files say


def _sh(helper, mode, script, arrange=None, **settings):
    done = stage.inside(helper, mode, ["sh", "-c", script], arrange=arrange, **settings)
    assert done.status == 0, done
    return done


# ---- /etc -----------------------------------------------------------------------------------


def _etc(helper, overlays=0):
    """An /etc of the test's own, which is so many overlays deep."""
    etc = helper.parent / "etc"
    etc.mkdir(exist_ok=True)
    stage.mount("tmpfs", etc, "tmpfs", 0, "mode=0755")
    for name in ("resolv.conf", "hosts", "hostname", "machine-id", "nsswitch.conf", "new", ".hidden"):
        (etc / name).write_text(f"{CANARY}\n")
    (etc / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (etc / "shadow").write_text("root:secret::0:99999:7:::\n")
    (etc / "shadow").chmod(0o600)
    (etc / "ssl").mkdir()
    (etc / "ssl" / "ca").write_text("certificate\n")
    (etc / "closed").mkdir(mode=0o700)
    (etc / "localtime").symlink_to("/usr/share/zoneinfo/UTC")
    os.mkfifo(etc / "fifo")
    if overlays:
        stage.mount("tmpfs", "/mnt", "tmpfs", 0, "mode=0755")
    for number in range(overlays):
        for name in ("upper", "work"):
            os.mkdir(f"/mnt/{number}-{name}")
        options = f"lowerdir={etc},upperdir=/mnt/{number}-upper,workdir=/mnt/{number}-work"
        stage.mount("overlay", etc, "overlay", 0, options)
    stage.mount(str(etc), "/etc", "", stage.MS_BIND)


ETC = {
    "the deepest stack of file systems": lambda helper: _etc(helper, overlays=2),
    "no overlay in a user namespace": lambda helper: (_etc(helper), forbid.mounts(overlay=errno.EPERM)),
    "no overlay at all": lambda helper: (_etc(helper), forbid.mounts(overlay=errno.ENODEV)),
}


def _type_of_etc(done):
    return done.out.split("\n", 1)[0]


LOOK = """
    sed -n 's/.* \\/etc \\(.*\\) - \\([a-z]*\\) .*/\\2/p' /proc/self/mountinfo | tail -1
    cat /etc/hosts /etc/hostname /etc/machine-id /etc/ssl/ca /etc/.hidden; grep ^nameserver /etc/resolv.conf
    readlink /etc/localtime; wc -l < /etc/passwd
    for name in resolv.conf passwd ssl/ca new-one; do (echo x > /etc/$name) 2>&1 | sed 's/.*: //'; done
    ls /etc/closed /etc/shadow > /dev/null 2>&1; cat /etc/shadow 2> /dev/null | wc -l
"""


def test_the_control_is_an_overlay(helper, mode):
    done = _sh(helper, mode, LOOK, lambda: _etc(helper))
    assert _type_of_etc(done) == "overlay"
    _check_etc(done, mode)


def _check_etc(done, mode):
    lines = done.out.splitlines()[1:]
    assert lines[:6] == [
        "127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback", "localhost",
        "00000000000000000000000000000001", "certificate", CANARY,
    ]  # fmt: skip
    assert lines[6:10] == [
        "nameserver 10.213.0.1", "nameserver fd61:766e:6500::1", "/usr/share/zoneinfo/UTC", "1",
    ]  # fmt: skip
    assert lines[10:14] == ["Read-only file system"] * 4
    assert lines[14] == ("1" if mode is ROOT else "0")


@pytest.mark.parametrize("how", ETC)
def test_an_etc_without_overlay_is_as_tight(helper, mode, how):
    done = _sh(helper, mode, LOOK, lambda: ETC[how](helper))
    assert _type_of_etc(done) == "tmpfs"
    _check_etc(done, mode)


def test_no_name_leads_to_what_it_replaces(helper, mode):
    """Neither before nor after the host has renamed it."""

    def rename(_):
        os.rename(helper.parent / "etc" / "new", helper.parent / "etc" / "resolv.conf")
        open(barrier, "w").close()

    def arrange():
        _etc(helper)
        forbid.mounts(overlay=errno.EPERM)

    barrier = helper.parent / "etc" / "renamed"
    script = f"""
        look() {{ grep -rlF {CANARY} /etc /run /var/lib/dbus /proc/self/mountinfo 2> /dev/null | sort; }}
        look; until [ -e {barrier} ]; do :; done; look; grep ^nameserver /etc/resolv.conf
    """

    def work():
        stage.private_mounts()
        stage.private_tun(mode.tun)
        path = stage.setuid_copy(helper) if mode is SETUID else helper
        arrange()
        (helper.parent / "etc").chmod(0o777)
        stage.become(mode)
        return stage.captured(lambda: stage.run_program(path, ["sh", "-c", script], meanwhile=rename))

    done = stage.Outcome(*stage.apart(work))
    once = ["/etc/.hidden", "/etc/new"]
    assert done.out.splitlines() == [*once, *once, "nameserver 10.213.0.1", "nameserver fd61:766e:6500::1"]


# ---- other mounts ---------------------------------------------------------------------------


def test_without_new_terminals_there_are_none(helper, mode):
    """Not the host's, which are what a refusal could be answered with."""
    script = "ls -A /dev/pts | wc -l; ls /dev; [ -c /dev/ptmx ] || echo none"
    control = _sh(helper, mode, script)
    done = _sh(helper, mode, script, lambda: forbid.mounts(devpts=errno.EINVAL))
    assert done.out.splitlines()[-1] == "none" != control.out.splitlines()[-1]
    assert done.out.splitlines()[0] == "0" != control.out.splitlines()[0]


@pytest.mark.parametrize("error", [errno.EPERM, errno.EACCES])
def test_without_a_new_sys_there_is_an_empty_one(helper, mode, error):
    done = _sh(helper, mode, "ls -A /sys | wc -l", lambda: forbid.mounts(sysfs=error))
    assert done.out == "0\n"


@pytest.mark.parametrize("error", [errno.EPERM, errno.EACCES])
@pytest.mark.parametrize("kind", ["proc", "tmpfs"])
def test_what_has_nothing_as_tight_stops_it(helper, mode, kind, error):
    name, number = _failed(helper, mode, lambda _: forbid.mounts(**{kind: error}))
    assert number == error
    assert name in {"proc": ["MOUNT_PROC"], "tmpfs": ["MOUNT_SYS", "MOUNT_RUN"]}[kind], (
        "the first of its kind"
    )


@pytest.mark.parametrize("who", [SETUID, ROOT], ids=lambda mode: mode.name)
def test_with_privilege_a_masked_proc_does_not_matter(helper, who):
    """The kernel's rule is for user namespaces; test_stages.py has what becomes of them."""
    done = _sh(
        helper, who, "ls /proc/fs | wc -l; ls -d /proc/[0-9]* | wc -l",
        lambda: stage.mount("tmpfs", "/proc/fs", "tmpfs", 1, "size=0"),
    )  # fmt: skip
    assert int(done.out.split()[0]) > 0
    assert int(done.out.split()[1]) < 6


# ---- system calls ---------------------------------------------------------------------------


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS])
def test_a_container_s_filter_on_what_is_not_needed(helper, mode, error):
    """Keys are out of the program's reach by the same filter; the others only add to what holds anyway."""

    def arrange():
        names = ("keyctl", "add_key", "request_key", "mount_setattr", "landlock_create_ruleset")
        forbid.calls(clone3=errno.ENOSYS, **dict.fromkeys(names, error))

    keyctl = forbid.NUMBERS["keyctl"]
    code = f"import ctypes; c = ctypes.CDLL(None, use_errno=True); print(c.syscall({keyctl}, 0, -3, 1))"
    done = stage.inside(helper, mode, [stage.PYTHON, "-I", "-S", "-c", code], arrange=arrange)
    assert (done.out, done.err, done.status) == ("-1\n", "", 0)


def test_a_container_s_filter_on_namespaces(helper, mode):
    failed = _failed(helper, mode, lambda _: forbid.calls(unshare=errno.EPERM, clone3=errno.ENOSYS))
    assert failed == ["USER_NAMESPACE" if mode is ROOTLESS else "NAMESPACES", errno.EPERM]


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS])
def test_descriptors_that_cannot_be_closed(helper, mode, error):
    assert _failed(helper, mode, lambda _: forbid.calls(close_range=error)) == ["DESCRIPTORS", error]


def test_the_namespace_that_is_switched_off_is_named(helper):
    """Without one of its own the program would see the session's cgroup."""

    def work():
        stage.private_mounts()
        stage.private_tun(ROOTLESS.tun)
        _in_user_namespace({"max_cgroup_namespaces": 0})
        stage.become(ROOTLESS)
        ((_, *failed),) = stage.run_program(helper, ["true"])
        error = launch.explain(*failed, False)
        return [failed, error.problem, error.cure]

    failed, problem, cure = stage.apart(work)
    assert failed == ["NAMESPACES", errno.ENOSPC]
    assert "user.max_cgroup_namespaces=0" in problem
    assert "sysctl user.max_cgroup_namespaces" in cure


# ---- the tun --------------------------------------------------------------------------------


def _no_second_network(_):
    os.unlink("/dev/net/tun")
    _in_user_namespace({"max_net_namespaces": 1})


def test_neither_tun_nor_veth(helper):
    assert _failed(helper, ROOTLESS, _no_second_network) == ["VETH", errno.ENOSPC]


@pytest.mark.parametrize("who", [ROOTLESS, ROOT], ids=lambda mode: mode.name)
def test_without_a_tun_node_it_is_a_veth_pair(helper, who):
    assert ["Started"] in _events(helper, who, lambda _: os.unlink("/dev/net/tun"))


def test_the_setuid_helper_makes_no_packet_socket(helper):
    """Who may not make a user namespace has no CAP_NET_RAW to open one with."""
    assert _failed(helper, SETUID, lambda _: os.unlink("/dev/net/tun")) == ["TUN_OPEN", errno.ENOENT]
    assert ["Started"] in _events(helper, SETUID, lambda _: os.chmod("/dev/net/tun", 0o600))
