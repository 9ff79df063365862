# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of docs/fidelity.md: what may differ, line by line.

A row is ``| case | directly | through avne | why |``; the second and third cell hold the lines that only
that transcript has, in their order, each as `code` and `<br>` between them.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import NamedTuple

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "fidelity.md"
HEAD = "| case | directly | through avne | why |"


class Difference(NamedTuple):
    """The lines that one of two transcripts has and the other has not."""

    direct: tuple[str, ...]
    avne: tuple[str, ...]


NONE = Difference((), ())


def difference(direct: list[str], avne: list[str]) -> Difference:
    lines = [line for line in difflib.ndiff(direct, avne) if line[0] in "-+"]
    return Difference(
        tuple(line[2:] for line in lines if line[0] == "-"),
        tuple(line[2:] for line in lines if line[0] == "+"),
    )


def row(case: str, found: Difference, why: str) -> str:
    cells = ["<br>".join(f"`{line.replace('|', chr(92) + '|')}`" for line in lines) for lines in found]
    return f"| {case} | {cells[0]} | {cells[1]} | {why} |"


def listed(text: str) -> dict[str, Difference]:
    """The rows of the table, by case.  Raises `ValueError` for one that lists nothing or gives no reason."""
    rows = {}
    for line in text.partition(HEAD)[2].splitlines()[2:]:
        if not line.startswith("|"):
            break
        case, direct, avne, why = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
        found = Difference(_lines(direct), _lines(avne))
        if case in rows or found == NONE or len(why) < 20:
            raise ValueError(f"a row that is there twice, lists nothing or gives no reason: {line}")
        rows[case] = found
    return rows


def _lines(cell: str) -> tuple[str, ...]:
    return tuple(code.replace("\\|", "|") for code in re.findall(r"`([^`]*)`", cell))
