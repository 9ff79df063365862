# SPDX-License-Identifier: GPL-3.0-or-later
"""``avne run --onion PORT[:INSIDE]``: the program inside as an onion service, for as long as the run.

Tor makes the key and keeps it to itself (DiscardPK); the service belongs to our connection to its control
port, and ends with that, however we end.  Where it leads to is a socket of ours, accepted at as
those of -p are: in the session's directory where Tor runs as we do or as root, else a port of loopback.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from avne.cli.console import Console
from avne.cli.loop import Loop
from avne.cli.published import Opening
from avne.errors import AvneError
from avne.paths import Session

if TYPE_CHECKING:  # a run without an onion service loads none of it
    from avne.upstream.control import ControlPort
    from avne.upstream.spec import UpstreamSpec

_FORM: Final = re.compile(r"([0-9]{1,5})(?::([0-9]{1,5}))?")
_BACKLOG: Final = 1024
_PATIENCE: Final = 60.0  # seconds until it is said that nobody can find it yet
_NEEDED: Final = "--onion needs Tor, and its control port"


class Service:
    """An onion service: watched, it says when it can be reached, and when it is gone."""

    def __init__(self, line: ControlPort, address: str, openings: list[Opening], console: Console) -> None:
        self.openings = openings
        self._line = line
        self._address = address
        self._console = console
        self._loop: Loop | None = None
        self._uploaded = False

    def watch(self, loop: Loop) -> None:
        self._loop = loop
        loop.watch(self._line.fileno(), self._read)
        loop.after(_PATIENCE, "onion", self._late)

    def _read(self) -> None:
        assert self._loop
        try:
            events = self._line.events()
        except OSError:
            self._loop.forget(self._line.fileno())
            self._loop.cancel("onion")
            self._line.close()
            self._console.notice(f"{self._address}.onion is gone: Tor has ended, or its control port")
            return
        uploaded = f"650 HS_DESC UPLOADED {self._address} "
        if not self._uploaded and any(event.startswith(uploaded) for event in events):
            self._uploaded = True
            self._loop.cancel("onion")
            for opening in self.openings:
                leads = f"leads to port {opening.port} inside"
                self._console.notice(f"open: {opening.where} {leads}, for all who know the address")

    def _late(self) -> None:
        self._console.notice(
            f"{self._address}.onion cannot be found yet: Tor has not uploaded its descriptor (see its log)"
        )


def parse(words: Sequence[str]) -> list[tuple[int, int]]:
    """Port of the service, and of the program.  Raises `AvneError`."""
    ports: dict[int, int] = {}
    for word in words:
        found = _FORM.fullmatch(word)
        pair = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not all(0 < port < 65536 for port in pair):
            raise AvneError(
                f"--onion {word} is no port", "Write PORT, or PORT:INSIDE where the program's is another."
            )
        if pair[0] in ports:
            raise AvneError(f"--onion opens port {pair[0]} twice", "The service has each port once.")
        ports[pair[0]] = pair[1]
    return list(ports.items())


@contextlib.contextmanager
def service(
    words: Sequence[str], upstream: UpstreamSpec, session: Session, console: Console
) -> Iterator[Service | None]:
    """The service, for as long as this; None without `words`.  Raises `AvneError`."""
    if not words:
        yield None
        return
    ports = parse(words)
    with contextlib.ExitStack() as stack:
        line = stack.enter_context(_control(upstream))
        try:
            local = line.get("process/uid") in ("0", str(os.geteuid()))
            sockets = [stack.enter_context(_listen(session, port, local)) for port, _ in ports]
            address = _add(line, [port for port, _ in ports], sockets)
        except OSError as error:
            raise AvneError(f"{_NEEDED}, which has ended", "Look at Tor's log.") from error
        openings = [
            Opening(sock, f"{address}.onion:{port}", inside)
            for sock, (port, inside) in zip(sockets, ports, strict=True)
        ]
        yield Service(line, address, openings, console)


def check(words: Sequence[str], upstream: UpstreamSpec) -> None:
    """What can be said before Tor has been found.  Raises `AvneError`."""
    if words:
        parse(words)
        _tor_of(upstream)


def _tor_of(upstream: UpstreamSpec) -> UpstreamSpec:
    """The Tor that carries everything, whatever filters are around it."""
    from avne.upstream.filter import Filter
    from avne.upstream.kinds import find

    for layer in upstream.layers():
        if layer.kind == "tor" and layer.inner is None:
            return layer
        if not issubclass(find(layer.kind), Filter):
            break
    raise AvneError(
        f"--onion needs Tor, and the upstream is {upstream.label()}",
        "Leave --upstream out, or give it a Tor: --upstream tor://unix:/run/tor/socks.",
    )


def _control(upstream: UpstreamSpec) -> ControlPort:
    """Let in.  Raises `AvneError`."""
    from avne.upstream.control import ControlPort, Denied, places

    tor = _tor_of(upstream)
    tried = places(tor)
    said = []
    for place in tried:
        where = place if isinstance(place, str) else f"{place[0]}:{place[1]}"
        try:
            line = ControlPort(place)
        except OSError as error:
            said.append(f"{where}: {error.strerror or 'no answer'}")
            continue
        try:
            line.authenticate()
        except (OSError, Denied) as error:
            line.close()
            said.append(f"{where}: {error}")
        else:
            return line
    if not said:
        raise AvneError(
            f"{_NEEDED}: that of {tor.redacted()} is at no place that avne knows",
            "Give Tor a SocksPort and a ControlPort in one directory: unix:DIR/socks and unix:DIR/control.",
        )
    raise AvneError(
        f"{_NEEDED} lets nobody in here ({'; '.join(said)})",
        "On Debian: sudo adduser $USER debian-tor, and log in again. Elsewhere: ControlPort and "
        "CookieAuthentication 1 in Tor's torrc.",
    )


def _listen(session: Session, port: int, local: bool) -> socket.socket:
    if local:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(session.socket(f"onion{port}"))
    else:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.bind(("127.0.0.1", 0))
    sock.listen(_BACKLOG)
    return sock


def _add(line: ControlPort, ports: Sequence[int], sockets: Sequence[socket.socket]) -> str:
    """ADD_ONION (control-spec §3.27); gives the address, without .onion."""
    line.say("SETEVENTS HS_DESC")
    targets = []
    for port, sock in zip(ports, sockets, strict=True):
        name = sock.getsockname()
        target = f"unix:{name}" if sock.family == socket.AF_UNIX else f"{name[0]}:{name[1]}"
        targets.append(f"Port={port},{target}")
    answer = line.say(f"ADD_ONION NEW:ED25519-V3 Flags=DiscardPK {' '.join(targets)}")
    found = re.fullmatch(r"250-ServiceID=([a-z2-7]{56})", answer[0])
    if not found or not answer[-1].startswith("250"):
        raise AvneError(f"Tor makes no onion service: {answer[-1][4:]}", "Look at Tor's log.")
    return found[1]
