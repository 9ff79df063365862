# SPDX-License-Identifier: GPL-3.0-or-later
"""A helper that is stopped before each of its system calls, and what can be done to it there.

`Steps` traces (ptrace(2), as root) a supervisor that is an ordinary user, the helper it starts and what
comes of that, up to the program's exec.  `thief` is another process of the same user, which tries to take
a process over.  All of it runs in `stage.apart`, on mounts of its own.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from avne.privileged import launch
from tests.privileged import stage

# What the program says of itself; nothing else may ever be said.
CONFESSION = ["grep", "-E", "^(Uid|CapPrm|CapEff|NoNewPrivs|Seccomp):", "/proc/self/status"]

CONT, DETACH, SYSCALL = 7, 17, 24
GETEVENTMSG, SEIZE, LISTEN, GET_SYSCALL_INFO = 0x4201, 0x4206, 0x4208, 0x420E
ATTACH = 16
_OPTIONS = 1 | 2 | 4 | 8 | 0x10 | 0x100000  # SYSGOOD FORK VFORK CLONE EXEC EXITKILL
_FORKS, _EXEC = (1, 2, 3), 4
_WALL = 0x40000000
_SYSCALL_STOP = signal.SIGTRAP | 0x80
_ENTRY = 1
PR_SET_CHILD_SUBREAPER = 36
PIDFD_OPEN, PIDFD_GETFD = 434, 438

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def ptrace(request: int, pid: int, address: int = 0, data: Any = 0) -> int:
    return stage.checked(_libc.ptrace(request, pid, address, data))


def subreaper() -> None:
    """Whatever loses its parent becomes a child of this process: it sees what is left."""
    stage.checked(_libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


def dumpable() -> None:
    """As a process is that was started by an ordinary user, and has not become one."""
    stage.checked(_libc.prctl(4, 1, 0, 0, 0))


def session(
    path: str | os.PathLike[str],
    argv: list[str],
    before: Callable[[], Any] | None = None,
    words: list[str] | None = None,
    env: dict[str, str] | None = None,
    look: Callable[[launch.Environment], None] | None = None,
) -> list[Any]:
    """One environment from its start to its end, as `stage.run_program` in `stage.captured`.

    `before` runs in the helper's process, before it is exec'd as `words` with `env`; `look` once the tun
    is there.
    """

    def spawn(argv: list[str], fds: dict[int, int], _env: dict[str, str], session: bool) -> int:
        pid = os.fork()
        if pid == 0:
            with suppress(BaseException):
                os.dup2(fds[3], 3)
                if before:
                    before()
                os.execve(argv[0], words or argv, env or {})
            os._exit(99)
        return pid

    def run() -> list[list[Any]]:
        if before or words or env:
            launch.spawn = spawn
        environment = launch.Environment(os.fspath(path))
        events: list[list[Any]] = []
        while not events or events[-1][0] not in ("Failed", "Gone"):
            event = environment.receive()
            events.append(["Tun"] if isinstance(event, launch.Tun) else stage.names(event))
            if isinstance(event, launch.Tun):
                if look:
                    look(environment)
                environment.go(argv, stage.ENVIRONMENT, 0, 0)
            elif isinstance(event, launch.Exited):
                environment.end()
        environment.close()
        return events

    return stage.captured(run)


def fork(work: Callable[[], Any]) -> tuple[int, int]:
    """The pid of a child that does `work`, and what its answer, JSON, can be read from."""
    answer, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        with suppress(BaseException), open(theirs, "w") as file:
            os.close(answer)
            json.dump(work(), file)
            code = 0
        os._exit(code)
    os.close(theirs)
    return pid, answer


def answer_of(fd: int) -> Any:
    """What `fork` told; None where it was killed before."""
    with open(fd) as file:
        text = file.read()
    return json.loads(text) if text else None


# ---- who wants to take it over --------------------------------------------------------------


def _get_fd(pid: int) -> None:
    pidfd = stage.checked(_libc.syscall(PIDFD_OPEN, pid, 0))
    try:
        os.close(stage.checked(_libc.syscall(PIDFD_GETFD, pidfd, 3, 0)))
    finally:
        os.close(pidfd)


_TRIES: dict[str, Callable[[int], Any]] = {
    "pidfd_getfd": _get_fd,
    "mem": lambda pid: os.close(os.open(f"/proc/{pid}/mem", os.O_RDWR)),
    "fd": lambda pid: os.readlink(f"/proc/{pid}/fd/3"),
    "root": lambda pid: os.close(os.open(f"/proc/{pid}/root/etc", os.O_RDONLY)),
    "cwd": lambda pid: os.readlink(f"/proc/{pid}/cwd"),
    "environ": lambda pid: Path(f"/proc/{pid}/environ").read_bytes(),
    "seize": lambda pid: ptrace(SEIZE, pid),
    "attach": lambda pid: ptrace(ATTACH, pid),
}


def takes(pid: int) -> list[str]:
    """The ways by which this process gets hold of that one."""
    ways = []
    for name, way in _TRIES.items():
        with suppress(OSError):
            way(pid)
            ways.append(name)
    return ways


class Thief:
    """A process of the user `mode` that tries to take over whatever pid it is told."""

    def __init__(self, mode: stage.Mode) -> None:
        read, self._ask = os.pipe()
        self._answer, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            with suppress(BaseException):
                os.close(self._ask)
                stage.become(mode)
                with open(read) as asked:
                    for line in asked:
                        os.write(write, json.dumps(takes(int(line))).encode() + b"\n")
            os._exit(0)
        os.close(read)
        os.close(write)
        self._lines = open(self._answer)  # noqa: SIM115 (until `close`)

    def takes(self, pid: int) -> list[str]:
        os.write(self._ask, f"{pid}\n".encode())
        return list(json.loads(self._lines.readline()))

    def close(self) -> None:
        os.write(self._ask, b"enough\n")
        os.close(self._ask)
        self._lines.close()
        os.waitpid(self.pid, 0)


# ---- step by step ---------------------------------------------------------------------------


class Steps:
    """A session under ptrace; `on_step(self, pid)` is called before each system call of the helper.

    `count` is the number of it.  `guard`, `init`: their pids, once they are there.
    """

    def __init__(self, path: Path, mode: stage.Mode, on_step: Callable[[Steps, int], Any]) -> None:
        self.count = self.guard = self.init = 0
        self.number = -1  # of the system call
        self._on_step = on_step
        self._helpers: set[int] = set()
        self._known: set[int] = set()
        self._held: set[int] = set()
        self._stepping = True
        ready, go = os.pipe()

        def supervise() -> Any:
            os.close(go)
            stage.become(mode)
            os.read(ready, 1)
            return session(path, CONFESSION)

        self.supervisor, self._told = fork(supervise)
        self._known.add(self.supervisor)
        ptrace(SEIZE, self.supervisor, 0, _OPTIONS)
        os.close(ready)
        os.close(go)

    def run(self) -> Any:
        """The session's events and output, None where the supervisor was killed; all processes have ended."""
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, _WALL)
                with suppress(ProcessLookupError):  # it may have been killed meanwhile
                    if os.WIFSTOPPED(status):
                        self._stopped(pid, os.WSTOPSIG(status), status >> 16)
        return answer_of(self._told)

    def go_free(self) -> None:
        """No more steps."""
        self._stepping = False

    def kill(self, pid: int) -> None:
        self.go_free()
        os.kill(pid, signal.SIGKILL)

    def stop(self, pid: int) -> None:
        """Leave it to itself, stopped; it is the one that `on_step` was called for."""
        self.go_free()
        ptrace(DETACH, pid, 0, signal.SIGSTOP)
        self._helpers.discard(pid)
        self._known.discard(pid)
        while _state(pid) not in "TZ":
            os.sched_yield()

    def _stopped(self, pid: int, number: int, event: int) -> None:
        deliver = 0
        if event in _FORKS:
            new = ctypes.c_ulong()
            ptrace(GETEVENTMSG, pid, 0, ctypes.byref(new))
            self._born(int(new.value), pid)
        elif event == _EXEC:
            self._executed(pid)
        elif event:
            if pid not in self._known:
                self._held.add(pid)
                return
        elif number == _SYSCALL_STOP:
            self._step(pid)
            if pid not in self._known:
                return
        else:
            deliver = number
        self._resume(pid, deliver)

    def _born(self, pid: int, parent: int) -> None:
        self._known.add(pid)
        if parent in self._helpers:
            self._helpers.add(pid)
            self.init = self.init or pid
        if pid in self._held:
            self._held.discard(pid)
            self._resume(pid, 0)

    def _executed(self, pid: int) -> None:
        if not self.guard:
            self.guard = pid
            self._helpers.add(pid)
        elif pid != self.guard:
            self._helpers.discard(pid)  # the program

    def _step(self, pid: int) -> None:
        room = ctypes.create_string_buffer(88)
        with suppress(ProcessLookupError):
            ptrace(GET_SYSCALL_INFO, pid, len(room), room)
            if room.raw[0] == _ENTRY and self._stepping:
                (self.number,) = struct.unpack_from("=Q", room.raw, 24)
                self.count += 1
                self._on_step(self, pid)

    def _resume(self, pid: int, deliver: int) -> None:
        stepped = self._stepping and pid in self._helpers
        with suppress(ProcessLookupError):  # it may have been killed
            ptrace(SYSCALL if stepped else CONT, pid, 0, deliver)


def _state(pid: int) -> str:
    """As in proc(5); Z where it has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return "Z"


def wake(pid: int) -> None:
    with suppress(ProcessLookupError):  # that step was its last
        os.kill(pid, signal.SIGCONT)


def is_good(events: list[list[Any]]) -> bool:
    """Nothing but the steps of request.h, in their order, as far as they came."""
    whole = [["Tun"], ["Started"], ["Exited", 0], ["Gone"]]
    return events == whole[: len(events)] or events[-1][0] in ("Gone", "Failed")


LIMITS = {name: getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")}
del LIMITS["RLIMIT_OFILE"]  # a second name of NOFILE
