# SPDX-License-Identifier: GPL-3.0-or-later
"""The process that runs avne's own Tor for as long as a session is connected; see keeper.py.

Its arguments (spawn.python): ``LISTEN_FD DIRECTORY SOCKETS TOR TORRC``.  Tor dies with it
(PR_SET_PDEATHSIG and __OwningControllerProcess).  If Tor ends by itself it is started again, at
first after a second, and after a minute in the end.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
import select
import signal
import socket
import sys
import time
from typing import Any, Final, NoReturn

from avne.ipc.control import Control
from avne.limits import LOG_BYTES
from avne.spawn import child_environment

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0
TERM_PATIENCE: Final = 3.0  # seconds between SIGTERM and SIGKILL

_BOOTSTRAPPED: Final = re.compile(r"Bootstrapped (\d+)% \(([^)]*)\): (.*)")
_TROUBLE: Final = re.compile(r"\[(?:warn|err)\] (?!.*(?:see warnings above|You are running Tor as root))(.*)")
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15


class KeeperProcess:
    """The loop, and Tor."""

    def __init__(self, listener: socket.socket, directory: str, sockets: str, tor: str, torrc: str) -> None:
        self._listener = listener
        self._directory = directory
        self._socks = f"{sockets}/socks"
        self._control, self._cookie = f"{sockets}/control", f"{sockets}/control.authcookie"
        self._keeper_path = f"{sockets}/keeper"
        self._argv = [tor, "--defaults-torrc", "/dev/null", "-f", f"{directory}/torrc"]
        self._torrc = torrc
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._epoll = select.epoll()
        self._sessions: dict[int, Control] = {}
        self._state: tuple[Any, ...] = ()  # the latest message
        self._pid = 0
        self._output = -1  # Tor's standard output
        self._line = b""
        self._trouble = ""
        self._log_left = LOG_BYTES  # of keeper.log
        self._pause = FIRST_PAUSE
        self._start_at: float | None = None

    def run(self) -> NoReturn:
        """Until the last session has gone."""
        self._libc.prctl(_PR_SET_NAME, b"avne [keeper]", 0, 0, 0)
        self._write_torrc()
        self._listener.setblocking(False)
        self._epoll.register(self._listener.fileno(), select.EPOLLIN)
        self._start_tor()
        while True:
            wait = -1.0 if self._start_at is None else max(0.0, self._start_at - time.monotonic())
            for fd, _ in self._epoll.poll(wait):
                if fd == self._listener.fileno():
                    self._accept()
                elif fd == self._output:
                    self._read_output()
                else:
                    self._read_session(fd)
            if self._start_at is not None and time.monotonic() >= self._start_at:
                self._start_tor()

    # Sessions.

    def _accept(self) -> bool:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return False
        sock.setblocking(False)
        control = self._sessions[sock.fileno()] = Control(sock)
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        if self._start_at is not None:  # a new session need not wait for the pause
            self._start_tor()
        self._send(control, ("hello", self._torrc))
        self._send(control, self._state)
        return True

    def _read_session(self, fd: int) -> None:
        received = self._sessions[fd].receive()
        if received and not received[0]:
            self._epoll.unregister(fd)
            self._sessions.pop(fd).close()
            if not self._sessions:
                self._end_if_alone()

    def _send(self, control: Control, message: tuple[Any, ...]) -> None:
        with contextlib.suppress(BlockingIOError):  # it does not listen any more, and need not
            control.send(*message)

    def _tell(self, *message: Any) -> None:
        for control in self._sessions.values():
            self._send(control, message)

    def _end_if_alone(self) -> None:
        """End, unless a session has come before we had the lock."""
        lock = os.open(f"{self._directory}/lock", os.O_RDWR | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if self._accept():
            os.close(lock)
            return
        for path in (self._keeper_path, f"{self._directory}/run"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        if self._pid:
            self._stop_tor()
        for path in (self._socks, self._control, self._cookie):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        os._exit(0)  # and the lock is free

    # Tor.

    def _write_torrc(self) -> None:
        lines = [
            f"DataDirectory {_quoted(self._directory + '/data')}",
            f"SocksPort unix:{_quoted(self._socks)} ExtendedErrors",
            f"ControlPort unix:{_quoted(self._control)}",
            "CookieAuthentication 1",
            f"CookieAuthFile {_quoted(self._cookie)}",
            f"__OwningControllerProcess {os.getpid()}",
            "ClientOnly 1",
            "Log notice stdout",
        ]
        if self._torrc:
            lines.append(f"%include {_quoted(self._torrc)}")
        with open(self._argv[-1], "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write("\n".join(lines) + "\n")

    def _start_tor(self) -> None:
        self._start_at = None
        self._state = "progress", 0, "starting", "Starting"
        self._trouble = ""
        self._output, theirs = os.pipe2(os.O_CLOEXEC)
        keeper = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
                os.dup2(theirs, 1)
                if os.getppid() == keeper:
                    os.execve(self._argv[0], self._argv, {**child_environment(), "HOME": self._directory})
            finally:
                os._exit(127)
        os.close(theirs)
        os.set_blocking(self._output, False)
        self._epoll.register(self._output, select.EPOLLIN)

    def _read_output(self) -> None:
        try:
            data = os.read(self._output, 65536)
        except BlockingIOError:
            return
        if not data:
            self._on_tor_ended()
            return
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            self._on_line(line.decode(errors="replace"))

    def _on_line(self, line: str) -> None:
        if match := _BOOTSTRAPPED.search(line):
            percent = int(match[1])
            self._tell("progress", percent, match[2], match[3])
            self._state = "progress", percent, match[2], match[3]
            if percent == 100:
                self._pause = FIRST_PAUSE
                self._state = "ready", self._socks
                self._tell(*self._state)
        elif match := _TROUBLE.search(line):
            if self._log_left > 0:
                self._log_left -= len(line)
                print(line, file=sys.stderr, flush=True)
            self._trouble = match[1][:500]
            self._tell("warning", self._trouble)

    def _on_tor_ended(self) -> None:
        status = self._reap()
        self._state = "down", self._trouble or f"tor ended with status {status}"
        self._tell(*self._state)
        self._start_at = time.monotonic() + self._pause
        self._pause = min(self._pause * 2, LONGEST_PAUSE)

    def _stop_tor(self) -> None:
        fd = os.pidfd_open(self._pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGTERM)
            if not select.select([fd], [], [], TERM_PATIENCE)[0]:
                os.kill(self._pid, signal.SIGKILL)
        os.close(fd)
        self._reap()

    def _reap(self) -> int:
        """Tor's exit status, or minus the signal that killed it."""
        self._epoll.unregister(self._output)
        os.close(self._output)
        self._output, self._line = -1, b""
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        return os.waitstatus_to_exitcode(status)


def _quoted(path: str) -> str:
    """A C string, as torrc takes them."""
    escaped = path.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def main() -> None:
    """Entry point: ``LISTEN_FD DIRECTORY SOCKETS TOR TORRC``."""
    if os.fork():
        os._exit(0)  # the session that starts us is not our parent
    os.chdir("/")
    listener = socket.socket(fileno=int(sys.argv[1]))
    KeeperProcess(listener, *sys.argv[2:]).run()
