# SPDX-License-Identifier: GPL-3.0-or-later
"""Ways out through device nodes and what lies in /dev."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from pathlib import Path
from typing import Final

from avne.probes.probe import Finding, Plan, leaked, register, seen, sent

probe = register("devices")

HARMLESS: Final = frozenset(("null", "zero", "full", "random", "urandom", "tty", "ptmx", "console"))


@probe("L37", "device nodes beyond the harmless ones")
def dev_nodes(plan: Plan) -> Finding:
    extra = []
    for directory, names, files in os.walk("/dev"):
        names[:] = [name for name in names if name not in ("pts", "shm", "mqueue")]
        for name in files:
            path = os.path.join(directory, name)
            kind = os.lstat(path).st_mode
            device = stat.S_ISCHR(kind) or stat.S_ISBLK(kind)
            if device and not (directory == "/dev" and name in HARMLESS):
                extra.append(path)
    return seen(bool(extra), f"{len(extra)}: {', '.join(sorted(extra)[:3])}", "none")


@probe("L37", "the kernel's log")
def dev_kmsg(plan: Plan) -> Finding:
    os.close(os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK))
    return leaked("may be read")


@probe("L37", "a tun device of one's own")
def dev_tun(plan: Plan) -> Finding:
    os.close(os.open("/dev/net/tun", os.O_RDWR))
    return leaked("may be opened")


@probe("L37", "disks and the kernel's memory", root=True)
def dev_disks(plan: Plan) -> Finding:
    """Opened and not read.  The nodes are found as a program would."""
    last: OSError | None = FileNotFoundError(2, "no such node")
    for path in [*map(str, Path("/dev").glob("[hsv]d[a-z]")), "/dev/mem", "/dev/kmsg", "/dev/loop0"]:
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
            return leaked(f"{path} may be opened")
        except OSError as error:
            last = error
    assert last
    raise last


@probe("L37", "another terminal of the same user, in /dev/pts", ear=True)
def dev_pts(plan: Plan) -> Finding:
    fd = os.open(plan["other_terminal"], os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    os.write(fd, plan.token.encode() + b"\n")
    return sent()


@probe("L37", "a vsock's context id (/dev/vsock)")
def dev_vsock(plan: Plan) -> Finding:
    with open("/dev/vsock", "rb") as file:
        room = struct.pack("=I", 0)
        fcntl.ioctl(file, 0x7B9, room)
    return leaked("may be asked")


@probe("L36", "a file in /dev/shm")
def dev_shm(plan: Plan) -> Finding:
    return seen(Path(f"{plan['directories']['shm']}/file").read_text() == plan["ipc"]["secret"], "was read")
