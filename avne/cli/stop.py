# SPDX-License-Identifier: GPL-3.0-or-later
"""``avne stop``: TERM to an environment's program, KILL after five seconds; waits for the end.
``avne reload``: a new network for it; ``avne newnym``: new circuits."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket

from avne.cli import meta, target
from avne.cli.doors import NEWNYM, RELOAD, STOP
from avne.errors import AvneError


def stop(which: str) -> int:
    """Raises `AvneError` where there is no such environment, or it does not hear."""
    session = target.named(which)
    with contextlib.suppress(FileNotFoundError):  # it ended just now
        directory = os.open(session.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _ask(f"{session.directory}/{STOP}")
            # Who runs it holds this lock until nothing is left.
            fcntl.flock(directory, fcntl.LOCK_SH)
        finally:
            os.close(directory)
    return 0


def reload(which: str) -> int:
    """Raises `AvneError` where there is no such environment, or it does not hear."""
    session = target.named(which)
    _ask(f"{session.directory}/{RELOAD}")
    return 0


def newnym(which: str) -> int:
    """Raises `AvneError` where there is no such environment, it has no circuits, or it does not hear."""
    session = target.named(which)
    if not meta.read(session).get("circuits", True):
        raise AvneError(
            f"no upstream of {which} is Tor, and only Tor has circuits",
            "Restart the program with another proxy, or with --upstream tor.",
        )
    _ask(f"{session.directory}/{NEWNYM}")
    return 0


def _ask(path: str) -> None:
    """To connect is to ask."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
        try:
            line.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            pass  # it is ending already
        except OSError as error:
            raise AvneError(
                f"the environment cannot be reached: {error.strerror}", "End its avne run: see avne ps"
            ) from error
