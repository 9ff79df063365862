# SPDX-License-Identifier: GPL-3.0-or-later
"""Clocks of an installation's processes that a test can set; the machine's own are not touched.

The interpreter of the installation becomes one that loads clocks.c: the supervisor, and by `sys.executable`
the netstack and the workers.  What avne runs inside has the machine's clocks.
"""

from __future__ import annotations

import mmap
import os
import struct
import subprocess
from pathlib import Path
from typing import Self

HERE = Path(__file__).parent
NAME = "clocks.so"
_OFFSETS = struct.Struct("=qq")


class Clocks:
    """`wall` and `monotonic`: seconds added to the two clocks; all processes see a change at once."""

    def __init__(self, directory: Path, interpreter: Path) -> None:
        offsets, library = directory / "clocks", directory / NAME
        offsets.write_bytes(bytes(_OFFSETS.size))
        offsets.chmod(0o644)
        _compile(HERE / "clocks.c", library, "-shared", "-fPIC", f'-DOFFSETS="{offsets}"')
        python = os.path.realpath(interpreter)
        self._interpreter, self._link = interpreter, os.readlink(interpreter)
        made = directory / "interpreter"
        _compile(HERE / "interpreter.c", made, f'-DLIBRARY="{library}"', f'-DPYTHON="{python}"')
        made.chmod(0o755)
        library.chmod(0o755)
        os.replace(made, interpreter)
        with open(offsets, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), _OFFSETS.size)
        self.wall = self.monotonic = 0.0

    def set(self, wall: float, monotonic: float) -> None:
        self.wall, self.monotonic = wall, monotonic
        self._map[:] = _OFFSETS.pack(int(wall * 1e9), int(monotonic * 1e9))

    def reach(self, pid: int) -> bool:
        """Whether the process has these clocks."""
        return f"/{NAME}" in Path(f"/proc/{pid}/maps").read_text()

    def close(self) -> None:
        """The installation is as before."""
        self._map.close()
        self._interpreter.unlink()
        self._interpreter.symlink_to(self._link)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def _compile(source: Path, target: Path, *options: str) -> None:
    words = ["gcc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-o", target, source, *options]
    subprocess.run(words, check=True)
