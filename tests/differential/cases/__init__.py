# SPDX-License-Identifier: GPL-3.0-or-later
"""The cases, by topic.  The docstring of each says what is looked at."""

from tests.differential.cases import (  # noqa: F401 (each registers its cases)
    connecting,
    ends,
    failing,
    options,
    polling,
    reading,
    resets,
    sharing,
    stalls,
    writing,
)
from tests.differential.script import CASES

__all__ = ["CASES"]
