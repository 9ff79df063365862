# SPDX-License-Identifier: GPL-3.0-or-later
"""The upstream, and where it is a Tor what its control port tells; a tor to start where none runs.

The control port is asked only for what it says to everybody who may read its cookie, and changes nothing
(spec.torproject.org/control-spec: PROTOCOLINFO, AUTHENTICATE, GETINFO).
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterable
from io import BufferedRWPair
from typing import Any, Final

from avne.cli import routing
from avne.config import load
from avne.doctor import Limited
from avne.errors import AvneError
from avne.ipc.messages import ResolveKind
from avne.upstream import kinds
from avne.upstream.base import Attempt, OpenError
from avne.upstream.failure import explain
from avne.upstream.find import TIMEOUT, find_tor
from avne.upstream.spec import Address, UpstreamSpec
from avne.upstream.tor import Tor

_DEBIAN: Final[tuple[Address, ...]] = ("/run/tor/control", ("127.0.0.1", 9051))
CONTROLS: Final[dict[Address, tuple[Address, ...]]] = {  # of the Tor that has that SocksPort
    "/run/tor/socks": _DEBIAN,
    ("127.0.0.1", 9050): _DEBIAN,
    ("127.0.0.1", 9150): (("127.0.0.1", 9151),),
}
# Only these are read: whoever listens there could name any file of ours, and be told what is in it.
COOKIES: Final = ("/run/tor/control.authcookie", "/var/lib/tor/control_auth_cookie")
_COOKIE_SIZE: Final = 32
_ASKED: Final = ("version", "status/bootstrap-phase", "status/circuit-established", "consensus/valid-after",
                 "consensus/valid-until")  # fmt: skip
_LARGEST: Final = 65536  # bytes of an answer


def upstream() -> str:
    """Greets it; a Tor is asked for its bootstrap where we may."""
    spec = _spec()
    if spec is None:
        if not which_tor():
            raise AvneError("no Tor runs on this machine, and none is installed", "sudo apt install tor")
        return "no Tor runs; avne will start its own"
    try:
        kinds.make(spec, {}).check()
    except OpenError as error:
        raise AvneError(*explain(spec, error)) from error
    if spec.kind != "tor":
        return f"{spec.redacted()} answers"
    told = ask_control(CONTROLS.get(spec.address, ()))
    if not told:
        return f"Tor answers at {spec.redacted()}; no control port of it is open to us"
    return _bootstrapped(spec, told)


_OURS = "avne-doctor", "doctor"  # for Tor: nobody's circuits but ours


def _spec() -> UpstreamSpec | None:
    """The default upstream; None where it needs a Tor and none runs."""
    written = routing.parse(load())
    found = find_tor() if written.needs_tor else None
    return None if written.needs_tor and not found else written.completed(found, _OURS).default


def _bootstrapped(spec: UpstreamSpec, told: dict[str, str]) -> str:
    phase = told.get("status/bootstrap-phase", "")
    percent = re.search(r"PROGRESS=(\d+)", phase)
    summary = re.search(r'SUMMARY="([^"]*)"', phase)
    warning = re.search(r'WARNING="([^"]*)"', phase)
    version = told.get("version", "?").split()[0]
    if percent and int(percent[1]) < 100:
        raise AvneError(
            f"Tor {version} at {spec.redacted()} is at {percent[1]} % ({summary[1] if summary else '?'})"
            + (f": {warning[1]}" if warning else ""),
            "Wait, or look at its log; check the clock (date) and the firewall.",
        )
    if told.get("status/circuit-established") == "0":
        raise Limited(
            f"Tor {version} at {spec.redacted()} has no circuit yet", "It makes one when it is used; wait."
        )
    return f"Tor {version} answers at {spec.redacted()}, bootstrapped"


def resolves(name: str) -> str:
    """Asks for an address of `name` through Tor."""
    spec = _spec()
    if spec is None:
        raise Limited("no Tor runs that could be asked", "avne starts its own: avne run true, then again.")
    if spec.kind != "tor":
        raise Limited(f"{spec.redacted()} resolves no names for us", "Only Tor does (RESOLVE).")
    try:
        found = Tor(spec).resolve(ResolveKind.ADDRESS, name, Attempt())
    except OpenError as error:
        raise AvneError(
            f"Tor does not resolve {name}: {error.detail or 'no such name, or no answer'}",
            "Is the name right? Is Tor bootstrapped? Look at its log.",
        ) from error
    return f"{name} has {', '.join(found.answers)}, by Tor"


def which_tor() -> str | None:
    return shutil.which("tor", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")


def program() -> str:
    """The tor that avne would start, and its version."""
    path = which_tor()
    if not path:
        return "not installed (needed only where none runs)"
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise AvneError(f"{path} does not run: {error}", "sudo apt install --reinstall tor") from error
    version = re.search(r"Tor version (\S+?)\.?$", done.stdout, re.MULTILINE)
    return f"{path} {version[1] if version else ''}".rstrip()


# ---- the control port -----------------------------------------------------------------------


def ask_control(places: Iterable[Address]) -> dict[str, str]:
    """What the first of these control ports tells us that lets us in; empty where none does."""
    for place in places:
        try:
            with _connected(place) as sock, sock.makefile("rwb") as line:
                if _authenticate(line):
                    return {word: value for word in _ASKED if (value := _get(line, word)) is not None}
        except OSError:
            continue
    return {}


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


def _say(line: BufferedRWPair[Any, Any], words: str) -> list[str]:
    """The lines of the answer, without their ends; the first three characters of each are its code."""
    line.write(words.encode() + b"\r\n")
    line.flush()
    lines: list[str] = []
    for _ in range(100):
        text = line.readline(_LARGEST).decode(errors="replace").rstrip("\r\n")
        lines.append(text)
        if text[3:4] != "-":  # the last, or data, which nothing that we ask has
            return lines
    return lines


def _authenticate(line: BufferedRWPair[Any, Any]) -> bool:
    methods = next((text for text in _say(line, "PROTOCOLINFO 1") if text.startswith("250-AUTH")), "")
    cookie = re.search(r'COOKIEFILE="((?:[^"\\]|\\.)*)"', methods)
    secret = ""
    if "NULL" not in methods:
        if not cookie or os.path.realpath(cookie[1]) not in COOKIES:
            return False
        with open(cookie[1], "rb") as file:
            secret = file.read(_COOKIE_SIZE).hex()
    return _say(line, f"AUTHENTICATE {secret}".rstrip())[-1].startswith("250")


def _get(line: BufferedRWPair[Any, Any], word: str) -> str | None:
    first = _say(line, f"GETINFO {word}")[0]
    value = first.partition("=")[2]
    return (value.strip('"') if value[:1] == '"' else value) if first.startswith("250-") else None
