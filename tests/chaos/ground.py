# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a storm happens: a disk that can be full, and clocks that can jump, for avne's own processes only.

The machine's clock is not touched, nor any disk of its: the disk is a small tmpfs in the mount namespace of
the runs, and the clocks are those of a library that the runs' interpreter loads first (clock.c).
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from struct import Struct

from tests.bed.installed import Installed
from tests.bed.runs import Place

_OFFSETS = Struct("=qq")  # of the wall clock and of the monotonic one, ns
_SOURCE = Path(__file__).with_name("clock.c")
_DISK = "32m"


class Clock:
    """What the runs' processes take for the time."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(_OFFSETS.pack(0, 0))
        path.chmod(0o644)
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _OFFSETS.size)
        self._wall = self._monotonic = 0

    def jump(self, wall: float = 0.0, monotonic: float = 0.0) -> None:
        """By so many seconds; the monotonic clock never goes back."""
        assert monotonic >= 0
        self._wall += round(wall * 1e9)
        self._monotonic += round(monotonic * 1e9)
        _OFFSETS.pack_into(self._map, 0, self._wall, self._monotonic)

    def close(self) -> None:
        self._map.close()


class Ground:
    """For one mode.  `place`: where its runs are; `service`: the pid of an ``avne netstack``, or 0."""

    def __init__(self, installed: Installed, tun_mode: str, setup: str, user: str) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="avne-chaos-", dir="/usr/local/lib"))
        self.service = 0
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, self.dir, ignore_errors=True)
            self.dir.chmod(0o755)
            self.library = self.dir / "clock.so"
            self.clock = Clock(self.dir / "clock")
            stack.callback(self.clock.close)
            self._build(installed)
            self.disk = self.dir / "disk"
            self.disk.mkdir()
            self.place = Place(tun_mode, setup, user, extra=(
                f"mount -t tmpfs -o mode=1777,size={_DISK} tmpfs {self.disk};"
                f" mount --bind {self.dir}/bin {installed.dir}/bin"
            ))  # fmt: skip
            stack.callback(self.place.close)
            self._stack = stack.pop_all()

    def _build(self, installed: Installed) -> None:
        shutil.copytree(installed.dir / "bin", self.dir / "bin", symlinks=True)
        real = os.path.realpath(installed.python)
        ours = self.dir / "bin" / "python"
        for name in (self.dir / "bin").glob("python*"):
            name.unlink()
        _cc("-shared", "-fPIC", f'-DCLOCK="{self.dir}/clock"', "-o", str(self.library), "-ldl")
        _cc(f'-DPYTHON="{real}"', f'-DLIBRARY="{self.library}"', "-o", str(ours))
        for name in {Path(sys.executable).name, "python3"} - {"python"}:
            (self.dir / "bin" / name).symlink_to("python")

    def close(self) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def serving(self, command: str) -> Iterator[str]:
        """The socket of an ``avne netstack`` that root has started here."""
        path = f"{self.disk}/netstack"
        with subprocess.Popen([*self.place.prefix, command, "netstack", "--listen", path]) as process:
            try:
                until = time.monotonic() + 20
                while not (self.root / path[1:]).exists():
                    assert time.monotonic() < until
                    time.sleep(0.01)  # it tells nobody
                self.service = process.pid
                yield path
            finally:
                self.service = 0
                process.kill()

    @property
    def root(self) -> Path:
        """What the runs see as ``/``."""
        return Path(f"/proc/{self.place.pid}/root")

    def mounts(self) -> set[str]:
        """Of the place, namespaces that are held by one included."""
        lines = (Path(f"/proc/{self.place.pid}/mountinfo")).read_text().splitlines()
        return {line.split(" - ")[0].split(" ", 2)[2] for line in lines}

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """While there is no room on the disk at all."""
        filler = self.root / str(self.disk)[1:] / "filler"
        fd = os.open(filler, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            size = 1 << 20
            while size:
                try:
                    os.write(fd, bytes(size))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    size >>= 1
            yield
        finally:
            os.close(fd)
            filler.unlink()

    def has_clock(self, pid: int) -> bool:
        """Whether the process has our clocks.  Raises AssertionError for one that has just died."""
        maps = Path(f"/proc/{pid}/maps").read_text()
        assert maps
        return str(self.library) in maps


def _cc(*words: str) -> None:
    subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-Werror", str(_SOURCE), *words], check=True)
