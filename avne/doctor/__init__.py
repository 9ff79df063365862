# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``avne doctor`` looks at, a line each: the machine, the helpers, Tor, the clock.

A check does the real thing where it can.  It gives a few words where all is well, raises `Limited` where
avne works but with less, and the `AvneError` that ``avne run`` would show where it does not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from avne.errors import AvneError

OK: Final = "ok"
LIMITED: Final = "limited"
FAILS: Final = "fails"


class Limited(Exception):
    """It works, but not all of it; `problem` and `cure` as of `AvneError`."""

    def __init__(self, problem: str, cure: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.cure = cure


class Line(NamedTuple):
    """One line of the report; `cure` is empty where nothing is wrong."""

    name: str
    state: str
    detail: str
    cure: str = ""


def look(name: str, check: Callable[[], str]) -> Line:
    """What one check finds."""
    try:
        return Line(name, OK, check())
    except Limited as less:
        return Line(name, LIMITED, less.problem, less.cure)
    except AvneError as error:
        return Line(name, FAILS, error.problem, error.cure)
