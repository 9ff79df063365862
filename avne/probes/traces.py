# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run has of the host's, seen from outside in /proc: sockets of its processes, its namespace."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_TABLES = ("tcp", "tcp6", "udp", "udp6", "udplite", "udplite6", "raw", "raw6")
_HELPER = "avne-helper"  # it holds nothing but its line, and lets nobody look


def host_sockets(pid: int) -> tuple[list[int], list[int]]:
    """``(holders, closed)`` of that process and all below: those that hold an internet socket of this
    network namespace, but those that they have inherited from us, and those that we may not look into."""
    opened = set(_socket_inodes()) - set(_held(os.getpid()))
    holders, closed = [], []
    for process in _tree(pid):
        try:
            if opened & set(_held(process)):
                holders.append(process)
        except PermissionError:
            if _name(process) != _HELPER:
                closed.append(process)
        except OSError:
            continue  # it has ended
    return holders, closed


def _tree(pid: int) -> Iterator[int]:
    yield pid
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                yield from _tree(int(child))


def _held(pid: int) -> Iterator[int]:
    for number in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(f"/proc/{pid}/fd/{number}")
            if target.startswith("socket:["):
                yield int(target[8:-1])


def _socket_inodes() -> Iterator[int]:
    for name in _TABLES:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/self/net/{name}").read_text().splitlines()[1:]:
                yield int(line.split()[9])


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def namespace_users(inode: int) -> list[str]:
    """What keeps that network namespace: processes, mounts (of those that we may look at)."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if os.stat(f"{entry.path}/ns/net").st_ino == inode:
                    found.append(f"process {entry.name}")
    mounted = f"net:[{inode}]"
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        found += [f"mount {words[4]}" for words in map(str.split, lines) if words[3] == mounted]
    return found
