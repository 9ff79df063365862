# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps by which a part of avne locks itself in.  The order is in the package's text.

`isolate`
    Should: be called with one thread, before any byte that a program or a server can choose.
    Mustn't: be called before everything is imported; there are no files afterwards.
`seal`
    Should: come last, when every thread that libraries start is there.
    Mustn't: be followed by anything that the policy does not have.  End with ``os._exit``.

Where an ordinary user may make no user namespace `isolate` does without namespaces and an empty root, or
without the latter; it says what it got.  Whatever else fails is an OSError, and the part must end of it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
from typing import Final, NamedTuple

from avne.confine import kernel
from avne.confine.barrier import Barrier
from avne.confine.bpf import assemble, encode
from avne.confine.calls import this_machine
from avne.confine.kernel import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    MNT_DETACH,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
)  # fmt: skip
from avne.confine.rules import Policy

SYSTEM_USER: Final = "avne"
_SPARE_IDS: Final = range(
    61180, 61000, -1
)  # for a root that has no such user: nobody's, on Debian and Fedora
_LANDLOCK_NETWORK: Final = 4  # its first version that knows of TCP
_OWN: Final = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP
_SAFE: Final = MS_NOSUID | MS_NODEV | MS_NOEXEC
_REFUSALS: Final = (errno.EPERM, errno.EACCES, errno.ENOSPC, errno.EUSERS, errno.EINVAL, errno.ENOSYS)


class Wish(NamedTuple):
    """What a part wants to be left with."""

    network: bool = False  # the host's, for a worker whose proxy is reached by TCP
    files: bool = False  # those of the host as well, for one that looks up its proxy's name
    descriptors: bool = False  # runtime.DESCRIPTORS, whose links lead to what its own descriptors are
    ports: tuple[int, ...] | None = ()  # to connect to by TCP, where there is a network; None for any
    file_size: bool = False  # may write files that it was given
    drops_root: bool = True  # becomes an unprivileged user if it is root


class Got(NamedTuple):
    """What `isolate` came to: for the log, and for `avne doctor --sandbox`."""

    namespaces: bool
    empty_root: bool
    landlock: int  # its version, 0 for none
    user: int  # the uid

    def fields(self) -> dict[str, int]:
        return {name: int(value) for name, value in self._asdict().items()}


class Sandbox:
    """Made at the start of the process, when ``/proc`` is there."""

    def __init__(self) -> None:
        self._barrier = Barrier()

    def isolate(self, wish: Wish) -> Got:
        """Everything but the filter.  Raises OSError."""
        if self._barrier.count() != 1:
            raise OSError(errno.EBUSY, "there are threads already")
        limit(wish.file_size)
        got = _leave(wish)
        kernel.drop_capabilities()
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        version = kernel.landlock_version() if wish.ports is not None else 0
        if version < _LANDLOCK_NETWORK:
            return got
        kernel.landlock_network(version, wish.ports or ())
        return got._replace(landlock=version)

    def seal(self, policy: Policy, threads: int = 0) -> int:
        """The filter, with `threads` besides ours; gives how many calls it allows.  Raises OSError."""
        machine = this_machine()
        if machine is None:
            raise OSError(errno.ENOSYS, f"no table of system calls for {os.uname().machine}")
        program = encode(assemble(policy, machine))
        self._barrier.wait(threads)
        # What became of the identity has cleared it (prctl(2)); who died before that has closed its line.
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        # Not before: a process that is not dumpable may not look at its own threads.
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
        kernel.seccomp(program)
        return len(policy.allowed)


