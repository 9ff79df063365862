# SPDX-License-Identifier: GPL-3.0-or-later
"""A fault before there is one: so that a traceback of ours imports nothing later."""

from __future__ import annotations

import io
import sys


def warm_up() -> None:
    """Writes a traceback, where nobody reads it."""
    try:
        b"\xff".decode("ascii")
    except UnicodeDecodeError as error:
        stderr, sys.stderr = sys.stderr, io.StringIO()
        sys.excepthook(type(error), error, error.__traceback__)
        sys.stderr = stderr
