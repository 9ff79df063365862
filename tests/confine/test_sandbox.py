# SPDX-License-Identifier: GPL-3.0-or-later
"""What is left to a part, seen from inside and, of real parts, from outside."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import threading
from pathlib import Path

import pytest

from avne.confine import kernel, sandbox
from avne.confine.rules import gather
from avne.confine.runtime import REFUSED, SYSCALLS
from avne.confine.sandbox import Sandbox, Wish
from tests.confine.confined import NOBODY, Killed, run, tried

WHO = pytest.mark.parametrize("user", [0, NOBODY], ids=["root", "user"])
BARE = gather("bare", [SYSCALLS, ("read", "close")], REFUSED)
FAMILIES = {"user", "mnt", "net", "ipc", "uts", "cgroup"}


def _spaces() -> dict[str, str]:
    return {name: os.readlink(f"/proc/self/ns/{name}") for name in FAMILIES}


@WHO
@pytest.mark.parametrize("network", [False, True])
def test_namespaces_of_its_own(user, network):
    mine = _spaces()
    wish = Wish(network=network, files=True, drops_root=False)

    def work():
        # As root the user namespace is left for one without a mapping: the links are still ours to read.
        return _spaces()

    found = run(work, wish, None, user)
    shared = {name for name in FAMILIES if found[name] == mine[name]}
    assert shared == ({"net"} if network else set())


def _connect(port):
    """Without getaddrinfo(3), for which Python imports something."""
    with socket.socket() as sock:
        sock.connect(("127.0.0.1", port))


def _datagram():
    """Which Landlock does not look at: the network namespace alone stops it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", 9))


def _identity():
    return {
        "uids": os.getresuid(), "groups": os.getgroups(), "root": tried(lambda: os.listdir("/")),
        "made": tried(lambda: os.mkdir("/x")), "file": tried(lambda: os.stat("/etc/passwd")),
        "up": tried(lambda: os.stat("../../../etc/passwd")), "proc": tried(lambda: os.stat("/proc/self")),
        "regained": tried(lambda: os.setuid(0)),
        "network": tried(_datagram),
        "interfaces": [name for _, name in socket.if_nameindex()],
        "remount": tried(lambda: kernel.mount("", "/", "", kernel.MS_REMOUNT | kernel.MS_BIND)),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "locked": resource.getrlimit(resource.RLIMIT_MEMLOCK),
        "file size": resource.getrlimit(resource.RLIMIT_FSIZE),
    }  # fmt: skip


@WHO
def test_nothing_is_in_sight_and_nothing_can_be_made(user):
    found = run(_identity, Wish(), None, user)
    assert (
        found["root"] == found["made"] == found["file"] == found["up"] == found["proc"] == "Permission denied"
    )
    assert found["network"] == "Network is unreachable"
    assert found["interfaces"] == ["lo"]
    assert found["remount"] == "Operation not permitted"
    assert found["regained"] != ""
    assert found["core"] == [1, 1]
    assert found["file size"] == found["locked"] == [0, 0]


def test_root_becomes_nobody():
    assert run(_identity, Wish(), None, 0)["uids"] == [NOBODY] * 3, "the kernel's word for who is not mapped"

    def work():
        return Sandbox().isolate(Wish()).user

    user = run(work, None, None)
    names = {line.split(":")[2]: line.split(":")[0] for line in Path("/etc/passwd").read_text().splitlines()}
    assert user > 0
    assert names.get(str(user), sandbox.SYSTEM_USER) == sandbox.SYSTEM_USER, "nobody else's"


@WHO
def test_its_own_descriptors_and_no_others_lead_out(user, tmp_path):
    os.chmod(tmp_path, 0o755)
    for parent in tmp_path.parents[:2]:
        os.chmod(parent, 0o755)
    (tmp_path / "given").write_text("mine")
    os.chmod(tmp_path / "given", 0o644)
    given = os.open(tmp_path / "given", os.O_PATH)

    def work():
        fds = os.listdir("/fd") if user else []  # of root's the directory is not ours to list
        with open(f"/fd/{given}") as file:
            text = file.read()
        above = tried(lambda: os.stat("/fd/../etc/passwd"))
        other = tried(lambda: os.stat(f"/fd/{given}/../../../etc/passwd"))
        closed = [fd for fd in fds if tried(lambda fd=fd: os.fstat(int(fd)))]
        return text, above, other, len(closed), tried(lambda: os.stat("/fd/../../1/root"))

    text, above, other, foreign, init = run(work, Wish(descriptors=True), None, user)
    assert text == "mine"
    assert above == init == "No such file or directory"
    assert other == "Not a directory"
    assert foreign <= 1, "the list's own, which is closed by then"
    os.close(given)


