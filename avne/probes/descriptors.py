# SPDX-License-Identifier: GPL-3.0-or-later
"""Ways out through what a program inherits: descriptors, standard streams, the working directory."""

from __future__ import annotations

import os
import signal
import socket

from avne.probes import uring
from avne.probes.probe import Finding, Plan, register, seen, sent

probe = register("descriptors")


def _held(plan: Plan, name: str) -> int:
    """The inherited descriptor; OSError where it is closed."""
    fd = int(plan["fds"][name])
    os.fstat(fd)
    return fd


@probe("L01", "an inherited TCP connection of the host's network", ear=True)
def fd_tcp(plan: Plan) -> Finding:
    os.write(_held(plan, "tcp"), plan.token.encode())
    return sent()


@probe("L01", "an inherited UDP socket of the host's network", ear=True)
def fd_udp(plan: Plan) -> Finding:
    os.write(_held(plan, "udp"), plan.token.encode())
    return sent()


@probe("L01", "an inherited listening socket")
def fd_listener(plan: Plan) -> Finding:
    with socket.socket(fileno=os.dup(_held(plan, "listener"))) as listener:
        return seen(listener.getsockname()[1] == plan["ports"]["tcp4"], "is open")


@probe("L01", "an inherited unix socket with its peer outside", ear=True)
def fd_unix(plan: Plan) -> Finding:
    os.write(_held(plan, "unix"), plan.token.encode())
    return sent()


@probe("L03", "a socket below an inherited directory", ear=True)
def fd_directory(plan: Plan) -> Finding:
    return _connect(plan, f"/proc/self/fd/{_held(plan, 'directory')}/tmp.sock")


@probe("L03", "a socket file inherited with O_PATH", ear=True)
def fd_path(plan: Plan) -> Finding:
    return _connect(plan, f"/proc/self/fd/{_held(plan, 'path')}")


@probe("L03", "a socket in the working directory, by a relative name", ear=True)
def cwd(plan: Plan) -> Finding:
    return _connect(plan, "cwd.sock")


@probe("L03", "a socket beside the working directory, by a relative name", ear=True)
def cwd_parent(plan: Plan) -> Finding:
    return _connect(plan, "../tmp.sock")


@probe("L04", "an inherited io_uring whose kernel thread sends", ear=True)
def fd_io_uring(plan: Plan) -> Finding:
    uring.submit(_held(plan, "ring"), plan["ring"], plan.token.encode())
    return sent()


@probe("L05", "an inherited descriptor of the host's network namespace")
def fd_netns(plan: Plan) -> Finding:
    return seen(os.fstat(_held(plan, "netns")).st_ino == plan["netns"], "is open", "of another file")


@probe("L07", "an inherited pidfd of a process outside: a signal", ear=True)
def fd_pidfd(plan: Plan) -> Finding:
    signal.pidfd_send_signal(_held(plan, "pidfd"), signal.SIGUSR1)
    return sent()


# Standard streams: each is a start of its own, and a listener hears or not.  What the caller gave as a
# socket may be relayed; the socket itself must not come in, hence calls that are for sockets only.


def _send(fd: int, plan: Plan) -> Finding:
    with socket.socket(fileno=os.dup(fd)) as sock:
        sock.send(plan.token.encode())
    return sent()


@probe("L02", "standard input is a TCP connection", ear=True, entrance="0:tcp")
def stdin_tcp(plan: Plan) -> Finding:
    return _send(0, plan)


@probe("L02", "standard output is a UDP socket", ear=True, entrance="1:udp")
def stdout_udp(plan: Plan) -> Finding:
    return _send(1, plan)


@probe("L02", "standard error is a TCP connection", ear=True, entrance="2:tcp")
def stderr_tcp(plan: Plan) -> Finding:
    return _send(2, plan)


@probe("L03", "standard input is a directory with a socket", ear=True, entrance="0:directory")
def stdin_directory(plan: Plan) -> Finding:
    """A Python with a directory as its input would not start: a shell has moved it to 9."""
    return _connect(plan, "/proc/self/fd/9/tmp.sock")


@probe("L04", "standard input is an io_uring", ear=True, entrance="0:ring")
def stdin_io_uring(plan: Plan) -> Finding:
    uring.submit(0, plan["ring"], plan.token.encode())
    return sent()


@probe(
    "L06",
    "standard input is a unix socket by which a TCP connection is handed in",
    ear=True,
    entrance="0:rights",
)
def stdin_rights(plan: Plan) -> Finding:
    with socket.socket(fileno=0) as line:
        line.settimeout(2)
        take_rights(plan, line)
    return sent()


def take_rights(plan: Plan, line: socket.socket) -> None:
    """Send the token on the socket that comes by `line` (SCM_RIGHTS)."""
    _, fds, _, _ = socket.recv_fds(line, 100, 1)
    if not fds:
        raise OSError(9, "nothing came")
    os.write(fds[0], plan.token.encode())


def _connect(plan: Plan, path: str) -> Finding:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        sock.sendall(plan.token.encode())
    return sent()
