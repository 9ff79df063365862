# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules that are imported when something of them is first needed.

A library that a process may not need would delay its start.
"""

from __future__ import annotations

from typing import Any


class Late:
    """Stands for the module `name`: its attributes are the module's."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __getattr__(self, attribute: str) -> Any:
        __import__(self.__name__)
        import sys

        module = sys.modules[self.__name__]
        self.__dict__.update(vars(module))  # this is not called again
        return getattr(module, attribute)
