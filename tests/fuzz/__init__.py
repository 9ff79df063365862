# SPDX-License-Identifier: GPL-3.0-or-later
"""Hostile bytes for every surface that reads some.

A harness is a function of an input's bytes.  It raises when the one sentence that its docstring states is
not true, and gives the features that the input had: an input with a new one is worth to be mutated
further, and to be kept (engine.py).  ``python -m tests.fuzz`` runs them; with ``--atheris`` one of them,
guided by coverage.
"""

from __future__ import annotations

import sys
from pathlib import Path

for _folder in ("netstack", "netstack/dns"):
    sys.path.insert(0, str(Path(__file__).parents[1] / _folder))
