# SPDX-License-Identifier: GPL-3.0-or-later
"""What an attacker in a part would call, each tried for real: in a child under the part's own filter.

Every trial is harmless where it is allowed: its arguments do nothing, or to the child only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
from typing import Final, NamedTuple

from avne.confine import kernel
from avne.confine.bpf import assemble, encode
from avne.confine.calls import X86_64, number, this_machine
from avne.confine.rules import Policy
from avne.confine.runtime import PROT_EXEC

KILLED: Final = "killed"
ALLOWED: Final = "allowed"

_X32: Final = 0x40000000
_PROT_RW, _PRIVATE_ANONYMOUS = 3, 0x22
_AT_FDCWD: Final = -100
_TIOCSTI, _PTRACE_TRACEME, _SOCK_STREAM = 0x5412, 0, socket.SOCK_STREAM
_CLONE_FLAGS: Final = signal.SIGCHLD  # fork(2)'s


class Trial(NamedTuple):
    """A system call by number; `what` says it for people."""

    what: str
    name: str
    arguments: tuple[int | bytes | None, ...] = ()
    bits: int = 0  # set in the number as well


FORBIDDEN: Final = (
    Trial("an internet socket", "socket", (socket.AF_INET, _SOCK_STREAM, 0)),
    Trial("a datagram socket", "socket", (socket.AF_INET, socket.SOCK_DGRAM, 0)),
    Trial("an IPv6 datagram socket", "socket", (socket.AF_INET6, socket.SOCK_DGRAM, 0)),
    Trial("an SCTP socket", "socket", (socket.AF_INET, _SOCK_STREAM, 132)),
    Trial("a Multipath TCP socket", "socket", (socket.AF_INET, _SOCK_STREAM, 262)),
    Trial("a raw socket", "socket", (socket.AF_INET, socket.SOCK_RAW, 1)),
    Trial("a packet socket", "socket", (socket.AF_PACKET, socket.SOCK_RAW, 0)),
    Trial("a netlink socket", "socket", (socket.AF_NETLINK, socket.SOCK_RAW, 0)),
    Trial("a vsock socket", "socket", (socket.AF_VSOCK, _SOCK_STREAM, 0)),
    Trial("a datagram socket of the machine", "socket", (socket.AF_UNIX, socket.SOCK_DGRAM, 0)),
    Trial("a pair of sockets", "socketpair", (socket.AF_UNIX, _SOCK_STREAM, 0, None)),
    Trial("bind", "bind", (-1, None, 0)),
    Trial("listen", "listen", (-1, 1)),
    Trial("accept", "accept4", (-1, None, None, 0)),
    Trial("TCP Fast Open, which needs no connect", "sendto", (-1, None, 0, socket.MSG_FASTOPEN, None, 0)),
    Trial("the same by sendmsg", "sendmsg", (-1, None, socket.MSG_FASTOPEN)),
    Trial("many messages at once", "sendmmsg", (-1, None, 0, 0)),
    Trial("a socket option of the network", "setsockopt", (-1, socket.SOL_SOCKET, socket.SO_MARK, None, 0)),
    Trial("to read a file", "openat", (_AT_FDCWD, b"/etc/passwd", os.O_RDONLY, 0)),
    Trial("to write a file", "openat", (_AT_FDCWD, b"/nonexistent/x", os.O_WRONLY | os.O_CREAT, 0)),
    Trial("to look at a file", "newfstatat", (_AT_FDCWD, b"/etc/passwd", None, 0)),
    Trial("the working directory", "getcwd", (None, 0)),
    Trial("to run a program", "execve", (b"/nonexistent", None, None)),
    Trial("the same by a descriptor", "execveat", (-1, b"", None, None, 0)),
    Trial("a second process", "clone", (_CLONE_FLAGS, 0, None, None, 0)),
    Trial("the same, the newer way", "clone3", (None, 0)),
    Trial("a signal", "kill", (0x7FFFFFFF, 0)),
    Trial("a signal to a thread", "tgkill", (0x7FFFFFFF, 0x7FFFFFFF, 0)),
    Trial("to trace", "ptrace", (_PTRACE_TRACEME, 0, None, None)),
    Trial("another's memory", "process_vm_readv", (1, None, 0, None, 0, 0)),
    Trial("another process by descriptor", "pidfd_open", (0x7FFFFFFF, 0)),
    Trial("another's descriptors", "pidfd_getfd", (-1, 0, 0)),
    Trial("other namespaces", "setns", (-1, 0)),
    Trial("namespaces of its own", "unshare", (0,)),
    Trial("to mount", "mount", (None, None, None, 0, None)),
    Trial("to unmount", "umount2", (b"/nonexistent", 0)),
    Trial("another root", "chroot", (b"/nonexistent",)),
    Trial("another user", "setuid", (-1,)),
    Trial("capabilities", "capset", (None, None)),
    Trial("its limits", "prlimit64", (0, 0, None, None)),
    Trial("to be traceable again", "prctl", (kernel.PR_SET_DUMPABLE, 1, 0, 0, 0)),
    Trial("io_uring", "io_uring_setup", (0, None)),
    Trial("BPF", "bpf", (0, None, 0)),
    Trial("userfaultfd", "userfaultfd", (0xFFFF,)),
    Trial("performance events", "perf_event_open", (None, 0, 0, -1, 0)),
    Trial("a file in memory", "memfd_create", (None, 0)),
    Trial("keys", "keyctl", (0x7FFFFFFF, 0, 0, 0, 0)),
    Trial("to add keys", "add_key", (None, None, None, 0, 0)),
    Trial("to ask for keys", "request_key", (None, None, None, 0)),
    Trial("another filter", "seccomp", (2, 0, None)),
    Trial("to type into a terminal", "ioctl", (-1, _TIOCSTI, None)),
    Trial("new code", "mmap", (0, 4096, _PROT_RW | PROT_EXEC, _PRIVATE_ANONYMOUS, -1, 0)),
    Trial("code from data", "mprotect", (0, 0, PROT_EXEC)),
    Trial("a call by its x32 number", "close", (-1,), _X32),
)


def attempt(policy: Policy | None, trial: Trial) -> str:
    """In a child, under `policy` or nothing: `KILLED`, `ALLOWED` or the errno's text.  Raises KeyError."""
    machine = this_machine()
    assert machine is not None
    which = number(trial.name, machine)
    assert which is not None
    program = encode(assemble(policy, machine)) if policy else b""
    libc = ctypes.CDLL(None, use_errno=True)
    words = [ctypes.c_long(one) if isinstance(one, int) else one for one in trial.arguments]
    child = os.fork()
    if child == 0:
        _try(program, lambda: libc.syscall(ctypes.c_long(which | trial.bits), *words))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == -signal.SIGSYS:
        return KILLED
    return os.strerror(status) if status else ALLOWED


def _try(program: bytes, call: object) -> None:
    """The child's part; gives the errno as its exit code."""
    try:
        assert callable(call)
        if program:
            kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
            kernel.seccomp(program)
        result = call()
        os._exit(
            ctypes.get_errno() if result == -1 else 0
        )  # a grandchild, if there is one, ends here as well
    finally:
        os._exit(255)


def trials() -> list[Trial]:
    """Those that this machine has."""
    machine = this_machine()
    assert machine is not None
    return [
        trial
        for trial in FORBIDDEN
        if number(trial.name, machine) is not None and (not trial.bits or machine is X86_64)
    ]
