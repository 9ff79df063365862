# SPDX-License-Identifier: GPL-3.0-or-later
"""What a worker is left with, which depends on where its proxy is and how the netstack is reached.

=============  =========================  ===========================================================
the proxy      network, files             what a worker in an attacker's hands reaches
=============  =========================  ===========================================================
unix socket    none, none                 that socket
address:port   the host's, none           by TCP that port, at any address (Landlock; without it any port)
name:port      the host's, read only      that, port 53, and the machine's services that look names up
=============  =========================  ===========================================================

With several proxies it is all of them.  A worker whose netstack is on another machine, that has an upstream
of another package, or that may go out directly, has the last line's, and any port.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, NamedTuple

from avne.confine import rules, runtime
from avne.confine.rules import Condition, Declarations, call, one_of, without
from avne.confine.sandbox import Wish
from avne.upstream import way
from avne.upstream.kinds import BUILT_IN
from avne.upstream.proxy import is_address
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


def plan(specs: Iterable[UpstreamSpec], remote: bool = False) -> Plan:
    """For a worker of these upstreams; `remote`: its netstack is on another machine."""
    layers = [layer for spec in specs for layer in spec.layers()]
    writes = any(layer.kind == "log" and layer.argument for layer in layers)
    open_plan = Wish(network=True, files=True, ports=None, drops_root=False, file_size=writes)
    if remote:
        return Plan(REMOTE, open_plan, _LOOK_UP)
    # A kind of another package may do anything, and "direct" is meant to.
    if any(layer.kind not in BUILT_IN or layer.kind == "direct" for layer in layers):
        return Plan("any", open_plan, _LOOK_UP)
    reached = [layer.address for layer in layers if layer.inner is None and layer.address]
    places = [address for address in reached if not isinstance(address, str)]
    ports = tuple(sorted({port for _, port in places}))
    if not all(is_address(host) for host, _ in places):
        wish = Wish(network=True, files=True, ports=(*ports, _DNS), file_size=writes)
        return Plan("name", wish, _LOOK_UP)
    families = {socket.AF_INET6 if ":" in host else socket.AF_INET for host, _ in places}
    sockets = [call("socket", one_of(0, family), _STREAM, _TCP) for family in sorted(families)]
    unix = len(places) < len(reached)
    if unix:
        sockets.append(call("socket", one_of(0, socket.AF_UNIX), _STREAM))
    wish = Wish(network=bool(places), descriptors=unix, ports=ports, file_size=writes)
    return Plan("address" if places else "unix", wish, sockets)


def policy(plan: Plan, modules: list[Declarations]) -> rules.Policy:
    """With what the plan adds to the worker's own modules."""
    refused = {**runtime.REFUSED, **runtime.Threads.REFUSED}
    return rules.gather(f"worker ({plan.kind})", [*modules, plan.sockets], refused)


def open_doors(specs: Iterable[UpstreamSpec], plan: Plan, ask: Callable[[str], None]) -> dict[str, way.Way]:
    """The ways to the proxies' unix sockets, while they can be seen; none where none are needed."""
    if not plan.wish.descriptors:
        return {}
    return {path: way.Way(path, partial(ask, path)) for path in unix_sockets(specs)}


def unix_sockets(specs: Iterable[UpstreamSpec]) -> list[str]:
    """Their paths."""
    found = [layer.address for spec in specs for layer in spec.layers() if layer.inner is None]
    return sorted({address for address in found if isinstance(address, str) and address})


def narrowed(wish: Wish, doors: Iterable[way.Way]) -> Wish:
    """`wish`, but root stays root where nobody else may use one of the sockets."""
    all_may = all(os.fstat(door.fileno()).st_mode & stat.S_IWOTH for door in doors)
    return wish._replace(drops_root=wish.drops_root and all_may)
