# SPDX-License-Identifier: GPL-3.0-or-later
"""What the runs of a storm stand on: their clocks, a small disk that can be full, a service for netstacks."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bed.installed import Installed
from tests.bed.runs import Place, Run
from tests.chaos.clocks import Clocks

DISK = "/mnt"  # of the place's own mount namespace
SIZE = 256  # KiB
NET, WORKER = "net", "worker"
_WORKERS = "avne [socks5 1", "avne [log+socks"  # PR_SET_NAME(2const) keeps 15 bytes


class Ground:
    """`service`: the pid of the ``avne netstack --listen`` at `socket`, where the runs use one."""

    def __init__(self, clocks: Clocks, place: Place, service: int = 0, socket: str = "") -> None:
        self.clocks = clocks
        self.options = ("--netstack", socket) if service else ()
        self._prefix = place.prefix
        self._service = service
        options = f"mode=1777,size={SIZE}k"
        subprocess.run([*self._prefix, "mount", "-t", "tmpfs", "-o", options, "tmpfs", DISK], check=True)

    def part(self, run: Run, name: str) -> int:
        """The pid of a part that the supervisor has, or had, started for it."""
        if name == NET and self._service:
            for pid in self.netstacks():
                return pid
            raise AssertionError("no netstack of the service's")
        if name != WORKER:
            return run.part(name)
        for pid in run.parts():
            if _comm(pid).startswith(_WORKERS):
                return pid
        raise AssertionError("no worker")

    def netstacks(self) -> list[int]:
        """Those of the service, the one that answers whether it works left out."""
        if not self._service:
            return []
        children = Path(f"/proc/{self._service}/task/{self._service}/children").read_text().split()
        return [int(pid) for pid in children if _comm(int(pid)) == f"avne [{NET}]"]

    def fill(self) -> None:
        """Until there is no space left."""
        words = ["dd", "if=/dev/zero", f"of={DISK}/filler", "bs=4k"]
        done = subprocess.run([*self._prefix, *words], capture_output=True, text=True, check=False)
        if "No space left" not in done.stderr:
            raise RuntimeError(f"the disk is not full: {done.stderr}")

    def free(self) -> None:
        subprocess.run([*self._prefix, "rm", "-f", f"{DISK}/filler"], check=True)

    def clear(self) -> None:
        words = ["find", DISK, "-mindepth", "1", "-delete"]
        subprocess.run([*self._prefix, *words], check=True)

    def read(self, name: str) -> bytes:
        """A file of the disk's; empty where there is none."""
        done = subprocess.run([*self._prefix, "cat", f"{DISK}/{name}"], capture_output=True, check=False)
        return done.stdout


@contextlib.contextmanager
def serving(installed: Installed) -> Iterator[tuple[int, str]]:
    """The pid and the socket of an ``avne netstack --listen`` of root's."""
    with tempfile.TemporaryDirectory(dir="/run", prefix="avne-netstack-") as directory:
        os.chmod(directory, 0o755)
        path = f"{directory}/socket"
        with subprocess.Popen([installed.avne, "netstack", "--listen", path]) as process:
            try:
                until = time.monotonic() + 20
                while not os.path.exists(path):
                    if time.monotonic() > until or process.poll() is not None:
                        raise AssertionError("the service does not start")
                    time.sleep(0.01)
                yield process.pid, path
            finally:
                process.kill()


def _comm(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""
