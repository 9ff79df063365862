# SPDX-License-Identifier: GPL-3.0-or-later
"""What one can do with a network: bring it up, take it down, act on one node."""

from __future__ import annotations

import contextlib
import fcntl
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bed.tornet import ready
from tests.bed.tornet.network import FIRST_CONSENSUS_AFTER, STATE_FILE, Network
from tests.bed.tornet.processes import MissedVote, Progress, TornetError
from tests.bed.tornet.report import failure_report

ACTIONS = ("kill", "stop", "start", "restart", "newnym")


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """One writer at a time for each directory (readers need no lock)."""
    with open(directory / ".lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise TornetError(f"another process is working in {directory}") from None
        yield


def _clear(directory: Path) -> None:
    """Empty a directory that holds a network of ours, or nothing."""
    entries = [e for e in directory.iterdir() if e.name != ".lock"]
    if not entries:
        return
    if not (directory / STATE_FILE).exists():
        raise TornetError(f"{directory} is not empty and holds no tornet network")
    net = Network.load(directory)
    if any(node.alive() for node in net.nodes):
        raise TornetError(f"a network is already running in {directory}; run down first")
    net.down()  # a leftover helper or address
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def bring_up(options: dict[str, Any], directory: Path, deadline: float, keep: bool = False) -> Network:
    """A network that carries traffic; tries again when a slow machine missed the first vote.

    `keep`: leave the processes of a failed start running.
    """
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    with locked(directory):
        for first_interval in FIRST_CONSENSUS_AFTER:
            _clear(directory)
            net = Network(options, directory)
            net.first_interval = first_interval
            try:
                net.up(deadline)
                return net
            except BaseException as error:
                report = failure_report(net)
                _abandon(net, keep and not isinstance(error, KeyboardInterrupt))
                taken = re.search("address already in use", f"{error}{report}", re.IGNORECASE)
                again = bool(taken) or isinstance(error, MissedVote)
                if again and first_interval != FIRST_CONSENSUS_AFTER[-1] and not keep:
                    Progress.say(f"trying again: {error}")
                    continue
                if isinstance(error, (TornetError, OSError, subprocess.SubprocessError)):
                    raise TornetError(f"{error}\n{report}".strip()) from error
                raise
    raise AssertionError("unreachable")


def _abandon(net: Network, keep: bool) -> None:
    net.pool.release_all()
    if keep:
        Progress.say("--keep: leaving the processes running")
        return
    net.down()
    with contextlib.suppress(OSError):
        net.save()


def act(net: Network, name: str, action: str, deadline: float) -> None:
    """One of `ACTIONS` on one node; returns when it is done (started: bootstrapped)."""
    node = net.node(name)
    if action == "newnym":
        with node.control() as control:
            control.command("SIGNAL NEWNYM")
        return
    if action in ("kill", "stop", "restart"):
        net.stop_node(node, signal.SIGKILL if action == "kill" else signal.SIGTERM, deadline)
    if action in ("start", "restart"):
        if node.alive():
            raise TornetError(f"{node.name} is running already")
        net.start_node(node)
        ready.wait_bootstrap(net, node, deadline)


def deadline_in(seconds: float) -> float:
    return time.monotonic() + seconds
