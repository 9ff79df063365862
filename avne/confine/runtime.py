# SPDX-License-Identifier: GPL-3.0-or-later
"""What CPython and the C library do by themselves, wherever they run."""

from __future__ import annotations

import errno
import io
import socket
import sys
from typing import Final

from avne.confine.rules import call, one_of, with_all, without

DESCRIPTORS: Final = "/fd"  # where a part finds its own, if it wishes so (sandbox.py)

PROT_EXEC: Final = 0x4
FIONBIO: Final = 0x5421  # asm-generic/ioctls.h

NONBLOCKING: Final = call("ioctl", one_of(1, FIONBIO))  # setblocking of sockets and descriptors

# Never so as to open a connection by it: TCP Fast Open passes by connect(2), and by Landlock with it.
SENDTO: Final = call("sendto", without(3, socket.MSG_FASTOPEN))
SENDMSG: Final = call("sendmsg", without(2, socket.MSG_FASTOPEN))

# malloc and the collector; the clock, where the vDSO has none (some virtual machines); os.urandom and
# os.write, which is how a traceback gets out; a signal's handler; the end.
SYSCALLS: Final = (
    call("mmap", without(2, PROT_EXEC)),
    "munmap", "mremap", "brk", "madvise",
    "clock_gettime",
    "futex",
    "getrandom",
    "write",
    "rt_sigreturn",
    "exit_group",
)  # fmt: skip

# A traceback wants to show its sources, and asks of standard error what it is: it must not die of that.
REFUSED: Final = {
    "openat": errno.EACCES,
    "newfstatat": errno.EACCES,
    "readlink": errno.EACCES,
    "readlinkat": errno.EACCES,
    "getcwd": errno.EACCES,
    "ioctl": errno.ENOTTY,
    "lseek": errno.ESPIPE,
}

_CLONE_THREAD: Final = 0x10000
_PR_SET_NAME: Final = 15
_PR_SET_VMA: Final = 0x53564D41


class Threads:
    """What a process does that starts threads, as a module's declarations.

    clone3(2) has its flags in memory, where a filter does not see them: it does not exist here (ENOSYS), and
    the C library takes clone(2), whose flags say that no process is wanted.
    """

    SYSCALLS: Final = (
        call("clone", with_all(0, _CLONE_THREAD)),
        call("mprotect", without(2, PROT_EXEC)),  # a stack's guard, an arena's growth
        "set_robust_list", "rseq", "gettid", "sigaltstack", "exit", "restart_syscall", "sched_yield",
        call("rt_sigprocmask", one_of(0, 0, 1, 2)),
        call("prctl", one_of(0, _PR_SET_NAME, _PR_SET_VMA)),
    )  # fmt: skip
    REFUSED: Final = {"clone3": errno.ENOSYS}


def rehearse_fault() -> None:
    """As when something of ours breaks: what a traceback loads is loaded before the filter."""
    try:
        b"\xff".decode("ascii")
    except UnicodeDecodeError as error:
        stderr, sys.stderr = sys.stderr, io.StringIO()
        sys.excepthook(type(error), error, error.__traceback__)
        sys.stderr = stderr
