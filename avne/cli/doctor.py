# SPDX-License-Identifier: GPL-3.0-or-later
"""``avne doctor``: what this machine has, what is missing, and the cure for each.

A probe does the real thing where it can (it makes an environment, it greets the proxy) and
gives a few words; a failing one raises the `AvneError` that ``avne run`` would have shown.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable
from typing import NamedTuple

from avne.cli import routing, version
from avne.cli.console import colour
from avne.config import load
from avne.errors import AvneError
from avne.paths import runtime_dir, state_dir
from avne.privileged import launch
from avne.upstream import kinds
from avne.upstream.base import OpenError
from avne.upstream.failure import explain
from avne.upstream.find import find_tor

KERNEL = (5, 11)  # the first where a user namespace may mount an overlay
PYTHON = (3, 11)


class Probe(NamedTuple):
    """One line of the report."""

    name: str
    ok: bool
    detail: str
    cure: str


def doctor(as_json: bool) -> int:
    """Run all probes and print them; gives 0 when all are well, else 1."""
    probes = [_probe(name, check) for name, check in CHECKS.items()]
    if as_json:
        import json

        sys.stdout.write(json.dumps([probe._asdict() for probe in probes], indent=2) + "\n")
    else:
        sys.stdout.write(report(probes))
    return 0 if all(probe.ok for probe in probes) else 1


def report(probes: list[Probe]) -> str:
    """The probes as lines."""
    good, bad = _marks()
    width = max(len(probe.name) for probe in probes)
    lines = []
    for probe in probes:
        mark = colour(good, 32) if probe.ok else colour(bad, 31)
        lines.append(f"{mark} {probe.name:{width}}  {probe.detail}\n")
        if not probe.ok:
            lines.append(f"{' ' * len(good)} {'':{width}}  {probe.cure}\n")
    return "".join(lines)


def _marks() -> tuple[str, str]:
    """Words where the locale cannot show the signs."""
    return ("✓", "✗") if "utf" in (sys.stdout.encoding or "").lower() else ("ok  ", "FAIL")


def _probe(name: str, check: Callable[[], str]) -> Probe:
    try:
        return Probe(name, True, check(), "")
    except AvneError as error:
        return Probe(name, False, error.problem, error.cure)


def _python() -> str:
    if sys.version_info[:2] < PYTHON:
        raise AvneError(f"Python {platform.python_version()} is too old", "Install Python 3.11 or later.")
    return platform.python_version()


def _kernel() -> str:
    release = os.uname().release
    major, minor = (int("".join(c for c in part if c.isdigit()) or 0) for part in release.split(".")[:2])
    if (major, minor) < KERNEL:
        raise AvneError(f"Linux {release} is too old", "It needs Linux 5.11 or later.")
    return f"Linux {release}"


def _config() -> str:
    config = load()
    routing.parse(config)
    origins = {value.origin for value in config.values.values()} - {"default"}
    return f"from {', '.join(sorted(origins))}" if origins else "the defaults"


def _helper() -> str:
    return f"{launch.find_helper()} ({version.layout()})"


def _tun() -> str:
    try:
        os.stat("/dev/net/tun")
    except OSError as error:  # no fault in itself: `_environment` shows what comes of it
        return f"is not there ({os.strerror(error.errno or 0)}); sudo modprobe tun may help"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "is there, but not for you to open"
    return "may be opened"


def _environment() -> str:
    """Make an environment with each helper in turn, up to its tun."""
    helpers = launch.candidates(load()["helper"])
    while True:
        environment = launch.Environment(helpers.pop(0))
        try:
            event = environment.receive()
        finally:
            environment.close()
        if isinstance(event, launch.Tun):
            os.close(event.fd)
            how = ", with the setuid helper" if environment.setuid else ""
            return f"can be made{how}{launch.instead_of_tun(event)}"
        if not isinstance(event, launch.Failed):
            raise AvneError("the helper ended without a word", "Look at the kernel's log: dmesg | tail.")
        if not helpers or not launch.another_may_work(event.stage):
            raise launch.explain(event.stage, event.errno, environment.setuid)


def _setuid() -> str:
    from avne.privileged import setup

    if not os.path.exists(launch.INSTALLED):
        return "not installed (needed only where users may not make namespaces)"
    if problems := setup.verify_installed():
        raise AvneError("; ".join(problems), "Install it again: sudo avne setup")
    return launch.INSTALLED


def _upstream() -> str:
    written = routing.parse(load())
    found = find_tor() if written.needs_tor else None
    if written.needs_tor and not found:
        if not _which_tor():
            raise AvneError("no Tor runs on this machine, and none is installed", "sudo apt install tor")
        return "no Tor runs; avne will start its own"
    spec = written.completed(found).default
    try:
        kinds.make(spec, {}).check()
    except OpenError as error:
        raise AvneError(*explain(spec, error)) from error
    return (
        f"Tor answers at {spec.redacted()}" if written.default.kind == "tor" else f"{spec.redacted()} answers"
    )


def _which_tor() -> str | None:
    return shutil.which("tor", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")


def _tor() -> str:
    return _which_tor() or "not installed (needed only where none runs)"


CHECKS: dict[str, Callable[[], str]] = {
    "Python": _python,
    "kernel": _kernel,
    "settings": _config,
    "runtime directory": runtime_dir,
    "state directory": state_dir,
    "helper": _helper,
    "/dev/net/tun": _tun,
    "environment": _environment,
    "setuid helper": _setuid,
    "upstream": _upstream,
    "tor": _tor,
}
