# SPDX-License-Identifier: GPL-3.0-or-later
"""The supervisor's side of the helper: which one to start, its messages, what its failures mean.

The contract is request.h: fixed messages over a SOCK_SEQPACKET pair.  `Environment` starts a helper
and speaks to it; every event is a tuple of its own.  This module is on the start-up path, so what
only words an error reads and imports what it needs when it is called.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, NamedTuple

from avne.errors import AvneError
from avne.spawn import spawn

MAGIC: Final = 0x656E7661
REQUEST, TUN, GO, STARTED, SIGNAL, EXITED, END, FAILED, ATTACH, TERMINAL = range(1, 11)
MESSAGE: Final = struct.Struct("=IIQIiQQII")  # magic type layout stage value ignored blocked argc envc

STAGES: Final = (
    "REQUEST", "DESCRIPTORS", "STDIO", "IDENTITY", "USER_NAMESPACE", "ID_MAP", "NAMESPACES", "FORK",
    "MOUNT_PRIVATE", "FIND", "TUN_OPEN", "TUN_CONFIGURE", "VETH", "ADDRESSES", "ROUTES", "MOUNT_PROC",
    "MOUNT_SYS", "MOUNT_RUN", "MOUNT_TMP", "MOUNT_ETC", "MASK", "MOUNT_HOME", "MOUNT_DEV", "SHARE",
    "HOSTNAME", "DROP", "SEAL", "GO", "EXEC", "ATTACH", "TARGET",
)  # fmt: skip
# Where the setuid helper has rights that an ordinary user lacks.
_RIGHTS: Final = frozenset(STAGES[STAGES.index("USER_NAMESPACE") : STAGES.index("DROP")])

PACKAGED: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "avne-helper")
INSTALLED: Final = "/usr/local/libexec/avne/avne-helper"
USERNS: Final = "/usr/local/libexec/avne/avne-helper-userns"  # not setuid: what AppArmor's profile is for

_LINE: Final = 3
_END_BOUND: Final = 5.0
_SCM_CREDENTIALS: Final = 2  # <bits/socket.h>
_INT: Final = struct.Struct("=i")
_UCRED: Final = struct.Struct("=iII")  # pid uid gid
_ANCILLARY: Final = socket.CMSG_SPACE(_UCRED.size) + socket.CMSG_LEN(2 * _INT.size)


STRICT, OWN_HOME, KEPT_HOME = 1, 2, 4
MAX_SHARES, MAX_PATHS = 64, 250


class Share(NamedTuple):
    """A file, directory or socket that is to be seen inside where it is; `fd` is of the kind O_PATH.

    `opened`: the sockets that it is, or that are made in it, may be reached.
    """

    fd: int
    read_only: bool = False
    opened: bool = False


class Request(NamedTuple):
    """What an environment is to be beyond the constants; every descriptor is O_PATH, and the caller's.

    `homes`: the home directory that is to be covered, and, to keep what is written to it, the
    overlay's upper and work directory.  `masks`: sockets to be hidden.
    """

    strict: bool = False
    homes: tuple[int, ...] = ()
    shares: tuple[Share, ...] = ()
    masks: tuple[int, ...] = ()

    @property
    def flags(self) -> int:
        home = (0, OWN_HOME, 0, OWN_HOME | KEPT_HOME)[len(self.homes)]
        return (STRICT if self.strict else 0) | home

    @property
    def fds(self) -> list[int]:
        return [*self.homes, *(share.fd for share in self.shares), *self.masks]


NOTHING_MORE: Final = Request()


class Tun(NamedTuple):
    """The environment is sealed; `fd` is its tun, non-blocking, ours to close.

    `missing`: 0, or the errno with which /dev/net/tun was not opened; then it is a packet socket at the
    other end of a veth pair, with the same header before each Ethernet frame (PACKET_VNET_HDR).
    `diag`: a sock_diag(7) socket of the environment's network, ours to close, or -1.
    """

    fd: int
    missing: int = 0
    diag: int = -1

    def close(self) -> None:
        for fd in (self.fd, self.diag):
            if fd >= 0:
                os.close(fd)


class Started(NamedTuple):
    """The program has been exec'd."""


class Exited(NamedTuple):
    """The program has ended with this wait(2) status."""

    status: int


