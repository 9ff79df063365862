# SPDX-License-Identifier: GPL-3.0-or-later
"""Drives the helper through launch.py as somebody, on a machine of the test's own.

A test forks (`apart`): the child gets its own mount namespace with the /dev/net/tun it is to have,
becomes the user, and runs helper and program; only its answer, JSON, comes back.  Nothing of the
host is changed, and what the child mounts ends with it.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import signal
import socket
import stat
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from avne.privileged import launch

PYTHON = os.path.realpath(sys.executable)
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
UID, GID, GROUPS = 54321, 54321, [54322, 54323]  # nobody that the machine knows
BOUND = 20.0

CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 1 << 18

_libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def unshare(flags: int) -> None:
    checked(_libc.unshare(flags))


def mount(
    source: str, target: str | os.PathLike[str], kind: str = "", flags: int = 0, options: str = ""
) -> None:
    where = os.fsencode(target)
    checked(
        _libc.mount(source.encode(), where, kind.encode(), ctypes.c_ulong(flags), options.encode() or None)
    )


def ptrace_seize(pid: int) -> None:
    checked(_libc.ptrace(0x4206, pid, None, None))


class Mode(NamedTuple):
    """Who starts which helper: `uid` with `groups`, where the tun node has `tun` as its mode."""

    name: str
    uid: int
    gid: int
    groups: list[int]
    tun: int


ROOT = Mode("root", 0, 0, [0, 54322], 0o600)
ROOTLESS = Mode("rootless", UID, GID, GROUPS, 0o666)
SETUID = Mode("setuid", UID, GID, GROUPS, 0o600)
MODES = (ROOT, ROOTLESS, SETUID)


def apart(work: Callable[[], Any]) -> Any:
    """What `work` gives, done in a child process; an exception there is a failure here."""
    answer, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(answer)
            reply = json.dumps([True, work()])
        except BaseException:
            reply = json.dumps([False, traceback.format_exc()])
        with open(theirs, "w") as file:
            file.write(reply)
        os._exit(0)
    os.close(theirs)
    try:
        with open(answer, "rb") as file:
            if not select.select([file], [], [], BOUND)[0]:
                os.kill(pid, signal.SIGKILL)
            reply = file.read()
    finally:
        os.waitpid(pid, 0)
    assert reply, f"no answer within {BOUND} s"
    good, value = json.loads(reply)
    assert good, value
    return value


def private_mounts() -> None:
    unshare(CLONE_NEWNS)
    mount("none", "/", "", MS_REC | MS_PRIVATE)


def private_tun(mode: int | None) -> None:
    """A /dev/net with a tun node of that mode, or without one."""
    os.makedirs("/dev/net", exist_ok=True)
    mount("tmpfs", "/dev/net", "tmpfs", 0, "mode=0755,size=4k")
    if mode is not None:
        os.mknod("/dev/net/tun", stat.S_IFCHR | mode, os.makedev(10, 200))
        os.chmod("/dev/net/tun", mode)


def setuid_copy(helper: Path, mode: int = 0o4750, gid: int = GID) -> Path:
    """The helper as `avne setup` installs it, on a tmpfs of this mount namespace."""
    place = helper.parent / "setuid"
    mount("tmpfs", place, "tmpfs", 0, "mode=0755")
    copy = place / "avne-helper"
    shutil.copyfile(helper, copy)
    os.chown(copy, 0, gid)
    os.chmod(copy, mode)
    return copy


def become(mode: Mode) -> None:
    os.setgroups(mode.groups)
    os.setresgid(mode.gid, mode.gid, mode.gid)
    os.setresuid(mode.uid, mode.uid, mode.uid)


def prepare(helper: Path, mode: Mode, arrange: Callable[[], Any] | None = None) -> Path:
    """Become the user of `mode` on such a machine; gives the helper to start.  `arrange`, as root,
    changes the machine first."""
    private_mounts()
    private_tun(mode.tun)
    path = setuid_copy(helper) if mode is SETUID else helper
    if arrange:
        arrange()
    become(mode)
    return path


class Outcome(NamedTuple):
    """What came of a run: events as lists, their name first, and what the program wrote."""

    events: list[list[Any]]
    out: str
    err: str

    @property
    def status(self) -> int:
        (status,) = [event[1] for event in self.events if event[0] == "Exited"]
        return int(status)

    @property
    def failed(self) -> list[Any]:
        (failed,) = [event[1:] for event in self.events if event[0] == "Failed"]
        return list(failed)


def names(event: launch.Event) -> list[Any]:
    return [type(event).__name__, *event]


def run_program(
    helper: str | os.PathLike[str],
    argv: list[str],
    env: dict[str, str] | None = None,
    ignored: int = 0,
    blocked: int = 0,
    meanwhile: Callable[[launch.Environment], None] | None = None,
    request: launch.Request = launch.NOTHING_MORE,
) -> list[list[Any]]:
    """One environment from its start to its end, in this process; its events in their order."""
    environment = launch.Environment(os.fspath(helper), request)
    events: list[list[Any]] = []
    tun = -1
    try:
        while True:
            event = environment.receive()
            if not isinstance(event, launch.Tun):
                events.append(names(event))
            if isinstance(event, launch.Tun):
                tun = event.fd
                os.close(event.diag)
                events.append(["Tun"])
                environment.go(argv, ENVIRONMENT if env is None else env, ignored, blocked)
            elif isinstance(event, launch.Started) and meanwhile:
                meanwhile(environment)
            elif isinstance(event, launch.Exited):
                environment.end()
            elif isinstance(event, launch.Failed | launch.Gone):
                return events
    finally:
        environment.close()
        if tun >= 0:
            os.close(tun)


def captured(work: Callable[[], list[list[Any]]], stdin: bytes = b"") -> list[Any]:
    """`work`'s events, and what it and its program wrote to standard output and error."""
    files = [os.memfd_create(name) for name in ("in", "out", "err")]
    os.pwrite(files[0], stdin, 0)
    for number, file in enumerate(files):
        os.dup2(file, number)
    events = work()
    return [events, *(os.pread(file, 1 << 20, 0).decode() for file in files[1:])]


