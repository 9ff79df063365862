# SPDX-License-Identifier: GPL-3.0-or-later
"""What avne says to the user: on standard error, in lines that begin with ``avne: ``, and no more.

Standard output belongs to the program.  A message never fails the run: standard error may be
closed, or full.  Hence no stream of Python's, whose unwritten rest would change the exit code.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time

from avne.errors import AvneError

_STDERR = 2
_CLEAR = "\r\x1b[K"


class Console:
    """`quiet`: errors only.  `verbose` 1: a line for each phase, with the ms since the start; 2: the log."""

    def __init__(self, quiet: bool = False, verbose: int = 0) -> None:
        self.verbose = verbose
        self._quiet = quiet
        self._start = time.monotonic()
        self._progress = False

    def error(self, error: AvneError) -> None:
        self._write(f"avne: {error.problem}\n  {error.cure}\n")

    def notice(self, text: str) -> None:
        if not self._quiet:
            self._write(f"avne: {text}\n")

    def phase(self, text: str) -> None:
        if self.verbose:
            elapsed = (time.monotonic() - self._start) * 1000
            self._write(f"avne: {elapsed:6.0f} ms  {text}\n")

    def log(self, line: str) -> None:
        self._write(f"avne: {line}\n")

    def progress(self, text: str) -> None:
        """One line that is rewritten, on a terminal only; empty text takes it away."""
        if not self._quiet and is_terminal():
            if text or self._progress:
                self._write(f"{_CLEAR}avne: {text}" if text else _CLEAR, over=True)
            self._progress = bool(text)

    def _write(self, text: str, over: bool = False) -> None:
        if self._progress and not over:
            text = f"{_CLEAR}{text}"
            self._progress = False
        with contextlib.suppress(OSError):
            os.write(_STDERR, text.encode(sys.getfilesystemencoding(), "backslashreplace"))


def is_terminal() -> bool:
    """Whether standard error is a terminal that can rewrite a line."""
    return os.isatty(_STDERR) and os.environ.get("TERM", "dumb") != "dumb"


def colour(text: str, code: int) -> str:
    """`text` in an SGR colour, if standard output wants colours (no-color.org)."""
    wanted = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    return f"\x1b[{code}m{text}\x1b[0m" if wanted and not os.environ.get("NO_COLOR") else text
