# SPDX-License-Identifier: GPL-3.0-or-later
"""``avne ps``: the environments of this user that live, one line each."""

from __future__ import annotations

import sys
import time
from typing import Any

from avne.cli import meta
from avne.paths import live_sessions

_HEAD = ("ID", "NAME", "PID", "AGE", "MODE", "UPSTREAM", "OPEN", "PROGRAM")


def ps(as_json: bool) -> int:
    known = [meta.read(session) for session in live_sessions()]
    known.sort(key=lambda about: about.get("started", time.time()))
    if as_json:
        import json

        sys.stdout.write(json.dumps(known, indent=2) + "\n")
        return 0
    rows = [_HEAD, *(_row(about) for about in known)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    for row in rows:
        sys.stdout.write(
            "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        )
        sys.stdout.write("\n")
    return 0


def _row(about: dict[str, Any]) -> tuple[str, ...]:
    name = about["name"] or "-"
    if "started" not in about:
        return about["id"], name, "-", "-", "-", "-", "-", "(starting)"
    return (
        about["id"],
        name,
        str(about["supervisor"]),
        age(time.time() - about["started"]),
        about["mode"],
        about["upstream"],
        " ".join(about.get("opened", ())) or "-",
        about["program"].encode("unicode_escape").decode(),  # a terminal's commands are not ours to print
    )


def age(seconds: float) -> str:
    """``5s``, ``3m20s``, ``2h05m``, ``4d03h``."""
    whole = max(0, int(seconds))
    for unit, small, size, part in (("d", "h", 86400, 3600), ("h", "m", 3600, 60), ("m", "s", 60, 1)):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // part:02}{small}"
    return f"{whole}s"
