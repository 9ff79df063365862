# SPDX-License-Identifier: GPL-3.0-or-later
"""The beginning of ``avne run``: netstack and worker start while the rest of the command is imported."""

from __future__ import annotations

import gc
import os
import signal
from typing import Self

from avne.cli.children import NETSTACK, WORKER, Started, settle_descriptors, start
from avne.cli.signals import inherited


class Early:
    """The processes that every run needs.  Those that nobody has taken in the end are ended."""

    def __init__(self) -> None:
        """Raises `AvneError`."""
        gc.disable()  # a start drops nothing
        self.inherited = inherited()
        settle_descriptors()
        self._waiting: dict[str, Started] = {}
        for module in (NETSTACK, WORKER):  # the first takes longest
            self._waiting[module] = start(module)

    def take(self, module: str) -> Started:
        """One of them, or a new one."""
        return self._waiting.pop(module, None) or start(module)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for control, pid, output in self._waiting.values():
            control.close()
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(output)
        self._waiting.clear()
