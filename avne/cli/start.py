# SPDX-License-Identifier: GPL-3.0-or-later
"""avne's own processes, as they are started: they know nothing yet, and wait for their configuration.

The first thing that ``avne run`` does, before it reads its own command line (early.py): so this file
imports little.
"""

from __future__ import annotations

import contextlib
import os
import socket

from avne.errors import AvneError
from avne.spawn import child_environment, python, spawn

NETSTACK = "avne.netstack.process"
WORKER = "avne.upstream.worker"

_CONTROL_FD = 3

Started = tuple[socket.socket, int, int]  # control line, pid, the pipe of what it writes


def start(module: str) -> Started:
    """Raises `AvneError`."""
    control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    output, write_end = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(output, False)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fds = {0: null, 1: write_end, 2: write_end, _CONTROL_FD: theirs.fileno()}
        pid = spawn(python(module, str(_CONTROL_FD)), fds, child_environment(), session=True)
    except OSError as error:
        control.close()
        os.close(output)
        raise AvneError(
            f"cannot start {module}: {os.strerror(error.errno or 0)}", "Look at the limits: ulimit -a"
        ) from error
    finally:
        theirs.close()
        os.close(write_end)
        os.close(null)
    return control, pid, output


def settle_descriptors() -> None:
    """Open 0 to 2 where they are closed, so that nothing of ours takes their place, and keep what
    our caller left open beyond them from avne's processes; the helper closes it for the program.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # listdir's own
            if int(name) > 2:
                os.set_inheritable(int(name), False)
