# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run tells other commands about itself: ``meta`` in its session's directory.

For people to read (``avne ps``): nothing is authorised by it.  Of the program only the name is
kept, and of the upstream no password, though nobody else can read the file.
"""

from __future__ import annotations

import os
from typing import Any

import msgpack

from avne.paths import Live

_FILE = "meta"


def write(directory: str, about: dict[str, Any]) -> None:
    """As a whole or not at all, mode 0600."""
    fd = os.open(f"{directory}/{_FILE}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        msgpack.pack(about, file)
    os.replace(f"{directory}/{_FILE}.new", f"{directory}/{_FILE}")


def read(session: Live) -> dict[str, Any]:
    """What is known of it; of one that has not started its program only ``id`` and ``name``."""
    known = {"id": session.id, "name": session.name}
    try:
        with open(f"{session.directory}/{_FILE}", "rb") as file:
            return {**known, **msgpack.load(file)}
    except OSError:
        return known