class Failed(NamedTuple):
    """A step failed, and the helper has ended: one of `STAGES`, and the errno."""

    stage: str
    errno: int


class Gone(NamedTuple):
    """The helper has ended without a word."""


Event = Tun | Started | Exited | Failed | Gone


def layout() -> int:
    """The layout of the messages that this package was built for."""
    try:
        from avne.privileged._build import LAYOUT
    except ImportError:
        raise AvneError(
            "the helper has not been built",
            "Install avne with pip, or build it: python hatch_build.py",
        ) from None
    return LAYOUT


def find_helper() -> str:
    """The path of the package's own helper.  Raises `AvneError` where it is missing."""
    if not os.path.exists(PACKAGED):
        raise AvneError(
            f"the helper is missing: {PACKAGED}",
            "Reinstall avne (pip install --force-reinstall avne), or build it: python hatch_build.py",
        )
    if not os.access(PACKAGED, os.X_OK):
        raise AvneError(f"the helper cannot be executed: {PACKAGED}", f"chmod 0755 {PACKAGED}")
    return PACKAGED


def candidates(choice: str = "auto") -> list[str]:
    """The helpers to try, in this order: ``auto``, ``rootless`` (the package's), or ``setuid``.

    As root the package's own does everything.  For anybody else the installed ones come after it: first
    the one that AppArmor has a profile for, which is rootless, too.
    Raises `AvneError` where the choice leaves none.
    """
    setuid_usable = os.geteuid() != 0 and os.access(INSTALLED, os.X_OK)
    if choice == "setuid" and os.geteuid() != 0:
        if setuid_usable:
            return [INSTALLED]
        if os.path.exists(INSTALLED):
            raise AvneError(
                "you may not run the setuid helper, which is for the group avne",
                "Ask an administrator: sudo usermod -aG avne USER; then log in again.",
            )
        raise AvneError("the setuid helper is not installed", "Install it: sudo avne setup")
    helpers = [find_helper()]
    if os.geteuid() != 0 and os.access(USERNS, os.X_OK):
        helpers.append(USERNS)
    return [*helpers, INSTALLED] if choice == "auto" and setuid_usable else helpers


def another_may_work(stage: str) -> bool:
    """Whether the next of `candidates` may pass where one failed at `stage`."""
    return stage in _RIGHTS


def write_strings(strings: list[str]) -> int:
    """A new memfd that holds them, each with a NUL behind it; the descriptor is the caller's to close."""
    memory = os.memfd_create("avne-strings", os.MFD_CLOEXEC)
    with open(memory, "wb", closefd=False) as file:
        file.writelines(os.fsencode(string) + b"\0" for string in strings)
    return memory


