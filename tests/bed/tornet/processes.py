# SPDX-License-Identifier: GPL-3.0-or-later
"""Small helpers around processes, files and waiting."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

LOOPBACK = "127.0.0.1"


class TornetError(Exception):
    """A failure with a message fit for the user."""


class MissedVote(TornetError):
    """The first consensus came too early, and the next one is far away."""


class Progress:
    """Progress goes to stderr, so that stdout holds nothing but JSON."""

    quiet = False
    begin = time.monotonic()

    @classmethod
    def say(cls, message: str) -> None:
        if not cls.quiet:
            elapsed = time.monotonic() - cls.begin
            print(f"[{elapsed:6.2f}s] {message}", file=sys.stderr, flush=True)


def find_program(name: str) -> str:
    """Absolute path of a program, looking in the sbin directories as well."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin:/usr/local/sbin"
    found = shutil.which(name, path=path)
    if not found:
        raise TornetError(f"{name} not found; on Debian: apt-get install --no-install-recommends tor")
    return found


def process_start_time(pid: int) -> int | None:
    """Kernel start time of a live process; None if gone or a zombie.

    Stored beside each pid, so that a recycled pid is never signalled.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    if fields[0] in "ZX":
        return None
    return int(fields[19])


def is_alive(pid: int, started: int) -> bool:
    return bool(pid) and process_start_time(pid) == started


def pss_kib(pid: int) -> int:
    """Proportional set size of a process in KiB (shared pages divided)."""
    for name, key in (("smaps_rollup", "Pss:"), ("status", "VmRSS:")):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/{name}").read_text().splitlines():
                if line.startswith(key):
                    return int(line.split()[1])
    return 0


def write_atomic(path: Path, text: str) -> None:
    tmp = path.with_name(path.name + ".tmp")
    tmp.write_text(text)
    tmp.replace(path)


def tail(path: Path, lines: int = 8, only: str | None = None) -> str:
    try:
        rows = path.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    if only:
        rows = [row for row in rows if re.search(only, row)]
    return "\n".join(rows[-lines:])


def poll(
    what: str,
    check: Callable[[], bool],
    deadline: float,
    interval: float = 0.05,
    detail: Callable[[], str] = lambda: "",
) -> None:
    """Call check() until it is true; TornetError when the deadline passes."""
    while not check():
        if time.monotonic() > deadline:
            raise TornetError(f"time limit: {what} {detail()}".rstrip())
        time.sleep(interval)