@WHO
def test_no_capability_and_no_way_to_one(user):
    def work():
        return {
            name: tried(lambda flag=flag: kernel.unshare(flag))
            for name, flag in (("net", kernel.CLONE_NEWNET), ("mnt", kernel.CLONE_NEWNS))
        }

    assert set(run(work, Wish(), None, user).values()) == {"Operation not permitted"}


def test_the_filter_holds_for_what_was_a_moment_ago_allowed():
    assert run(os.getppid, Wish(), None)
    with pytest.raises(Killed):
        run(os.getppid, Wish(), BARE)
    assert run(lambda: tried(lambda: os.stat("/")), Wish(), BARE) == "Permission denied"


def test_it_is_for_one_thread_and_waits_for_the_others(monkeypatch):
    """All that are there must sleep where they are no danger to themselves."""

    def early():
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        return tried(lambda: Sandbox().isolate(Wish()))

    assert run(early, None, None) == "Device or resource busy"

    def unparked():
        from avne.confine import barrier

        barrier.PATIENCE = 0.05
        box = Sandbox()
        threading.Thread(target=threading.Event().wait, daemon=True).start()  # in futex(2)
        with contextlib.suppress(TimeoutError):
            box.seal(BARE, threads=1)
            return "sealed"
        return "waited in vain"

    assert run(unparked, None, None) == "waited in vain"

    def parked():
        import select

        box = Sandbox()
        threading.Thread(target=select.epoll().poll, daemon=True).start()
        box.seal(BARE, threads=1)
        return "sealed"

    assert run(parked, None, None) == "sealed"


@WHO
def test_without_namespaces_the_rest_stands(user, monkeypatch):
    def refuse(_):
        raise PermissionError(1, "no")

    monkeypatch.setattr(kernel, "unshare", refuse)

    def work():
        assert not Sandbox().isolate(Wish()).namespaces
        lines = Path("/proc/self/status").read_text().splitlines()
        return {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("CapEff", "NoNew"))}

    assert run(work, None, None, user) == {"CapEff": "0" * 16, "NoNewPrivs": "1"}
    with pytest.raises(Killed):
        run(os.getppid, Wish(), BARE, user)


@WHO
def test_user_namespaces_without_rights_are_no_empty_root(user, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "as AppArmor has it")

    monkeypatch.setattr(kernel, "mount", refuse)

    def work():
        got = Sandbox().isolate(Wish(descriptors=True))
        return got.namespaces, got.empty_root, tried(_datagram), tried(lambda: os.stat("/proc"))

    assert run(work, None, None, user) == [True, False, "Network is unreachable", ""]


def test_a_root_that_may_make_no_namespaces_by_itself_makes_a_user_s(monkeypatch):
    real = kernel.unshare

    def unshare(flags):
        if os.getuid() == 0:
            raise PermissionError(1, "as in a container")
        real(flags)

    monkeypatch.setattr(kernel, "unshare", unshare)

    def work():
        got = Sandbox().isolate(Wish())
        return got.namespaces, got.empty_root, got.user == os.getuid() > 0

    assert run(work, None, None) == [True, True, True]


def test_landlock_leaves_one_port(monkeypatch):
    if kernel.landlock_version() < 4:
        pytest.fail("Landlock of Linux 6.7 or later is needed for this")
    with socket.create_server(("127.0.0.1", 0)) as proxy, socket.create_server(("127.0.0.1", 0)) as other:
        ports = proxy.getsockname()[1], other.getsockname()[1]

        def work():
            return [tried(lambda port=port: _connect(port)) for port in ports]

        assert run(work, None, None) == ["", ""], "the control"
        wish = Wish(network=True, ports=ports[:1])
        assert run(work, wish, None) == run(work, wish, None, NOBODY) == ["", "Permission denied"]
