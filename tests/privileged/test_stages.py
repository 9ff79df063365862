# SPDX-License-Identifier: GPL-3.0-or-later
"""Each step that fails says which it was, and with what errno; the helper believes nobody."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import shutil
import socket
import struct

import pytest

from avne.privileged import launch
from tests.privileged import stage
from tests.privileged.stage import ROOT, ROOTLESS, SETUID

MISUSED = 126


def _events(helper, mode, arrange=None):
    """The events of `true` as the user of `mode`; `arrange`, as root, changes the machine first."""

    def work():
        stage.private_mounts()
        stage.private_tun(mode.tun)
        path = stage.setuid_copy(helper) if mode is SETUID else helper
        path = (arrange and arrange(path)) or path
        stage.become(mode)
        return stage.run_program(path, ["true"])

    return stage.apart(work)


def _failed(helper, mode, arrange):
    ((name, *failure),) = _events(helper, mode, arrange)
    assert name == "Failed"
    return failure


# ---- the machine ----------------------------------------------------------------------------


def test_a_node_that_is_no_tun(helper, mode):
    def replace(_):
        os.unlink("/dev/net/tun")
        os.symlink("/dev/zero", "/dev/net/tun")

    assert _failed(helper, mode, replace)[0] == "TUN_CONFIGURE"


def _in_user_namespace(limits):
    """Be root of a user namespace with all its ids, where `limits` of /proc/sys/user hold."""
    go_in, go_out = os.pipe()
    done_in, done_out = os.pipe()
    parent = os.getpid()
    mapper = os.fork()
    if mapper == 0:
        os.read(go_in, 1)
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{parent}/{name}", "w") as file:
                file.write("0 0 100000")
        os.write(done_out, b"x")
        os._exit(0)
    stage.unshare(stage.CLONE_NEWUSER)
    os.write(go_out, b"x")
    os.read(done_in, 1)
    os.waitpid(mapper, 0)
    for name, value in limits.items():
        with open(f"/proc/sys/user/{name}", "w") as file:
            file.write(str(value))


def test_user_namespaces_are_switched_off(helper):
    failed = _failed(helper, ROOTLESS, lambda _: _in_user_namespace({"max_user_namespaces": 0}))
    assert failed == ["USER_NAMESPACE", errno.ENOSPC]


def test_the_same_machine_but_for_the_switch(helper):
    """The control: it was the limit that failed."""
    assert ["Started"] in _events(helper, ROOTLESS, lambda _: _in_user_namespace({}))


def test_another_namespace_is_the_one_that_cannot_be_had(helper):
    failed = _failed(helper, ROOTLESS, lambda _: _in_user_namespace({"max_net_namespaces": 0}))
    assert failed == ["NAMESPACES", errno.ENOSPC]


def test_a_chroot(helper):
    def chroot(_):
        root = helper.parent / "setuid"
        stage.mount("tmpfs", root, "tmpfs", 0, "mode=0755")
        for name in ("proc", "dev"):
            (root / name).mkdir()
            stage.mount(f"/{name}", root / name, "", stage.MS_BIND | stage.MS_REC)
        shutil.copy(helper, root / "helper")
        os.chroot(root)
        os.chdir("/")
        return "/helper"

    assert _failed(helper, ROOTLESS, chroot) == ["USER_NAMESPACE", errno.EPERM]


def test_a_masked_proc_is_not_taken_for_a_new_one(helper):
    """As in a container: the kernel gives no new /proc where the old one is partly covered."""

    def mask(_):
        stage.mount("tmpfs", "/proc/fs", "tmpfs", 1, "size=0")

    assert _failed(helper, ROOTLESS, mask) == ["MOUNT_PROC", errno.EPERM]


def test_a_masked_sys_gives_an_empty_one(helper):
    def work():
        stage.private_mounts()
        stage.private_tun(ROOTLESS.tun)
        stage.mount("tmpfs", "/sys/class", "tmpfs", 1, "size=0")
        stage.become(ROOTLESS)
        return stage.captured(
            lambda: stage.run_program(helper, ["sh", "-c", "ls -A /sys | wc -l; touch /sys/x"])
        )

    done = stage.Outcome(*stage.apart(work))
    assert done.out == "0\n"
    assert "Read-only" in done.err


def test_no_run(helper):
    def hide(_):
        """A root file system without /run."""
        root = helper.parent / "setuid"
        stage.mount("tmpfs", root, "tmpfs", 0, "mode=0755")
        for name in ("proc", "dev", "sys", "etc", "usr"):
            (root / name).mkdir()
            stage.mount(f"/{name}", root / name, "", stage.MS_BIND | stage.MS_REC)
        shutil.copy(helper, root / "helper")
        os.chdir(root)
        pivot = {"x86_64": 155, "aarch64": 41}[os.uname().machine]
        stage.checked(ctypes.CDLL(None, use_errno=True).syscall(pivot, b".", b"."))
        stage.checked(ctypes.CDLL(None, use_errno=True).umount2(b".", 2))
        os.chdir("/")
        return "/helper"

    assert _failed(helper, ROOT, hide) == ["MOUNT_RUN", errno.ENOENT]


# ---- who starts it --------------------------------------------------------------------------


def _chmod(mode, owner=None):
    def arrange(path):
        if owner is not None:
            os.chown(path, owner, stage.GID)
        os.chmod(path, mode)

    return arrange


def test_a_hard_link_of_the_setuid_helper(helper):
    def link(path):
        os.link(path, path.parent / "kept")
        return path.parent / "kept"

    assert _failed(helper, SETUID, link) == ["IDENTITY", errno.EPERM]


@pytest.mark.parametrize("mode", [0o4770, 0o4757, 0o6750])
def test_a_setuid_helper_that_others_may_write_or_with_a_group_s_rights(helper, mode):
    arrange = _chmod(mode)
    if mode == 0o6750:  # the group of the file must be another than ours to count

        def arrange(path):
            os.chown(path, 0, stage.GROUPS[0])
            os.chmod(path, 0o6750)

    assert _failed(helper, SETUID, arrange) == ["IDENTITY", errno.EPERM]


def test_a_helper_that_is_setuid_to_somebody_else(helper):
    assert _failed(helper, SETUID, _chmod(0o4750, owner=54999)) == ["IDENTITY", errno.EPERM]


def test_capabilities_without_root_are_not_a_case_we_know(helper):
    def work():
        stage.private_mounts()
        stage.private_tun(0o666)
        libc = ctypes.CDLL(None, use_errno=True)
        os.setgroups([])
        os.setresgid(stage.GID, stage.GID, stage.GID)
        stage.checked(libc.prctl(8, 1, 0, 0, 0))  # PR_SET_KEEPCAPS
        os.setresuid(stage.UID, stage.UID, stage.UID)
        net_admin = 1 << 12
        stage.checked(
            libc.capset(struct.pack("Ii", 0x20080522, 0), struct.pack("6I", *[net_admin] * 3, 0, 0, 0))
        )
        stage.checked(libc.prctl(47, 2, 12, 0, 0))  # PR_CAP_AMBIENT_RAISE
        return stage.run_program(helper, ["true"])

    assert stage.apart(work) == [["Failed", "IDENTITY", errno.EPERM]]


def test_it_takes_no_argument(helper):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        pid = launch.spawn([str(helper), "--help"], {3: theirs.fileno()}, {}, session=False)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == MISUSED


def test_it_can_be_started_without_even_a_name(helper):
    """argc 0: the kernel makes it an empty name since 5.18; nothing is read beyond it either way."""
    pid = os.fork()
    if pid == 0:
        os.close(3)
        empty = (ctypes.c_char_p * 1)(None)
        ctypes.CDLL(None).execve(os.fsencode(helper), empty, empty)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == MISUSED


@pytest.mark.parametrize(
    "make",
    [
        lambda: (os.open("/dev/null", os.O_RDWR),),
        os.pipe,
        lambda: tuple(end.detach() for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)),
        lambda: (socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach(),),
    ],
    ids=["file", "pipe", "stream", "internet"],
)
def test_its_line_must_be_a_socket_pair_of_packets(helper, make):
    ends = make()
    try:
        pid = launch.spawn([str(helper)], {3: ends[0]}, {}, session=False)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == MISUSED
    finally:
        for end in ends:
            os.close(end)


def test_its_line_must_be_of_the_same_user(helper):
    """One user cannot speak to the helper that another has started."""

    def work():
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # root's
        path = stage.prepare(helper, SETUID)
        pid = launch.spawn([str(path)], {3: theirs.fileno()}, {}, session=False)
        theirs.close()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return [code, len(ours.recv(100))]

    assert stage.apart(work) == [MISUSED, 0]


@pytest.mark.parametrize("limit", [resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_AS])
def test_the_caller_s_limits_cannot_make_half_an_environment(helper, limit):
    """Whatever fails for want of it ends the helper: nothing is started."""

    def work():
        path = stage.prepare(helper, SETUID)
        line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            os.dup2(theirs.fileno(), 3)
            resource.setrlimit(limit, (0, 0))
            os.execv(path, [str(path)])
        theirs.close()
        with contextlib.suppress(BrokenPipeError):  # it may have ended already
            line.send(launch.MESSAGE.pack(launch.MAGIC, launch.REQUEST, launch.layout(), *[0] * 6))
        os.waitpid(pid, 0)
        try:
            data = line.recv(100)
        except ConnectionResetError:
            data = b""
        return launch.MESSAGE.unpack(data)[1] if data else 0

    assert stage.apart(work) in (0, launch.FAILED)
