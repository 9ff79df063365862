# SPDX-License-Identifier: GPL-3.0-or-later
"""The processes below us: which there are, what they cost, and their end.

The benchmark is a subreaper (prctl(2)), so that a tool's daemons stay below it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import signal
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

_PR_SET_CHILD_SUBREAPER = 36


class BenchError(Exception):
    """A tool, or its environment, did not do what the benchmark needs."""


class Process(NamedTuple):
    """A row of the process table (proc_pid_stat(5))."""

    pid: int
    parent: int
    name: str
    ticks: int  # of CPU time, that of its reaped children included


def parse_stat(text: str) -> Process:
    """``/proc/PID/stat`` → its row; the name may hold spaces and parentheses."""
    opening, closing = text.index("("), text.rindex(")")
    rest = text[closing + 2 :].split()
    return Process(int(text[:opening]), int(rest[1]), text[opening + 1 : closing], sum(map(int, rest[11:15])))


def descendants(root: int) -> list[Process]:
    """Every process below `root`."""
    children: dict[int, list[Process]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with contextlib.suppress(OSError):  # it ended while we looked
                process = parse_stat(Path("/proc", entry, "stat").read_text())
                children.setdefault(process.parent, []).append(process)
    found, todo = [], list(children.get(root, ()))
    while todo:
        process = todo.pop()
        found.append(process)
        todo.extend(children.get(process.pid, ()))
    return found


def cpu_seconds(process: Process) -> float:
    """Its CPU time: exact from its live threads, or else by the clock's ticks."""
    exact = 0
    with contextlib.suppress(OSError, ValueError):
        for thread in os.listdir(f"/proc/{process.pid}/task"):
            text = Path(f"/proc/{process.pid}/task/{thread}/schedstat").read_text()
            exact += int(text.split()[0])
    return max(exact / 1e9, process.ticks / os.sysconf("SC_CLK_TCK"))


def memory_kib(pid: int) -> int:
    """The proportional set size of a process in KiB; 0 if it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


def command(*argv: object, stdin: str | None = None) -> str:
    """Run a command; its standard output, or `BenchError`."""
    words = [str(word) for word in argv]
    done = subprocess.run(words, input=stdin, capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"{shlex.join(words)}: {done.stderr.strip()}")
    return done.stdout


def stop(process: subprocess.Popen[Any]) -> None:
    """End a process of ours, gently if it can be."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def become_subreaper() -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def end_strays(keep: set[int]) -> None:
    """Kill what a tool left running, and reap it."""
    for process in descendants(os.getpid()):
        if process.pid not in keep:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, 0)
