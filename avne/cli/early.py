# SPDX-License-Identifier: GPL-3.0-or-later
"""The beginning of ``avne run``: netstack and worker start while the rest of the command is imported."""

from __future__ import annotations

import gc
import os

from avne.cli.start import NETSTACK, WORKER, Started, settle_descriptors, start

TYPE_CHECKING = False  # as typing says it, which takes 5 ms to import
if TYPE_CHECKING:
    from typing import Self


class Early:
    """The processes that every run needs.  Those that nobody has taken in the end are ended."""

    def __init__(self) -> None:
        """Raises `AvneError`."""
        gc.disable()  # a start drops nothing
        settle_descriptors()
        self._waiting: dict[str, Started] = {}
        try:
            for module in (NETSTACK, WORKER):  # the first takes longest
                self._waiting[module] = start(module)
        except BaseException:
            self.__exit__()
            raise
        from avne.cli.signals import inherited

        self.inherited = inherited()

    def take(self, module: str) -> Started:
        """One of them, or a new one."""
        return self._waiting.pop(module, None) or start(module)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for control, pid, output in self._waiting.values():
            control.close()
            os.kill(pid, 9)  # they have done nothing yet
            os.waitpid(pid, 0)
            os.close(output)
        self._waiting.clear()
