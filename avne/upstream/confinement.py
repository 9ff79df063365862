# SPDX-License-Identifier: GPL-3.0-or-later
"""What a worker is left with, which depends on where its proxy is and how the netstack is reached.

=============  =========================  ===========================================================
the proxy      network, files             what a worker in an attacker's hands reaches
=============  =========================  ===========================================================
unix socket    none, none                 that socket
address:port   the host's, none           by TCP that port, at any address (Landlock; without it any port)
name:port      the host's, read only      that, port 53, and the machine's services that look names up
=============  =========================  ===========================================================

A worker whose netstack is on another machine has the last line's, and any port.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from typing import Final, NamedTuple

from avne.confine import rules, runtime
from avne.confine.rules import Condition, Declarations, call, one_of, without
from avne.confine.sandbox import Wish
from avne.upstream import way
from avne.upstream.socks5 import is_address
from avne.upstream.spec import UpstreamSpec

_DNS: Final = 53
REMOTE: Final = "remote"
_STREAM: Final = Condition(1, 0xF, (socket.SOCK_STREAM,))  # without SOCK_NONBLOCK and SOCK_CLOEXEC
_DATAGRAM: Final = Condition(1, 0xF, (socket.SOCK_DGRAM,))
# SCTP and Multipath TCP have stream sockets, too, and Landlock does not know them.
_TCP: Final = one_of(2, 0, socket.IPPROTO_TCP)

# What the C library does to look a name up: its files and modules, and whom they name.
_LOOK_UP: Final = (
    call("openat", without(2, os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)),
    "newfstatat", "fstat", "lseek", "read", "pread64", "readlink", "readlinkat", "getdents64", "getcwd",
    "access", "faccessat", "mmap", "mprotect", "uname", "sysinfo", "sched_getaffinity",
    "getuid", "geteuid", "getgid", "getegid", "getpid",
    call("socket", one_of(0, socket.AF_UNIX, socket.AF_NETLINK)),
    call("socket", one_of(0, socket.AF_INET, socket.AF_INET6), _STREAM, _TCP),
    call("socket", one_of(0, socket.AF_INET, socket.AF_INET6), _DATAGRAM),
    "connect", "bind", "poll", "ppoll", "ioctl", "fcntl", "setsockopt", "getsockopt", "getsockname",
    "getpeername", "sendmmsg", "recvmsg", "recvfrom", "clock_nanosleep", "rt_sigaction",
)  # fmt: skip


class Plan(NamedTuple):
    """`kind` is the table's first column."""

    kind: str
    wish: Wish
    sockets: Declarations


def plan(spec: UpstreamSpec, remote: bool = False) -> Plan:
    """For a worker of `spec`; `remote`: its netstack is on another machine."""
    if remote:
        return Plan(REMOTE, Wish(network=True, files=True, ports=None, drops_root=False), _LOOK_UP)
    if isinstance(spec.address, str):
        return Plan("unix", Wish(descriptors=True), (call("socket", one_of(0, socket.AF_UNIX), _STREAM),))
    host, port = spec.address
    if is_address(host):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sockets = (call("socket", one_of(0, family), _STREAM, _TCP),)
        return Plan("address", Wish(network=True, ports=(port,)), sockets)
    return Plan("name", Wish(network=True, files=True, ports=(port, _DNS)), _LOOK_UP)


def policy(plan: Plan, modules: list[Declarations]) -> rules.Policy:
    """With what the plan adds to the worker's own modules."""
    refused = {**runtime.REFUSED, **runtime.Threads.REFUSED}
    return rules.gather(f"worker ({plan.kind})", [*modules, plan.sockets], refused)


def open_door(spec: UpstreamSpec, plan: Plan, ask: Callable[[], None]) -> way.Way | None:
    """The way to the proxy's unix socket, while it can be seen; None where none is needed."""
    if isinstance(spec.address, str) and plan.wish.descriptors:
        return way.Way(spec.address, ask)
    return None


def narrowed(wish: Wish, door: way.Way | None) -> Wish:
    """`wish`, but root stays root where nobody else may use the proxy's socket."""
    all_may = door is None or bool(os.fstat(door.fileno()).st_mode & stat.S_IWOTH)
    return wish._replace(drops_root=wish.drops_root and all_may)
