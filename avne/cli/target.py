# SPDX-License-Identifier: GPL-3.0-or-later
"""Which environment is meant by a name, an id or a process, and what to say where none is."""

from __future__ import annotations

import os
from collections.abc import Sequence

from avne.errors import AvneError
from avne.paths import Live, live_sessions


def named(target: str) -> Live:
    """The environment of this name or id.  Raises `AvneError` where there is none."""
    sessions = live_sessions()
    for session in sessions:
        if target in (session.id, session.name):
            return session
    raise AvneError(f"there is no environment {target!r} of yours", _cure(sessions))


def process(number: int) -> int:
    """A pidfd(2) for it: whatever becomes of the number, this stays the process."""
    try:
        return os.pidfd_open(number)
    except (OSError, OverflowError):
        raise AvneError(
            f"there is no process {number}",
            "Give the number of a process in one of your environments, as ps shows it.",
        ) from None


def not_inside(number: int, sessions: Sequence[Live]) -> AvneError:
    """What to say of a process that none of them knows."""
    return AvneError(f"process {number} is in none of your environments", _cure(sessions))


def _cure(sessions: Sequence[Live]) -> str:
    if not sessions:
        return "None is running as this user; start one: avne run --name NAME PROGRAM"
    known = ", ".join(f"{one.id} ({one.name})" if one.name else one.id for one in sessions[:10])
    return f"Those there are: {known}. See: avne ps"
