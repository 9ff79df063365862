# SPDX-License-Identifier: GPL-3.0-or-later
"""What happens to a run: one of its parts is killed, stopped, or gets no memory, descriptors or disk.

An act is done to one `Run`, with a random source, on the `Ground` that the runs share.
"""

from __future__ import annotations

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
from tests.chaos.ground import NET, WORKER, Ground

HOUR = 3600.0

Do = Callable[[Run, Random, Ground], None]


class Act(NamedTuple):
    """`after`: what is left of the run: "lives", "may end" (the netstack's sixth death), or "ends"."""

    name: str
    do: Do
    after: str = "lives"
    weight: int = 1


def _pid(run: Run, part: str, ground: Ground) -> int:
    if part == "supervisor":
        return run.supervisor
    if part == "init":
        return run.init
    if part == "guard":
        return _parent(run.init)
    if part == "program":
        (program,) = _children(run.init)
        return program
    return ground.part(run, part)


def _parent(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("PPid:")).split()[1])


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _kill(part: str) -> Do:
    return lambda run, _random, ground: os.kill(_pid(run, part, ground), signal.SIGKILL)


def _stop(part: str, longest: float) -> Do:
    def do(run: Run, random: Random, ground: Ground) -> None:
        process = os.pidfd_open(_pid(run, part, ground))
        try:
            signal.pidfd_send_signal(process, signal.SIGSTOP)
            time.sleep(random.uniform(0.05, longest))
            signal.pidfd_send_signal(process, signal.SIGCONT)
        finally:
            os.close(process)

    return do


def _limit(part: str, which: str, room: Callable[[int], int]) -> Do:
    """For a moment `part` may have no more of a resource than `room(pid)` says."""

    def do(run: Run, random: Random, ground: Ground) -> None:
        pid = _pid(run, part, ground)
        before = _limits(pid)[which]
        _set(pid, which, str(room(pid)))
        time.sleep(random.uniform(0.1, 0.6))
        _set(pid, which, before)  # fails where it did not survive that

    return do


def _limits(pid: int) -> dict[str, str]:
    """The soft limits by prlimit(1)'s names (proc_pid_limits(5))."""
    rows = Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]
    names = {"Max open files": "nofile", "Max address space": "as"}
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


def _full_disk(_run: Run, random: Random, ground: Ground) -> None:
    ground.fill()
    time.sleep(random.uniform(0.1, 0.6))
    ground.free()


def _wall_clock(_run: Run, random: Random, ground: Ground) -> None:
    """An hour to and fro, as where somebody sets it."""
    clocks = ground.clocks
    clocks.set(random.choice([at for at in (-HOUR, 0.0, HOUR) if at != clocks.wall]), clocks.monotonic)


def _suspend(_run: Run, random: Random, ground: Ground) -> None:
    """Minutes that nobody has lived through."""
    clocks = ground.clocks
    clocks.set(clocks.wall, clocks.monotonic + random.uniform(60, 900))


TOP = "supervisor"
ACTS = [
    Act("kill netstack", _kill(NET), "may end", 4),
    Act("kill worker", _kill(WORKER), "may end", 4),
    Act("kill supervisor", _kill(TOP), "ends", 2),
    Act("kill init", _kill("init"), "ends", 2),
    Act("kill guard", _kill("guard"), "ends", 2),
    Act("kill program", _kill("program"), "ends", 1),
    Act("stop netstack", _stop(NET, 3.0), weight=2),
    Act("stop worker", _stop(WORKER, 3.0), weight=2),
    Act("stop supervisor", _stop(TOP, 2.0)),
    Act("stop init", _stop("init", 1.0)),
    Act("no descriptors: netstack", _limit(NET, "nofile", _descriptors), "may end", 2),
    Act("no descriptors: worker", _limit(WORKER, "nofile", _descriptors), "may end", 2),
    Act("no descriptors: supervisor", _limit(TOP, "nofile", _descriptors), "may end"),
    Act("no memory: netstack", _limit(NET, "as", _memory), "may end", 2),
    Act("no memory: worker", _limit(WORKER, "as", _memory), "may end", 2),
    Act("full disk", _full_disk, weight=2),
    Act("wall clock an hour to or fro", _wall_clock),
    Act("monotonic clock minutes forward", _suspend, weight=2),
]
