# SPDX-License-Identifier: GPL-3.0-or-later
"""A session's hold on avne's own Tor, for machines where none runs.

One keeper process per user runs one Tor (keeper_process.py), shared by all sessions.  Each
session keeps a connection to it; with the last connection, however it ended, Tor ends.

    STATE/tor/        0700  lock, torrc, data/ (Tor's state, worth keeping), keeper.log,
                            run → RUNTIME/tor
    RUNTIME/tor/      0700  keeper, socks, control and its cookie, where the environment cannot see them

The lock is held while a session connects or starts the keeper, and while a keeper ends, so a
session meets either a keeper that knows of it or none.  The messages of the keeper, on a
SOCK_SEQPACKET connection as in ipc/control.py::

    hello TORRC                        the extra torrc that its Tor runs with, or ""
    progress PERCENT TAG SUMMARY       Tor's bootstrap
    warning TEXT                       of Tor
    ready SOCKS                        the path of its SocksPort
    down TEXT                          Tor has ended; it is started again after a while
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import time
from collections.abc import Callable
from typing import Final, Self

from avne import paths
from avne.errors import AvneError
from avne.ipc.control import Control
from avne.spawn import child_environment, python, spawn
from avne.upstream.spec import MAX_UNIX_PATH, UpstreamSpec

NO_PROGRESS: Final = 120.0  # seconds

_SBIN: Final = ("/usr/sbin", "/usr/local/sbin")  # where Debian has tor, and a user's PATH does not lead

Progress = Callable[[int, str, str], None]  # percent, tag, summary


class Keeper:
    """A connection to the keeper: Tor runs at least as long as this is open."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self.spec = UpstreamSpec("tor", "")  # complete once `wait` has returned

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._control.close()

    def wait(self, extra_torrc: str, on_progress: Progress, no_progress: float) -> None:
        """Until Tor is at 100 %.  Raises `AvneError`."""
        last, warning = "it said nothing", ""
        until = time.monotonic() + no_progress
        while True:
            ready, _, _ = select.select([self._control], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise AvneError(
                    f"Tor gets no connection to its network: {last}{warning and ': '}{warning}",
                    "Check the clock (date) and the firewall. Where Tor is blocked, set tor.torrc in the"
                    " configuration to a file with Bridge lines.",
                )
            received = self._control.receive()
            if received is None:
                continue
            match received[0]:
                case ["progress", int(percent), str(tag), str(summary)]:
                    until = time.monotonic() + no_progress
                    last = f"{percent} % ({summary})"
                    on_progress(percent, tag, summary)
                case ["warning", str(text)]:
                    warning = text
                case ["ready", str(path)]:
                    self.spec = UpstreamSpec("tor", path)
                    return
                case ["down", str(text)]:
                    raise AvneError(f"avne's own Tor ended at once: {text}", _CURE_TORRC)
                case ["hello", str(torrc)]:
                    if torrc != extra_torrc:
                        raise AvneError(
                            "avne's own Tor runs already with another tor.torrc "
                            f"({torrc or 'none'} instead of {extra_torrc or 'none'})",
                            "End the other avne sessions first.",
                        )
                case _:
                    raise AvneError("the process that keeps avne's own Tor ended", _CURE_TORRC)


_CURE_TORRC: Final = (
    "Look at what tor.torrc of the configuration says, and at keeper.log in avne's state directory."
)


def connect(
    state_dir: str,
    extra_torrc: str | None,
    on_progress: Progress,
    runtime_dir: str | None = None,
    no_progress: float = NO_PROGRESS,
) -> Keeper:
    """Join the keeper, or start it; blocks until its Tor is ready.

    `state_dir` and `runtime_dir` are those of `paths`; `extra_torrc` is a file with further
    options for Tor.  Raises `AvneError`, also when there has been no progress for `no_progress` seconds.
    """
    torrc = os.path.abspath(extra_torrc) if extra_torrc else ""
    if torrc and not os.access(torrc, os.R_OK):
        raise AvneError(f"cannot read tor.torrc: {torrc}", "Correct its name in the configuration.")
    directory = f"{state_dir}/tor"
    try:
        os.makedirs(directory, 0o700, exist_ok=True)
        os.chmod(directory, 0o700)
        lock = os.open(f"{directory}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise AvneError(f"cannot use {directory}: {error.strerror}", "Look at its owner and mode.") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        control = _join(directory) or _start(directory, runtime_dir or paths.runtime_dir(), torrc)
    finally:
        os.close(lock)
    keeper = Keeper(control)
    try:
        keeper.wait(torrc, on_progress, no_progress)
    except BaseException:
        keeper.close()
        raise
    return keeper


def _join(directory: str) -> Control | None:
    """A connection to the keeper that runs."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.connect(f"{os.readlink(f'{directory}/run')}/keeper")
    except OSError:
        sock.close()
        return None
    return Control(sock)


def _start(directory: str, runtime_dir: str, torrc: str) -> Control:
    """A connection to a new keeper."""
    tor = _find_program("tor")
    if tor is None:
        raise AvneError("no Tor runs on this machine, and there is no tor to start", "sudo apt install tor")
    sockets = f"{runtime_dir}/tor"
    if len(os.fsencode(f"{sockets}/keeper")) > MAX_UNIX_PATH:
        raise AvneError(
            f"the runtime directory's name is too long for a socket: {runtime_dir}",
            "Set XDG_RUNTIME_DIR to a shorter path below /run.",
        )
    os.makedirs(sockets, 0o700, exist_ok=True)
    for stale in (f"{sockets}/keeper", f"{sockets}/socks", f"{sockets}/control", f"{directory}/run"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(stale)
    os.symlink(sockets, f"{directory}/run")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(f"{sockets}/keeper")
        listener.listen(64)
        _spawn(listener, directory, sockets, tor, torrc)
        control = _join(directory)
    assert control is not None, "connecting to a socket that listens cannot fail"
    return control


def _spawn(listener: socket.socket, *arguments: str) -> None:
    """Start the keeper, no child of ours: it may outlive us."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    log = os.open(f"{arguments[0]}/keeper.log", flags, 0o600)
    try:
        fds = {0: null, 1: null, 2: log, 3: listener.fileno()}
        argv = python("avne.upstream.keeper_process", "3", *arguments)
        pid = spawn(argv, fds, child_environment(), session=True)
    finally:
        os.close(null)
        os.close(log)
    os.waitpid(pid, 0)  # it has forked


def _find_program(name: str) -> str | None:
    """The path of a program.  (shutil, which has this, takes 10 ms to import.)"""
    for directory in (*os.get_exec_path(), *_SBIN):
        path = os.path.join(directory, name)
        if os.path.isabs(path) and os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return None
