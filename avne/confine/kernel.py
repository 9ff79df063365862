# SPDX-License-Identifier: GPL-3.0-or-later
"""The system calls that Python has no function for, each as its man page has it; OSError where one fails."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Any, Final

from avne.confine.calls import number, this_machine

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS = 0x00020000, 0x02000000, 0x04000000
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWNET = 0x08000000, 0x10000000, 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 32, 4096, 16384, 1 << 18
MNT_DETACH: Final = 2

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NAME = 1, 4, 15
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 24, 38, 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_LINUX_CAPABILITY_VERSION_3: Final = 0x20080522
_LAST_CAPABILITY: Final = 63

_SECCOMP_SET_MODE_FILTER: Final = 1
_SECCOMP_FILTER_FLAG_TSYNC: Final = 1

LANDLOCK_CONNECT_TCP, LANDLOCK_BIND_TCP = 2, 1
_LANDLOCK_CREATE_RULESET_VERSION: Final = 1
_LANDLOCK_RULE_NET_PORT: Final = 2
_LANDLOCK_SCOPES: Final = 3  # abstract unix sockets, signals

_libc: Final = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> int:
    """`result`, unless it is an error."""
    if result < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"{what}: {os.strerror(errno)}")
    return result


def syscall(name: str, *arguments: Any) -> int:
    """A system call by its name; integers are passed as ``long``."""
    machine = this_machine()
    which = number(name, machine) if machine else None
    if which is None:
        raise OSError(38, f"{name}: no such call on this machine")
    words = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    return check(_libc.syscall(ctypes.c_long(which), *words), name)


def prctl(option: int, *arguments: Any) -> None:
    words = [ctypes.c_ulong(one) if isinstance(one, int) else one for one in arguments]
    words += [ctypes.c_ulong(0)] * (4 - len(words))
    check(_libc.prctl(option, *words), "prctl")


def introduce(name: str, signal: int) -> None:
    """The process's name for ps(1), and the signal of its parent's death."""
    prctl(PR_SET_NAME, name.encode())
    prctl(PR_SET_PDEATHSIG, signal)


def unshare(flags: int) -> None:
    syscall("unshare", flags)


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    words = [word.encode() or None for word in (source, target, kind)]
    check(_libc.mount(*words, ctypes.c_ulong(flags), data.encode() or None), f"mount {target}")


def pivot_root(new: str, old: str) -> None:
    syscall("pivot_root", new.encode(), old.encode())


def umount(target: str, flags: int) -> None:
    check(_libc.umount2(target.encode(), flags), f"umount {target}")


def drop_capabilities() -> None:
    """All of them, for good as far as this process can: the bounding set needs one of them."""
    for capability in range(_LAST_CAPABILITY + 1):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError:  # beyond the kernel's last one, or not ours to drop
            break
    prctl(PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    header = ctypes.create_string_buffer(struct.pack("=Ii", _LINUX_CAPABILITY_VERSION_3, 0))
    syscall("capset", header, ctypes.create_string_buffer(24))


def seccomp(program: bytes) -> None:
    """Load a filter, for all threads."""
    memory = ctypes.create_string_buffer(program, len(program))
    fprog = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(memory)))
    if (failed := syscall("seccomp", _SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC, fprog)) > 0:
        raise OSError(3, f"seccomp: thread {failed} cannot take the filter")


def landlock_version() -> int:
    """landlock(7)'s ABI; 0 where the kernel has none."""
    try:
        return syscall("landlock_create_ruleset", None, 0, _LANDLOCK_CREATE_RULESET_VERSION)
    except OSError:
        return 0


def landlock_network(version: int, ports: tuple[int, ...]) -> None:
    """No TCP but connecting to `ports` (from version 4 on); no abstract sockets and signals (6) outward.

    Of this thread and those that it starts.
    """
    scopes = _LANDLOCK_SCOPES if version >= 6 else 0
    attributes = struct.pack("=QQQ", 0, LANDLOCK_BIND_TCP | LANDLOCK_CONNECT_TCP, scopes)
    attributes = attributes[: 24 if version >= 6 else 16]
    rules = syscall("landlock_create_ruleset", ctypes.create_string_buffer(attributes), len(attributes), 0)
    try:
        for port in ports:
            rule = ctypes.create_string_buffer(struct.pack("=QQ", LANDLOCK_CONNECT_TCP, port))
            syscall("landlock_add_rule", rules, _LANDLOCK_RULE_NET_PORT, rule, 0)
        syscall("landlock_restrict_self", rules, 0)
    finally:
        os.close(rules)