def limit(file_size: bool) -> None:
    """No core, no file, no locked memory, no message queue.

    (Of the core 1 byte, not 0: that would not stop one that goes to a pipe, core(5).)
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a flow is a descriptor
    limits = {resource.RLIMIT_CORE: 1, resource.RLIMIT_MEMLOCK: 0, resource.RLIMIT_MSGQUEUE: 0}
    if not file_size:
        limits[resource.RLIMIT_FSIZE] = 0
    for which, most in limits.items():
        with contextlib.suppress(ValueError):  # an inherited limit is lower
            resource.setrlimit(which, (most, most))


def _leave(wish: Wish) -> Got:
    """Namespaces, an empty root, another user; Landlock is still to come."""
    flags = _OWN if wish.network else _OWN | CLONE_NEWNET
    if os.geteuid() == 0:
        owned = _unshared(flags)  # by root, so that whoever we become has no right over them
        emptied = owned and not wish.files and _empty_root(wish.descriptors)
        user = become_unprivileged() if wish.drops_root else 0
        if owned:
            _unshared(CLONE_NEWUSER)  # in which nobody is mapped
            return Got(True, emptied, 0, user)
    user, group = os.geteuid(), os.getegid()
    if not _unshared(flags | CLONE_NEWUSER):
        return Got(False, False, 0, user)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{user} {user} 1")
    _write("/proc/self/gid_map", f"{group} {group} 1")
    return Got(True, not wish.files and _empty_root(wish.descriptors), 0, user)


def _unshared(flags: int) -> bool:
    try:
        kernel.unshare(flags)
    except OSError as error:
        if error.errno in _REFUSALS:
            return False
        raise
    return True


def _write(path: str, content: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, content.encode())
    finally:
        os.close(fd)


def _empty_root(descriptors: bool) -> bool:
    """A root with nothing in it, or with our own descriptors; nothing can be made there.

    False where user namespaces are without rights (AppArmor on Ubuntu 24.04): the files stay in sight.
    """
    try:
        kernel.mount("", "/", "", MS_REC | MS_PRIVATE)
    except PermissionError:
        return False
    os.chdir("/proc/self/fd")  # which is covered next
    inodes, mode = (2, "0111") if descriptors else (1, "0")
    kernel.mount("tmpfs", "/proc", "tmpfs", _SAFE, f"size=4k,nr_inodes={inodes},mode={mode}")
    if descriptors:
        os.mkdir("/proc/fd", 0o111)
        kernel.mount(".", "/proc/fd", "", MS_BIND)
    os.chdir("/proc")
    try:
        kernel.pivot_root(".", ".")
        kernel.umount(".", MNT_DETACH)
    except OSError as error:
        if error.errno != errno.EINVAL:  # the root is the initial ramdisk's, which cannot be left so
            raise
        os.chroot(".")
    os.chdir("/")
    kernel.mount("", "/", "", MS_REMOUNT | MS_BIND | MS_RDONLY | _SAFE)
    return True


def _unprivileged() -> tuple[int, int]:
    """The uid and gid that a part of root's takes: of the system user `SYSTEM_USER`, else of nobody's.

    Of ``/etc/passwd``, without those who may be asked otherwise for names, on the network for one.
    """
    rows: list[list[str]] = []
    with contextlib.suppress(OSError), open("/etc/passwd", encoding="utf-8", errors="replace") as file:
        rows = [line.split(":") for line in file]
    ids = {row[0]: (int(row[2]), int(row[3])) for row in rows if len(row) == 7 and row[2].isdigit()}
    if SYSTEM_USER in ids:
        return ids[SYSTEM_USER]
    taken = {user for user, _ in ids.values()}
    spare = next(one for one in _SPARE_IDS if one not in taken)
    return spare, spare


def become_unprivileged() -> int:
    """Root becomes the user that its parts are; gives the uid, which stays 0 where there is no other."""
    _become(_unprivileged())
    return os.getuid()


def _become(identity: tuple[int, int]) -> None:
    """For good.  A root that has not got that uid (in a user namespace of few) stays what it is."""
    user, group = identity
    try:
        os.setgroups([])
        os.setresgid(group, group, group)
        os.setresuid(user, user, user)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EPERM):
            raise
        return
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # until `seal`: it has to look at its own threads
    with contextlib.suppress(PermissionError):
        os.setuid(0)
        raise OSError(errno.ENOTRECOVERABLE, "root could be regained")
