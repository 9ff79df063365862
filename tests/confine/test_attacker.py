# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker in an attacker's hands: any code, in its sandbox.  It reaches its proxy, and nothing else.

Each attack is run outside first, where it must succeed: else it would prove nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from avne.upstream import confinement, worker
from avne.upstream.spec import UpstreamSpec
from tests.confine.confined import NOBODY, Killed, run, tried

KILLED = "killed"
WHO = pytest.mark.parametrize("user", [0, NOBODY], ids=["root", "user"])


class World(NamedTuple):
    """What there is to reach."""

    proxy: str
    proxy_port: int
    other: str
    other_port: int
    abstract: str
    datagrams: int
    file: str
    victim: int
    door: int  # a descriptor of the proxy's socket


@pytest.fixture
def world(tmp_path) -> Iterator[World]:
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)
    with contextlib.ExitStack() as stack:

        def listen(family: int, address: Any, kind: int = socket.SOCK_STREAM) -> Any:
            sock = stack.enter_context(socket.socket(family, kind))
            sock.bind(address)
            if kind == socket.SOCK_STREAM:
                sock.listen(64)
            if isinstance(address, str) and address.startswith("/"):
                os.chmod(address, 0o666)
            return sock.getsockname()

        proxy, other, file = str(tmp_path / "proxy"), str(tmp_path / "other"), tmp_path / "file"
        listen(socket.AF_UNIX, proxy)
        listen(socket.AF_UNIX, other)
        listen(socket.AF_UNIX, f"\0avne-{os.getpid()}")
        local = ("127.0.0.1", 0)
        ports = [listen(socket.AF_INET, local)[1] for _ in range(2)]
        datagrams = listen(socket.AF_INET, local, socket.SOCK_DGRAM)[1]
        file.write_text("secret")
        file.chmod(0o666)
        victim = stack.enter_context(subprocess.Popen(["sleep", "1000"], user=NOBODY, group=NOBODY))
        stack.callback(victim.kill)
        door = os.open(proxy, os.O_PATH)
        stack.callback(os.close, door)
        abstract = f"\0avne-{os.getpid()}"
        yield World(proxy, ports[0], other, ports[1], abstract, datagrams, str(file), victim.pid, door)


def _unix(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(path)


def _tcp(port: int, address: str = "127.0.0.1") -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(2)
        sock.connect((address, port))


def _fast_open(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.sendto(b"x", socket.MSG_FASTOPEN, ("127.0.0.1", port))


def _multipath(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262) as sock:
        sock.connect(("127.0.0.1", port))


def _datagram(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", ("127.0.0.1", port))


def _netlink() -> None:
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close()


def _fork() -> None:
    if (child := os.fork()) == 0:
        os._exit(0)
    os.waitpid(child, 0)


def _trace(pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(16, pid, None, None) < 0:
        raise OSError(ctypes.get_errno(), "ptrace")
    libc.ptrace(17, pid, None, None)


def _by_descriptors() -> None:
    """Everything of its own that it can name, as if it were a socket; the proxy's apart."""
    for fd in range(3, 64):
        for path in (f"/fd/{fd}/../../../run", f"/fd/{fd}/root", f"/fd/../{fd}/root"):
            with contextlib.suppress(OSError):
                _unix(path)
                return
    raise PermissionError(1, "none of them")


ATTACKS = {
    "another unix socket": lambda world: _unix(world.other),
    "an abstract socket": lambda world: _unix(world.abstract),
    "another port": lambda world: _tcp(world.other_port),
    "another port, without connect": lambda world: _fast_open(world.other_port),
    "another port, by Multipath TCP": lambda world: _multipath(world.other_port),
    "a datagram": lambda world: _datagram(world.datagrams),
    "netlink": lambda world: _netlink(),
    "to read a file": lambda world: os.close(os.open(world.file, os.O_RDONLY)),
    "to write a file": lambda world: os.close(os.open(world.file, os.O_WRONLY)),
    "a process": lambda world: _fork(),
    "a program": lambda world: os.execv("/bin/true", ["true"]),
    "a signal": lambda world: os.kill(world.victim, signal.SIGCONT),
    "to trace": lambda world: _trace(world.victim),
    "a pidfd": lambda world: os.close(os.pidfd_open(world.victim)),
}  # fmt: skip
_NAME_REACHES = {"another unix socket", "an abstract socket", "a datagram", "netlink", "to read a file"}


def _outcome(attack, world, wish=None, policy=None, user=0):
    try:
        return run(lambda: tried(lambda: attack(world)), wish, policy, user)
    except Killed:
        return KILLED


def _spec(kind: str, world: World) -> UpstreamSpec:
    places = {
        "unix": world.proxy,
        "address": ("127.0.0.1", world.proxy_port),
        "name": ("localhost", world.proxy_port),
    }
    return UpstreamSpec("tor", places[kind])


@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "a program"])
def test_outside_each_attack_succeeds(world, name):
    user = NOBODY if name in ("a signal", "to trace", "a pidfd") else 0
    assert _outcome(ATTACKS[name], world, user=user) == ""


@WHO
@pytest.mark.parametrize("kind", ["unix", "address", "name"])
def test_inside_none_does(world, kind, user):
    plan = confinement.plan([_spec(kind, world)])
    policy = worker.policy(plan)
    found = {name: _outcome(attack, world, plan.wish, policy, user) for name, attack in ATTACKS.items()}
    reached = {name for name, how in found.items() if how == ""}
    if kind == "name":  # what confinement.py says of it; sockets of its own user namespace's machine apart
        assert reached <= _NAME_REACHES, found
        assert found["a process"] == found["a program"] == found["a signal"] == KILLED
    else:
        assert reached == set(), found
    assert found["another port"] in (KILLED, "Permission denied")


@WHO
def test_its_proxy_is_what_it_reaches(world, user):
    plan = confinement.plan([_spec("unix", world)])
    policy = worker.policy(plan)
    assert _outcome(lambda world: _unix(f"/fd/{world.door}"), world, plan.wish, policy, user) == ""
    assert _outcome(lambda _: _by_descriptors(), world, plan.wish, policy, user) != ""
    for kind in ("address", "name"):
        plan = confinement.plan([_spec(kind, world)])
        found = _outcome(lambda world: _tcp(world.proxy_port), world, plan.wish, worker.policy(plan), user)
        assert found == ""


def test_what_landlock_does_not_see(world):
    """The proxy's port at another address: told in the table of confinement.py, and shown here."""
    plan = confinement.plan([_spec("address", world)])
    with socket.socket() as elsewhere:
        elsewhere.bind(("127.0.0.2", world.proxy_port))
        elsewhere.listen()

        def attack(world: World) -> None:
            _tcp(world.proxy_port, "127.0.0.2")

        assert _outcome(attack, world, plan.wish, worker.policy(plan)) == ""