class Environment:
    """One helper, and later the environment it has made.

    `pid` is the helper's, a child of ours, and `init` that of the environment's pid 1, once it has
    sent the tun; `setuid` says which kind it is; `fileno()` is to be polled for reading.  `stdio`: what the
    program gets as standard input, output and error (child's number → ours) where that is not what
    we have.  Raises `AvneError` where the helper cannot be started.
    """

    __slots__ = ("_layout", "_line", "init", "pid", "setuid")

    def __init__(
        self, helper: str, request: Request = NOTHING_MORE, stdio: Mapping[int, int] | None = None
    ) -> None:
        self._layout = layout()
        self.setuid = helper == INSTALLED
        self.init = 0
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._line.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        with theirs:
            try:
                self.pid = spawn([helper], {**(stdio or {}), _LINE: theirs.fileno()}, {}, session=False)
            except OSError as error:
                self._line.close()
                raise AvneError(
                    f"cannot start the helper {helper}: {error.strerror}",
                    "Reinstall avne (pip install --force-reinstall avne); if the file system of the "
                    "helper is mounted noexec, install it elsewhere.",
                ) from error
        self._request(request)

    def fileno(self) -> int:
        return self._line.fileno()

    def receive(self) -> Event:
        """The next event; waits for it.  What is no message of this layout is a failure of REQUEST."""
        while True:
            # A helper that failed before it read our REQUEST resets the line; what it said comes next.
            with suppress(ConnectionResetError):
                data, rights, _, _ = self._line.recvmsg(MESSAGE.size + 1, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
                break
        fds = [
            fd for _, kind, found in rights if kind == socket.SCM_RIGHTS for (fd,) in _INT.iter_unpack(found)
        ]
        event = self._parse(data, fds)
        if isinstance(event, Tun):
            self.init = next(_UCRED.unpack(found)[0] for _, kind, found in rights if kind == _SCM_CREDENTIALS)
        if not isinstance(event, Tun):
            for fd in fds:
                os.close(fd)
        return event

    def _parse(self, data: bytes, fds: list[int]) -> Event:
        if not data:
            return Gone()
        if len(data) != MESSAGE.size:
            return Failed("REQUEST", errno.EPROTO)
        magic, kind, its_layout, stage, value, *_ = MESSAGE.unpack(data)
        if magic != MAGIC or its_layout != self._layout:
            return Failed("REQUEST", errno.EPROTO)
        if kind == TUN and fds:
            return Tun(fds[0], value, *fds[1:])
        if kind == STARTED:
            return Started()
        if kind == EXITED:
            return Exited(value)
        if kind == FAILED and stage < len(STAGES):
            return Failed(STAGES[stage], value)
        return Failed("REQUEST", errno.EBADMSG)

    def _request(self, request: Request) -> None:
        read_only = opened = 0
        for number, share in enumerate(request.shares):
            read_only |= share.read_only << number
            opened |= share.opened << number
        self._send(
            REQUEST, *request.fds, value=request.flags, ignored=read_only, blocked=opened,
            argc=len(request.shares), envc=len(request.masks),
        )  # fmt: skip

    def go(self, argv: list[str], env: dict[str, str], ignored: int, blocked: int) -> None:
        """Start the program: looked up in the PATH of `env`; signal sets are masks, bit n-1 for n."""
        memory = write_strings([*argv, *(f"{name}={value}" for name, value in env.items())])
        try:
            self._send(GO, memory, ignored=ignored, blocked=blocked, argc=len(argv), envc=len(env))
        finally:
            os.close(memory)

    def signal(self, number: int) -> None:
        """Send the program a signal; nothing happens where it has ended."""
        self._send(SIGNAL, value=number)

    def attach(self, connection: int) -> None:
        """Hand in the descriptor of a connection with somebody who wants to attach a program.

        Does not wait: the connection is dropped where init is too busy to take it.
        """
        data = MESSAGE.pack(MAGIC, ATTACH, self._layout, 0, 0, 0, 0, 0, 0)
        with suppress(BrokenPipeError, ConnectionResetError, BlockingIOError):
            socket.send_fds(self._line, [data], [connection], socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)

    def end(self) -> None:
        """Ask for the end of the environment; `Gone` follows, and `close` is still needed."""
        self._send(END)

    def _send(
        self, kind: int, *fds: int, value: int = 0, ignored: int = 0, blocked: int = 0,
        argc: int = 0, envc: int = 0,
    ) -> None:  # fmt: skip
        data = MESSAGE.pack(MAGIC, kind, self._layout, 0, value, ignored, blocked, argc, envc)
        # A helper that is gone is found out by its end of file.
        with suppress(BrokenPipeError, ConnectionResetError):
            socket.send_fds(self._line, [data], fds, socket.MSG_NOSIGNAL)

    def close(self) -> None:
        """End the environment and take in the helper: afterwards nothing of it is left.

        The end of file ends it; what does not heed that, a stopped init for one, is killed.
        """
        self._line.close()
        process = os.pidfd_open(self.pid)
        waiter = select.poll()
        waiter.register(process, select.POLLIN)
        if not waiter.poll(_END_BOUND * 1000):
            os.kill(self.pid, signal.SIGKILL)
        os.close(process)
        os.waitpid(self.pid, 0)


def instead_of_tun(event: Tun) -> str:
    """To be said of an environment behind it; empty where it is a tun."""
    if not event.missing:
        return ""
    return f", over a veth pair, as /dev/net/tun cannot be opened ({os.strerror(event.missing)})"


def explain(stage: str, error: int, setuid: bool, program: str = "the program") -> AvneError:
    """What the user reads when a helper (the setuid one?) failed at `stage`."""
    from avne.privileged.explain import explain  # words, which nobody needs where all is well

    return explain(stage, error, setuid, program)
