# SPDX-License-Identifier: GPL-3.0-or-later
"""The upstream workers: one process for each slot, and a new one for each that dies.

A worker's identity is ``wSLOT.GENERATION``, never used twice.  The first successor of a
slot starts at once, the next ones wait longer each; a slot whose workers crash more than
MAX_CRASHES times in a minute ends the run.  A worker that says it failed (the proxy does
not answer) is no crash: it is tried again for as long as the program runs.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Any

from avne.cli.children import Part
from avne.cli.start import Started
from avne.errors import AvneError
from avne.ipc.control import Control
from avne.upstream.spec import UpstreamSpec

MAX_CRASHES = 5
WINDOW = 60.0
MAX_DELAY = 8.0


def number(wanted: int | str, upstreams: int) -> int:
    """How many to start where `wanted` is a number or "auto"; each upstream has one, or none has.

    On this machine a worker only opens connections, and the netstack moves the bytes.  So "auto" leaves it a
    processor, and gives the others a worker each, up to 8.
    """
    if wanted == "auto":
        wanted = min(8, max(1, len(os.sched_getaffinity(0)) - 1))
    return max(int(wanted), upstreams) if wanted else 0


class Restarts:
    """When to start a slot's next worker.  Sans-IO."""

    __slots__ = ("_crashes", "_failures")

    def __init__(self) -> None:
        self._crashes: list[float] = []
        self._failures = 0

    def delay(self, now: float, failed: bool) -> float | None:
        """Seconds to wait after an end at `now`; None where it is hopeless."""
        if failed:
            self._failures += 1
            return _backoff(self._failures)
        self._crashes = [*(then for then in self._crashes if now - then < WINDOW), now]
        return _backoff(len(self._crashes) - 1) if len(self._crashes) <= MAX_CRASHES else None

    def succeeded(self) -> None:
        """A worker became ready."""
        self._failures = 0


def _backoff(earlier: int) -> float:
    return min(MAX_DELAY, 0.25 * 2.0 ** (earlier - 1)) if earlier else 0.0


class Slot:
    """A worker's place: who dies there has a successor while the place is `wanted`."""

    __slots__ = ("generation", "restarts", "wanted")

    def __init__(self) -> None:
        self.generation = 0
        self.restarts = Restarts()
        self.wanted = True


class Worker(Part):
    """The process of one slot in one generation."""

    __slots__ = ("_sockets", "generation", "identity", "slot")

    def __init__(
        self, started: Started, slot: int, generation: int, routing: dict[str, Any], netstack: Control
    ) -> None:
        super().__init__(f"upstream worker {slot}", f"w{slot}.{generation}", started)
        self.slot = slot
        self.generation = generation
        self.identity = f"w{slot}.{generation}"
        self._sockets = _unix_sockets(routing)
        config = {"identity": self.identity, **routing}
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:  # the two ends of its lane, for the netstack and for the worker
            netstack.send("lane", self.identity, fds=(ours.fileno(),))
            self.control.send("config", config, fds=(theirs.fileno(),))

    def reopen(self, path: str) -> None:
        """Give it a proxy's unix socket as it is now: it sees no files itself (upstream/way.py).

        No other one: what asks may be in an attacker's hands.
        """
        fds: tuple[int, ...] = ()
        with contextlib.suppress(OSError):
            if path in self._sockets:
                fds = (os.open(path, os.O_PATH | os.O_CLOEXEC),)
        self.control.send("socket", path, fds=fds)
        for fd in fds:
            os.close(fd)


def _unix_sockets(routing: dict[str, Any]) -> frozenset[str]:
    """The paths of those that a worker with this configuration may ask for."""
    specs = map(UpstreamSpec.from_config, routing["rules"]["upstreams"])
    found = [layer.address for spec in specs for layer in spec.layers() if layer.inner is None]
    return frozenset(address for address in found if isinstance(address, str) and address)


def hopeless(worker: Worker, log_path: str) -> AvneError:
    """What to tell when a slot's workers keep crashing."""
    said = f": {worker.last_words}" if worker.last_words else ""
    where = f"The log has more: {log_path}" if log_path else "Run it with -vv to see the log."
    return AvneError(f"{worker.name} ended {MAX_CRASHES + 1} times in a minute{said}", where)