def outside(
    argv: list[str],
    mode: Mode,
    before: Callable[[], Any] | None = None,
    stdin: bytes = b"",
    arrange: Callable[[], Any] | None = None,
) -> Outcome:
    """The same program as the same user without avne, for comparison."""

    def run() -> list[list[Any]]:
        pid = os.posix_spawnp(argv[0], argv, ENVIRONMENT)
        return [["Exited", os.waitpid(pid, 0)[1]]]

    def work() -> list[Any]:
        if arrange:
            private_mounts()
            arrange()
        become(mode)
        if before:
            before()
        return captured(run, stdin)

    return Outcome(*apart(work))


def inside(
    helper: Path,
    mode: Mode,
    argv: list[str],
    before: Callable[[], Any] | None = None,
    stdin: bytes = b"",
    arrange: Callable[[], Any] | None = None,
    look: Callable[[], launch.Request] | None = None,
    **settings: Any,
) -> Outcome:
    """`argv` in an environment of `mode`; `arrange` is called as root, `before` and then `look`, which
    gives the request, as the user, before the helper starts."""

    def work() -> list[Any]:
        path = prepare(helper, mode, arrange)
        if before:
            before()
        request = look() if look else launch.NOTHING_MORE
        return captured(lambda: run_program(path, argv, request=request, **settings), stdin)

    return Outcome(*apart(work))


class Line:
    """A helper started by hand, for what launch.py would not do; `raw` is our end of its line."""

    def __init__(self, helper: str | os.PathLike[str], kind: int = socket.SOCK_SEQPACKET) -> None:
        self.raw, theirs = socket.socketpair(socket.AF_UNIX, kind)
        self.raw.settimeout(BOUND)
        self.pid = launch.spawn([os.fspath(helper)], {3: theirs.fileno()}, {}, session=False)
        theirs.close()

    def send(self, kind: int, layout: int | None = None, fds: list[int] | None = None, **fields: int) -> None:
        values = [fields.get(key, 0) for key in ("stage", "value", "ignored", "blocked", "argc", "envc")]
        known = launch.layout() if layout is None else layout
        socket.send_fds(self.raw, [launch.MESSAGE.pack(launch.MAGIC, kind, known, *values)], fds or [])

    def receive(self) -> list[Any]:
        """``[type, stage or "", value]``; empty at the end of file."""
        data, fds, _, _ = socket.recv_fds(self.raw, 4096, 4)
        for fd in fds:
            os.close(fd)
        if not data:
            return []
        _, kind, _, stage, value, *_ = launch.MESSAGE.unpack(data)
        return [kind, launch.STAGES[stage] if kind == launch.FAILED else "", value]

    def close(self) -> int:
        """The exit code of the helper, negative where a signal ended it."""
        self.raw.close()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
