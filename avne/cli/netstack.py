# SPDX-License-Identifier: GPL-3.0-or-later
"""``avne netstack --listen SOCKET``: network processes for everybody's environments, as a user of its own.

An administrator runs it (contrib/), and ``avne run --netstack SOCKET`` has its network process here: one for
each connection, which is that process's control line, so that environments share nothing but the user.  The
tun and the lanes come by it, as descriptors.  Who calls is another user than the process is, and can neither
trace nor read it; what it may do is what every network process may (netstack/process.py).  When the caller
goes, the line ends, and the process with it; when this ends, all of them end.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import stat
import struct
from collections import Counter
from typing import Final, NoReturn

from avne.cli.children import Part
from avne.cli.start import settle_descriptors
from avne.confine.sandbox import become_unprivileged
from avne.errors import AvneError
from avne.ipc.control import Control
from avne.paths import MAX_SOCKET_PATH
from avne.spawn import child_environment, python, spawn

PER_USER: Final = 64  # environments at a time
IN_ALL: Final = 1024
_NETSTACK: Final = "avne.netstack.process"
_UCRED: Final = struct.Struct("=iII")  # pid uid gid


class Hired(Part):
    """A network process of such a service, as the supervisor sees it: a line, and no child of ours."""

    def __init__(self, path: str) -> None:
        self.name, self.short = "the network process", "net"
        self.ready = False
        self.failed = None
        self.last_words = ""
        self._partial = b""
        self.pid = 0
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.connect(path)
        except OSError as error:
            sock.close()
            raise AvneError(
                f"no avne netstack answers at {path}: {os.strerror(error.errno or 0)}",
                "Start it (sudo systemctl start avne-netstack), or leave out --netstack.",
            ) from error
        self._line = sock
        self.control = Control(sock)
        self.output = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)  # where nothing ever comes

    def kill(self) -> None:
        """It ends with its line, whose end is seen at both ends."""
        self._line.shutdown(socket.SHUT_RDWR)

    def reap(self, within: float) -> tuple[int, list[str]]:
        os.close(self.output)
        return 0, []


def serve(path: str) -> NoReturn:
    """Until it is killed.  Raises `AvneError`."""
    settle_descriptors()
    listener = _listen(path)
    if os.geteuid() == 0:
        become_unprivileged()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    Service(listener).run()


def _listen(path: str) -> socket.socket:
    """A socket that every user may connect to; in place of one that nobody serves any more."""
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise AvneError(f"the name is too long for a socket: {path}", "Take a shorter one, below /run.")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        if _is_dead(path):
            os.unlink(path)
        listener.bind(path)
        os.chmod(path, 0o666)
        listener.listen(64)
    except OSError as error:
        listener.close()
        raise AvneError(
            f"cannot listen at {path}: {os.strerror(error.errno or 0)}",
            "Name a socket in a directory that is ours alone, such as /run/avne-netstack/socket.",
        ) from error
    return listener


def _is_dead(path: str) -> bool:
    """Whether it is a socket that nobody listens on."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                try:
                    sock.connect(path)
                except ConnectionRefusedError:
                    return True
    return False


class Service:
    """The loop."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        listener.setblocking(False)
        self._running: dict[int, tuple[int, int]] = {}  # pidfd → pid and the caller's uid
        self._by_user: Counter[int] = Counter()
        self._poll = select.epoll()
        self._poll.register(listener.fileno(), select.EPOLLIN)

    def run(self) -> NoReturn:
        while True:
            for fd, _ in self._poll.poll():
                if fd == self._listener.fileno():
                    self._accept()
                else:
                    self._bury(fd)

    def _accept(self) -> None:
        try:
            line, _ = self._listener.accept()
        except OSError:  # gone already, or too many descriptors: it waits
            return
        with line:
            ucred = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
            _, uid, _ = _UCRED.unpack(ucred)
            if self._by_user[uid] < PER_USER and len(self._running) < IN_ALL:
                self._start(line, uid)

    def _start(self, line: socket.socket, uid: int) -> None:
        """Its standard error is ours: the journal, where systemd has started us."""
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            fds = {0: null, 1: null, 3: line.fileno()}
            pid = spawn(python(_NETSTACK, "3"), fds, child_environment(), session=True)
        except OSError:
            return  # its line ends, which says it
        finally:
            os.close(null)
        pidfd = os.pidfd_open(pid)
        self._running[pidfd] = pid, uid
        self._by_user[uid] += 1
        self._poll.register(pidfd, select.EPOLLIN)

    def _bury(self, pidfd: int) -> None:
        pid, uid = self._running.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        os.waitpid(pid, 0)
        self._by_user[uid] -= 1
        self._by_user += Counter()  # forgets those that have none
