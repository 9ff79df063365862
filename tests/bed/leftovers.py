# SPDX-License-Identifier: GPL-3.0-or-later
"""What a test run has left behind: processes, namespaces, mounts, directories.

`watch_over` puts a process above the test run to which every orphan of the run is given
(PR_SET_CHILD_SUBREAPER) and which reaps them, as the machine's init would.  What is still below it at
the end of the run is ours and was left: no other process of the machine can be mistaken for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import select
import signal
import sys
from pathlib import Path

from tests.bed.namespaces import become_subreaper
from tests.bed.tornet.processes import process_start_time

DIRECTORIES = (
    "/run/avne-bed-{pid}-*",
    "/run/avne/[0-9a-f]*",
    "/run/user/*/avne/[0-9a-f]*",
    "/dev/shm/avne-*/avne/[0-9a-f]*",
)


def watch_over() -> None:
    """Fork: the child goes on as the test run; the parent reaps, passes signals on, and ends as it ends."""
    sys.stdout.flush()
    sys.stderr.flush()
    become_subreaper()  # before there can be an orphan; a child does not inherit it
    child = os.fork()
    if child == 0:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the child as well
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda got, _frame: os.kill(child, got))
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(word) for word in (task / "children").read_text().split()]
    return found


def _end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        process = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        select.select([process], [], [], 5)
        os.close(process)


def _describe(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return f"process {pid}"
    return f"process {pid} ({name}): {b' '.join(words).decode(errors='replace')[:200]}"


def processes(top: int, but: int) -> list[int]:
    """Every process below `top` that is not `but`."""
    found: list[int] = []
    waiting = [top]
    while waiting:
        for pid in _children(waiting.pop()):
            if pid != but:
                found.append(pid)
            waiting.append(pid)
    return found


class Snapshot:
    """What there was before the run."""

    def __init__(self) -> None:
        self._mounts = self._list_mounts()
        self._names = self._list_names()

    @staticmethod
    def _list_mounts() -> set[str]:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        return {line for line in lines if "avne" in line or "nsfs" in line or " /dev/net" in line}

    @staticmethod
    def _list_names() -> set[str]:
        patterns = [pattern.format(pid=os.getpid()) for pattern in DIRECTORIES]
        found = {path for pattern in patterns for path in glob.glob(pattern) if not is_held(path)}
        return found | set(glob.glob("/run/netns/*avne*")) | set(glob.glob("/usr/local/lib/avne-test-*"))

    def leftovers(self) -> list[str]:
        """A line for each thing that is there now and was not, and is nobody else's; processes are ended."""
        rows = [f"mount: {line}" for line in sorted(self._list_mounts() - self._mounts)]
        rows += [f"file: {path}" for path in sorted(self._list_names() - self._names)]
        for pid in processes(os.getppid(), os.getpid()):
            if process_start_time(pid):  # not a zombie
                rows.append(_describe(pid))
                _end(pid)
        return rows


def is_held(path: str) -> bool:
    """Does a living supervisor hold this session directory (avne/paths.py)?"""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
