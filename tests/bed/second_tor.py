# SPDX-License-Identifier: GPL-3.0-or-later
"""One more client of the private Tor network, with its own relays to choose and its own end.

It has no conflux: there a stream goes to the first set of circuits that Tor's table of sets gives
(conflux_get_circ_for_conn), so that streams of equal credentials change to another one when Tor has made a
new one in advance.  Without it they stay where the last one went (circuit_is_better).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from tests.bed.bed import Bed
from tests.bed.tornet.control import Control

# What a client of the private network needs to know of it.
NEEDED = (
    "TestingTorNetwork", "DirAuthority", "PathsNeededToBuildCircuits", "LearnCircuitBuildTimeout",
    "CircuitBuildTimeout", "ClientRejectInternalAddresses", "ClientDNSRejectInternalAddresses",
    "AssumeReachable",
)  # fmt: skip


def network_lines(bed: Bed) -> list[str]:
    """The lines of torrc that a client of the bed's network has."""
    (torrc,) = (bed.dir / "tor").rglob("client/torrc")
    return [line for line in torrc.read_text().splitlines() if line.startswith(NEEDED)]


class SecondTor:
    """`upstream` is what `--upstream` calls it."""

    def __init__(self, bed: Bed) -> None:
        self._stack = contextlib.ExitStack()
        self._directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(dir=bed.dir)))
        public = self._directory / "sockets"
        public.mkdir()
        for path in (self._directory, public):
            path.chmod(0o755)
        data = self._directory / "data"
        data.mkdir(mode=0o700)
        self._control = public / "control"
        torrc = self._directory / "torrc"
        torrc.write_text(
            "\n".join(
                [
                    *network_lines(bed),
                    f"DataDirectory {data}",
                    f'SocksPort unix:"{public}/tor" WorldWritable RelaxDirModeCheck',
                    f'ControlPort unix:"{self._control}" RelaxDirModeCheck',
                    "CookieAuthentication 1",
                    f"CookieAuthFile {data}/cookie",
                    "ConfluxEnabled 0",
                    "Log notice stdout",
                    f"__OwningControllerProcess {os.getpid()}",
                ]
            )
            + "\n"
        )
        self._cookie = data / "cookie"
        self.upstream = f"tor://unix:{public}/tor"
        argv = [
            "nsenter",
            "-t",
            str(bed.pid),
            "-n",
            "--",
            "tor",
            "--defaults-torrc",
            "/dev/null",
            "-f",
            torrc,
        ]
        self._tor = self._stack.enter_context(
            subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
        self._stack.callback(self._tor.kill)
        assert self._tor.stdout
        said = []
        while (line := self._tor.stdout.readline()) and "Bootstrapped 100%" not in line:
            said.append(line)
        assert line, "".join(said)

    def control(self) -> Control:
        return Control(str(self._control), self._cookie)

    def kill(self) -> None:
        self._tor.kill()
        self._tor.wait(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
