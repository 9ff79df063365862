# SPDX-License-Identifier: GPL-3.0-or-later
"""What happens to a run: one of its parts is killed, stopped, gets no memory or descriptors; disk and clock.

An act is done to one `Run` on its `Ground`, with a random source.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple

from tests.bed.runs import Run
from tests.chaos.ground import Ground

WORKER = "socks5 1"
Do = Callable[[Run, Ground, Random], None]


class Act(NamedTuple):
    """`after`: what is left of the run: "lives", "may end" (the netstack's sixth death), or "ends"."""

    name: str
    do: Do
    after: str = "lives"
    weight: int = 1


def pid_of(run: Run, ground: Ground, part: str) -> int:
    """Raises AssertionError where it is just being replaced."""
    if part == NET and ground.service:
        (netstack,) = hired(ground)
        return netstack
    if part == "supervisor":
        return run.supervisor
    if part == "init":
        return run.init
    if part == "guard":
        return _parent(run.init)
    if part == "program":
        (program,) = _children(run.init)
        return program
    return run.part(part)


def hired(ground: Ground) -> list[int]:
    """The netstacks of the service."""
    found = []
    for pid in _children(ground.service):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text() == f"avne [{NET}]\n":
                found.append(pid)
    return found


def _parent(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("PPid:")).split()[1])


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _kill(part: str) -> Do:
    return lambda run, ground, _random: os.kill(pid_of(run, ground, part), signal.SIGKILL)


def _stop(part: str, longest: float) -> Do:
    def do(run: Run, ground: Ground, random: Random) -> None:
        process = os.pidfd_open(pid_of(run, ground, part))
        try:
            signal.pidfd_send_signal(process, signal.SIGSTOP)
            time.sleep(random.uniform(0.05, longest))
            signal.pidfd_send_signal(process, signal.SIGCONT)
        finally:
            os.close(process)

    return do


def _limit(part: str, which: str, room: Callable[[int], int]) -> Do:
    """For a moment `part` may have no more of a resource than `room(pid)` says."""

    def do(run: Run, ground: Ground, random: Random) -> None:
        pid = pid_of(run, ground, part)
        before = _limits(pid)[which]
        _set(pid, which, str(room(pid)))
        time.sleep(random.uniform(0.1, 0.6))
        _set(pid, which, before)  # fails where it did not survive that

    return do


def _limits(pid: int) -> dict[str, str]:
    """The soft limits by prlimit(1)'s names (proc_pid_limits(5))."""
    rows = Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]
    names = {"Max open files": "nofile", "Max address space": "as", "Max file size": "fsize"}
    return {names[row[:26].strip()]: row[26:].split()[0] for row in rows if row[:26].strip() in names}


def _set(pid: int, which: str, soft: str) -> None:
    """As the process's own user: a root without CAP_SYS_RESOURCE may not."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    owner = next(line for line in status if line.startswith("Uid:")).split()[1]
    limit = ["prlimit", "--pid", str(pid), f"--{which}={soft}:"]
    subprocess.run(["setpriv", "--reuid", owner, "--clear-groups", *limit], capture_output=True, check=False)


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd")) + 1


def _memory(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


def _nothing(pid: int) -> int:
    return 0


def _full_disk(run: Run, ground: Ground, random: Random) -> None:
    """While there is something for the log: a worker dies, and has a successor."""
    with ground.full():
        os.kill(pid_of(run, ground, WORK), signal.SIGKILL)
        time.sleep(random.uniform(0.3, 0.8))


def _jump(run: Run, ground: Ground, wall: float, monotonic: float) -> None:
    for part in (TOP, NET, WORK):
        if not ground.has_clock(pid_of(run, ground, part)):
            raise RuntimeError(f"{part} has the machine's clock")
    ground.clock.jump(wall, monotonic)


def _set_clock(run: Run, ground: Ground, random: Random) -> None:
    """As an administrator, or NTP, does: forwards or back, by an hour at the most."""
    _jump(run, ground, random.uniform(-3600, 3600), 0)


def _suspend(run: Run, ground: Ground, random: Random) -> None:
    """What a machine that slept has missed: every timer is due at once."""
    seconds = random.choice((1.0, 30.0, 90.0, 600.0, 7200.0))
    _jump(run, ground, seconds, seconds)


NET, WORK, TOP = "net", WORKER, "supervisor"
ACTS = [
    Act("kill netstack", _kill(NET), "may end", 4),
    Act("kill worker", _kill(WORK), "may end", 4),
    Act("kill supervisor", _kill(TOP), "ends", 2),
    Act("kill init", _kill("init"), "ends", 2),
    Act("kill guard", _kill("guard"), "ends", 2),
    Act("kill program", _kill("program"), "ends", 1),
    Act("stop netstack", _stop(NET, 3.0), weight=2),
    Act("stop worker", _stop(WORK, 3.0), weight=2),
    Act("stop supervisor", _stop(TOP, 2.0)),
    Act("stop init", _stop("init", 1.0)),
    Act("no descriptors: netstack", _limit(NET, "nofile", _descriptors), "may end", 2),
    Act("no descriptors: worker", _limit(WORK, "nofile", _descriptors), "may end", 2),
    Act("no descriptors: supervisor", _limit(TOP, "nofile", _descriptors), "may end"),
    Act("no memory: netstack", _limit(NET, "as", _memory), "may end", 2),
    Act("no memory: worker", _limit(WORK, "as", _memory), "may end", 2),
    Act("no file may grow: supervisor", _limit(TOP, "fsize", _nothing)),
    Act("disk full, and a worker killed", _full_disk, "may end", 2),
    Act("wall clock set, ± 1 h", _set_clock, weight=2),
    Act("clocks jump, 1 s to 2 h", _suspend, weight=2),
]
