# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m tests.bed.no_userns COMMAND…``: run COMMAND where user.max_user_namespaces is 0.

The setting belongs to a user namespace, so the machine's own is left alone: this makes a user namespace
that holds every user and group under their own numbers, and switches further ones off in there.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_CLONE_NEWUSER, _CLONE_NEWNS = 0x10000000, 0x00020000
_EVERYBODY = "0 0 4294967295\n"


def main() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    parent, child = os.pipe()
    pid = os.getpid()
    if os.fork() == 0:
        # The maps must be written by somebody with rights outside.
        os.close(child)
        os.read(parent, 1)
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{pid}/{name}").write_text(_EVERYBODY)
        os._exit(0)
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS):
        sys.exit(f"unshare: {os.strerror(ctypes.get_errno())}")
    os.close(child)
    _, status = os.wait()
    if status:
        sys.exit("cannot write the maps")
    Path("/proc/sys/user/max_user_namespaces").write_text("0")
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
