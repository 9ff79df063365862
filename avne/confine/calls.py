# SPDX-License-Identifier: GPL-3.0-or-later
"""The numbers of system calls, for each machine that avne knows.

(Linux: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.)

A name is that of the C library's function; a test compares the numbers with the kernel's headers.
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple


class Machine(NamedTuple):
    """`audit` is its AUDIT_ARCH_ value (linux/audit.h), `column` its place in `NUMBERS`."""

    name: str  # as of uname(2)
    audit: int
    column: int


X86_64: Final = Machine("x86_64", 0xC000003E, 0)
AARCH64: Final = Machine("aarch64", 0xC00000B7, 1)
RISCV64: Final = Machine("riscv64", 0xC00000F3, 1)  # the same numbers
MACHINES: Final = {machine.name: machine for machine in (X86_64, AARCH64, RISCV64)}

# x86-64, arm64; None where there is no such call.
NUMBERS: Final[dict[str, tuple[int | None, int | None]]] = {
    # memory, time, threads, signals
    "brk": (12, 214), "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "mremap": (25, 216),
    "madvise": (28, 233), "futex": (202, 98), "getrandom": (318, 278), "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115), "restart_syscall": (219, 128), "exit": (60, 93), "exit_group": (231, 94),
    "clone": (56, 220), "clone3": (435, 435), "set_robust_list": (273, 99), "rseq": (334, 293),
    "gettid": (186, 178), "getpid": (39, 172), "sched_yield": (24, 124), "sched_getaffinity": (204, 123),
    "rt_sigreturn": (15, 139), "rt_sigprocmask": (14, 135), "rt_sigaction": (13, 134),
    "sigaltstack": (131, 132), "prctl": (157, 167),
    "mlock": (149, 228), "munlock": (150, 229),
    # descriptors
    "read": (0, 63), "readv": (19, 65), "write": (1, 64), "writev": (20, 66), "close": (3, 57),
    "ioctl": (16, 29), "fcntl": (72, 25), "fstat": (5, 80), "lseek": (8, 62), "ftruncate": (77, 46),
    "dup": (32, 23), "dup3": (292, 24), "epoll_wait": (232, None), "epoll_pwait": (281, 22),
    "epoll_ctl": (233, 21), "epoll_create1": (291, 20), "poll": (7, None), "ppoll": (271, 73),
    "eventfd2": (290, 19),
    # sockets
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200),
    "listen": (50, 201), "accept4": (288, 242), "shutdown": (48, 210), "sendto": (44, 206),
    "recvfrom": (45, 207), "sendmsg": (46, 211), "recvmsg": (47, 212), "sendmmsg": (307, 269),
    "getsockname": (51, 204), "getpeername": (52, 205), "setsockopt": (54, 208), "getsockopt": (55, 209),
    # files
    "openat": (257, 56), "newfstatat": (262, 79), "readlink": (89, None), "readlinkat": (267, 78),
    "getcwd": (79, 17), "getdents64": (217, 61), "pread64": (17, 67), "access": (21, None),
    "faccessat": (269, 48), "uname": (63, 160), "sysinfo": (99, 179), "getuid": (102, 174),
    "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177),
    # what no part of ours needs once it is sealed
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281), "kill": (62, 129),
    "tgkill": (234, 131), "ptrace": (101, 117), "process_vm_readv": (310, 270), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438), "setns": (308, 268), "unshare": (272, 97), "mount": (165, 40),
    "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "setuid": (105, 146),
    "capset": (126, 91), "prlimit64": (302, 261), "io_uring_setup": (425, 425), "bpf": (321, 280),
    "userfaultfd": (323, 282), "perf_event_open": (298, 241), "memfd_create": (319, 279),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "seccomp": (317, 277),
    "landlock_create_ruleset": (444, 444), "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
}  # fmt: skip


def number(name: str, machine: Machine) -> int | None:
    """The number of a system call; None where the machine has none of that name.  Raises KeyError."""
    return NUMBERS[name][machine.column]


def this_machine() -> Machine | None:
    """What we run on; None where avne has no table for it."""
    return MACHINES.get(os.uname().machine)
