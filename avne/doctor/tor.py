# SPDX-License-Identifier: GPL-3.0-or-later
"""The upstream, and where it is a Tor what its control port tells; a tor to start where none runs.

The control port is asked only for what it says to everybody who may read its cookie, and changes nothing
(spec.torproject.org/control-spec: PROTOCOLINFO, AUTHENTICATE, GETINFO).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from typing import Final

from avne.cli import routing
from avne.config import load
from avne.doctor import Limited
from avne.errors import AvneError
from avne.ipc.messages import ResolveKind
from avne.upstream import kinds
from avne.upstream.base import Attempt, OpenError
from avne.upstream.control import ControlPort, Denied, places
from avne.upstream.failure import explain
from avne.upstream.find import find_tor
from avne.upstream.spec import Address, UpstreamSpec
from avne.upstream.tor import Tor

_ASKED: Final = ("version", "status/bootstrap-phase", "status/circuit-established", "consensus/valid-after",
                 "consensus/valid-until")  # fmt: skip


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
    told = ask_control(places(spec))
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


def ask_control(where: Iterable[Address]) -> dict[str, str]:
    """What the first of these control ports tells us that lets us in; empty where none does."""
    for place in where:
        try:
            with ControlPort(place) as port:
                port.authenticate()
                return {word: value for word in _ASKED if (value := port.get(word)) is not None}
        except (OSError, Denied):
            continue
    return {}
