# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports of the host that lead to a program inside: ``avne run -p [ADDRESS:]HOSTPORT:PORT``.

They are listened on here, before anything is started.  While the program runs, who connects is accepted, and
the socket is handed to the netstack, which may make none (netstack/inbound.py); nothing of it is read here.
Between two netstacks, and while too many are open, who comes waits in the kernel's queue.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from avne.cli.console import Console
from avne.cli.loop import Loop
from avne.errors import AvneError
from avne.ipc.control import Control
from avne.limits import INBOUND_UNDER_WAY, MAX_INBOUND

_FORM: Final = re.compile(r"(?:(\[[^\]]*\]|[^:\[\]]*):)?([0-9]{1,5}):([0-9]{1,5})")
_BACKLOG: Final = 1024
_PAUSE: Final = 0.5  # seconds, where the machine has no descriptor left
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_LOOPBACK: Final = "127.0.0.1"


class Wish(NamedTuple):
    """One ``-p``: HOSTPORT 0 is any that is free."""

    word: str
    address: str
    host_port: int
    port: int


class Opening(NamedTuple):
    """A socket that listens, and the program's port that it leads to."""

    sock: socket.socket
    where: str  # for people
    port: int

    @property
    def text(self) -> str:
        return f"{self.where}->{self.port}"


def parse(words: Sequence[str]) -> list[Wish]:
    """Raises `AvneError` for what is no opening, or opens a port twice."""
    wishes: list[Wish] = []
    for word in words:
        wish = _parse(word)
        for other in wishes:
            if wish.host_port and other[1:3] == wish[1:3]:
                raise AvneError(
                    f"-p {other.word} and -p {word} open the same port twice",
                    "Give the second another port of this machine's: a program's port may have several.",
                )
        wishes.append(wish)
    return wishes


def _parse(word: str) -> Wish:
    found = _FORM.fullmatch(word)
    cure = "Write [ADDRESS:]HOSTPORT:PORT, such as -p 8080:80 or -p 0.0.0.0:8080:80."
    if not found:
        raise AvneError(f"-p {word} is no opening", cure)
    address = _LOOPBACK if found[1] is None else found[1].strip("[]")
    import ipaddress  # not for a run without an opening

    try:
        address = str(ipaddress.ip_address(address))
    except ValueError as error:
        raise AvneError(f"-p {word}: {address or 'nothing'} is no address of a machine", cure) from error
    host_port, port = int(found[2]), int(found[3])
    if host_port > 65535 or not 0 < port < 65536:
        raise AvneError(f"-p {word}: ports go from 1 to 65535", "Only HOSTPORT can be 0: any that is free.")
    return Wish(word, address, host_port, port)


@contextlib.contextmanager
def listening(words: Sequence[str], console: Console) -> Iterator[list[Opening]]:
    """The openings, listened on for as long as this.  Raises `AvneError`."""
    wishes = parse(words)
    with contextlib.ExitStack() as stack:
        openings = []
        for wish in wishes:
            sock = stack.enter_context(_listen(wish))
            host, port = sock.getsockname()[:2]
            where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            everybody = "" if host == "::1" or host.startswith("127.") else ", for all who can reach it there"
            console.notice(f"open: {where} leads to port {wish.port} inside{everybody}")
            openings.append(Opening(sock, where, wish.port))
        yield openings


def _listen(wish: Wish) -> socket.socket:
    family = socket.AF_INET6 if ":" in wish.address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((wish.address, wish.host_port))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise _refused(wish, error) from error
    return sock


def _refused(wish: Wish, error: OSError) -> AvneError:
    free = f"or -p {wish.address}:0:{wish.port} for one that is free".replace(f"{_LOOPBACK}:", "")
    if error.errno == errno.EADDRINUSE:
        return AvneError(
            f"-p {wish.word}: port {wish.host_port} of {wish.address} is taken",
            f"Take another, {free}. Who has it: ss -ltnp 'sport = :{wish.host_port}'",
        )
    if error.errno == errno.EACCES:
        return AvneError(
            f"-p {wish.word}: port {wish.host_port} of this machine is root's to open",
            f"Take one from 1024 on, {free}.",
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return AvneError(
            f"-p {wish.word}: this machine does not have the address {wish.address}",
            "ip address shows those that it has; without an address it is 127.0.0.1.",
        )
    why = os.strerror(error.errno or 0)
    return AvneError(f"-p {wish.word}: cannot listen at {wish.address}: {why}", f"Take another, {free}.")


class Entrances:
    """Accepts at the openings while there is a netstack that takes them.

    A connection takes a place until the netstack says that it has ended; there are MAX_INBOUND.
    """

    def __init__(self, loop: Loop, openings: Sequence[Opening]) -> None:
        self._loop = loop
        self._openings = {opening.sock.fileno(): opening for opening in openings}
        self._line: Control | None = None
        self._watching = self._paused = False
        self._under_way = self._open = 0
        for opening in openings:
            opening.sock.setblocking(False)

    def begin(self, line: Control) -> None:
        """A netstack is ready, with this line to it; it has none of them."""
        self._line = line
        self._under_way = self._open = 0
        self._watch()

    def stop(self) -> None:
        """It has gone, and its connections with it."""
        self._line = None
        self._watch()

    def close(self) -> None:
        """The program has ended: who comes now is refused, and so is who waits."""
        self.stop()
        for opening in self._openings.values():
            opening.sock.close()
        self._openings.clear()

    def told(self, taken: int, ended: int) -> None:
        """By the netstack, of those that it was handed."""
        self._under_way -= taken
        self._open -= ended
        self._watch()

    def _watch(self) -> None:
        room = self._under_way < INBOUND_UNDER_WAY and self._open < MAX_INBOUND
        wanted = self._line is not None and room and not self._paused
        if wanted == self._watching:
            return
        self._watching = wanted
        for fd in self._openings:
            if wanted:
                self._loop.watch(fd, lambda fd=fd: self._accept(fd))  # type: ignore[misc]
            else:
                self._loop.forget(fd)

    def _accept(self, fd: int) -> None:
        opening = self._openings[fd]
        if not self._watching or self._line is None:
            return  # since this turn
        try:
            sock, _ = opening.sock.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # gone again
        except OSError:  # no descriptor is left for it
            self._pause(True)
            self._loop.after(_PAUSE, "entrances", lambda: self._pause(False))
            return
        with sock:
            # When the netstack dies the kernel is to send a reset, and no end that looks whole.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:  # a netstack that lies about what it has taken is not to hold us up
                self._line.send("inbound", opening.port, fds=(sock.fileno(),), wait=False)
            except BlockingIOError:
                return  # a reset
        self._under_way += 1
        self._open += 1
        self._watch()

    def _pause(self, paused: bool) -> None:
        self._paused = paused
        self._watch()
