# SPDX-License-Identifier: GPL-3.0-or-later
"""Sandboxes that programs make for themselves work inside, as far as the kernel lets an ordinary user."""

from __future__ import annotations

import json

import pytest

from tests.privileged import stage

BWRAP = ["bwrap", "--dev-bind", "/", "/", "--unshare-all", "--die-with-parent"]
USERS = pytest.mark.parametrize("mode", [stage.ROOTLESS, stage.SETUID], ids=["rootless", "setuid"])

# As Chromium's zygote and its children do it: namespaces of their own, an empty root, no capability.
CHROMIUM = """
import ctypes, json, os, socket
libc = ctypes.CDLL(None, use_errno=True)
ids = os.getuid(), os.getgid()
def must(result):
    if result < 0: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
must(libc.unshare(0x10000000 | 0x20000000 | 0x40000000))
maps = [(n + "_map", f"{i} {i} 1") for n, i in zip(("uid", "gid"), ids)]
for name, text in ("setgroups", "deny"), *maps:
    with open("/proc/self/" + name, "w") as file: file.write(text)
pid = os.fork()
if pid == 0:
    links = sorted(name for _, name in socket.if_nameindex())
    os.chroot("/proc/self/fdinfo"); os.chdir("/")
    a.sendall(json.dumps([os.getpid(), links, os.getuid() == ids[0]]).encode())
    os._exit(0)
os.waitpid(pid, 0)
print(b.recv(1000).decode())
"""


@USERS
def test_bubblewrap_makes_its_sandbox(helper, mode):
    script = "ls /sys/class/net | wc -l; echo $$; ls /proc/self/ns | grep -c net; cat /etc/hostname"
    done = stage.inside(helper, mode, [*BWRAP, "sh", "-c", script])
    assert (done.status, done.err) == (0, "")
    assert done.out.split()[1:] == ["2", "1", "localhost"]


@USERS
def test_in_there_the_seal_holds(helper, mode):
    code = "import socket; socket.socket(40, socket.SOCK_STREAM)"
    done = stage.inside(helper, mode, [*BWRAP, stage.PYTHON, "-I", "-S", "-c", code])
    assert "Address family not supported" in done.err
    hidden = "ls -A /run /tmp /dev/shm | grep -v :; cat /proc/sys/kernel/random/boot_id"
    done = stage.inside(helper, mode, [*BWRAP, "sh", "-c", hidden])
    assert done.out.split() == ["00000000-0000-4000-8000-000000000001"]


@USERS
def test_a_new_proc_would_show_what_is_masked_and_is_refused(helper, mode):
    """Hence `bwrap --proc` fails, as docs/threat-model.md says."""
    argv = [*BWRAP, "--proc", "/proc", "true"]
    assert stage.outside(argv, mode).status == 0, "the control"
    done = stage.inside(helper, mode, argv)
    assert "Can't mount proc" in done.err


@USERS
def test_chromium_makes_its_sandbox(helper, mode):
    done = stage.inside(helper, mode, [stage.PYTHON, "-I", "-S", "-c", CHROMIUM])
    assert done.err == ""
    assert json.loads(done.out) == [1, ["lo"], True]
