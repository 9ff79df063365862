# SPDX-License-Identifier: GPL-3.0-or-later
"""Tor's control port: where it is, getting in by its cookie, questions and events.

spec.torproject.org/control-spec: PROTOCOLINFO, AUTHCHALLENGE, AUTHENTICATE, GETINFO; its events come on the
same line, between the answers.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
from typing import Final, Self

from avne.upstream.find import TIMEOUT
from avne.upstream.spec import Address, UpstreamSpec

_DEBIAN: Final[tuple[Address, ...]] = ("/run/tor/control", ("127.0.0.1", 9051))
CONTROLS: Final[dict[Address, tuple[Address, ...]]] = {  # of the Tor that has that SocksPort
    "/run/tor/socks": _DEBIAN,
    ("127.0.0.1", 9050): _DEBIAN,
    ("127.0.0.1", 9150): (("127.0.0.1", 9151),),
}
# Where the port does not prove first that it knows the cookie (SAFECOOKIE) only these are read: whoever
# listens there could name any file of ours, and be told what is in it.
COOKIES: Final = ("/run/tor/control.authcookie", "/var/lib/tor/control_auth_cookie")
COOKIE_SIZE: Final = 32
_LARGEST: Final = 65536  # bytes of a line
_PATIENCE: Final = 10.0  # seconds for an answer
_MOST: Final = 100  # lines of an answer
_TO_US: Final = b"Tor safe cookie authentication server-to-controller hash"
_TO_TOR: Final = b"Tor safe cookie authentication controller-to-server hash"


class Denied(Exception):
    """It does not let us in: why."""


def places(spec: UpstreamSpec) -> tuple[Address, ...]:
    """Where the control port of this Tor may be: the usual places, or beside its socket."""
    if spec.address in CONTROLS:
        return CONTROLS[spec.address]
    if isinstance(spec.address, str):
        return (f"{os.path.dirname(spec.address)}/control",)
    return ()


class ControlPort:
    """A connection.  Raises OSError where it takes too long, and at its end."""

    def __init__(self, place: Address) -> None:
        self._sock = _connected(place)
        self._sock.settimeout(_PATIENCE)
        self._unread = b""
        self._events: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._sock.close()

    def fileno(self) -> int:
        return self._sock.fileno()

    def say(self, words: str) -> list[str]:
        """The lines of the answer, without their ends; the first three characters of each are its code."""
        self._sock.sendall(words.encode() + b"\r\n")
        lines: list[str] = []
        while len(lines) < _MOST:
            line = self._line()
            if line.startswith("650"):
                self._events.append(line)
                continue
            lines.append(line)
            if line[3:4] != "-":  # the last, or data, which nothing that we ask has
                break
        return lines

    def get(self, word: str) -> str | None:
        """GETINFO; None where it has no answer."""
        first = self.say(f"GETINFO {word}")[0]
        value = first.partition("=")[2]
        return (value.strip('"') if value[:1] == '"' else value) if first.startswith("250-") else None

    def events(self) -> list[str]:
        """Those that are there now.  Raises OSError at the connection's end."""
        self._sock.setblocking(False)
        try:
            while True:
                self._fill()
        except BlockingIOError:
            pass
        finally:
            self._sock.settimeout(_PATIENCE)
        *whole, self._unread = self._unread.split(b"\r\n")
        events, self._events = self._events, []
        return events + [line.decode(errors="replace") for line in whole]

    def authenticate(self) -> None:
        """Raises `Denied`."""
        methods = next((text for text in self.say("PROTOCOLINFO 1") if text.startswith("250-AUTH")), "")
        found = re.search(r"METHODS=(\S*)", methods)
        known = found[1].split(",") if found else []
        named = re.search(r'COOKIEFILE="((?:[^"\\]|\\.)*)"', methods)
        secret = ""
        if "NULL" in known:
            pass
        elif named and "SAFECOOKIE" in known:
            secret = self._prove(_cookie(re.sub(r"\\(.)", r"\1", named[1])))
        elif named and "COOKIE" in known:
            if os.path.realpath(named[1]) not in COOKIES:
                raise Denied(f"it wants to be told what is in {named[1]}")
            secret = _cookie(named[1]).hex()
        else:
            raise Denied("it lets in by a password only" if "HASHEDPASSWORD" in known else "it says not how")
        if not self.say(f"AUTHENTICATE {secret}".rstrip())[-1].startswith("250"):
            raise Denied("it does not take what we have")

    def _prove(self, cookie: bytes) -> str:
        """AUTHCHALLENGE SAFECOOKIE (control-spec §3.24): both show that they know it, and tell it not."""
        import hashlib
        import hmac

        ours = os.urandom(32)
        answer = self.say(f"AUTHCHALLENGE SAFECOOKIE {ours.hex()}")[-1]
        found = re.fullmatch(
            r"250 AUTHCHALLENGE SERVERHASH=([0-9A-Fa-f]{64}) SERVERNONCE=([0-9A-Fa-f]{64})", answer
        )
        if not found:
            raise Denied("it gives no challenge")
        proof = cookie + ours + bytes.fromhex(found[2])
        if not hmac.compare_digest(bytes.fromhex(found[1]), hmac.digest(_TO_US, proof, hashlib.sha256)):
            raise Denied("it does not know its own cookie")
        return hmac.digest(_TO_TOR, proof, hashlib.sha256).hex()

    def _line(self) -> str:
        while b"\r\n" not in self._unread:
            self._fill()
        line, _, self._unread = self._unread.partition(b"\r\n")
        return line.decode(errors="replace")

    def _fill(self) -> None:
        data = self._sock.recv(_LARGEST)
        if not data or len(self._unread) > _LARGEST:
            raise ConnectionResetError
        self._unread += data


def _connected(place: Address) -> socket.socket:
    if not isinstance(place, str):
        return socket.create_connection(place, TIMEOUT)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(TIMEOUT)
    try:
        sock.connect(place)
    except OSError:
        sock.close()
        raise
    return sock


def _cookie(path: str) -> bytes:
    """Raises `Denied` where it is none that we can read."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            status = os.fstat(fd)
            if stat.S_ISREG(status.st_mode) and status.st_size == COOKIE_SIZE:
                return os.read(fd, COOKIE_SIZE)
        finally:
            os.close(fd)
    raise Denied(f"its cookie, {path}, is not for us to read")
