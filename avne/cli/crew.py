# SPDX-License-Identifier: GPL-3.0-or-later
"""``avne workers``: an environment's upstream workers, and how many there are to be."""

from __future__ import annotations

import re
import socket
import sys
from typing import Any

import msgpack

from avne.cli import target
from avne.cli.doors import WORKERS
from avne.errors import EXIT_USAGE, AvneError

_BOUND = 10.0  # seconds until the answer
_ANSWER = 65536
_COLUMNS = ("worker", "pid", "upstream", "connections", "state")


def workers(which: str, change: str, as_json: bool) -> int:
    """Change their number by `change` ("+N", "-N", or "" for none), and list them.  Raises `AvneError`."""
    if change and not re.fullmatch(r"[+-][0-9]{1,3}", change):
        raise AvneError(f"{change!r} is no change of a number", "Write +2 or -1 for example.", EXIT_USAGE)
    session = target.named(which)
    answer = _ask(f"{session.directory}/{WORKERS}", change or "list")
    if len(answer) == 2 and isinstance(answer[0], str):
        raise AvneError(*answer)
    if as_json:
        import json

        sys.stdout.write(json.dumps(answer, indent=2) + "\n")
        return 0
    rows = [[column.upper() for column in _COLUMNS]]
    rows += [[str(row[column] or "-") if column != "connections" else str(row[column]) for column in _COLUMNS]
             for row in answer]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")
    return 0


def _ask(path: str, question: str) -> list[Any]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
        line.settimeout(_BOUND)
        try:
            line.connect(path)
            line.send(question.encode())
            data = line.recv(_ANSWER)
        except OSError as error:
            raise AvneError(
                f"the environment does not answer: {error.strerror or error}", "See whether it runs: avne ps"
            ) from error
    if not data:
        raise AvneError("the environment is ending", "See whether it runs: avne ps")
    answer: list[Any] = msgpack.unpackb(data)
    return answer
