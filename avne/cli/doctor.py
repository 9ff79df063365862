# SPDX-License-Identifier: GPL-3.0-or-later
"""``avne doctor``: what this machine has, what is missing, and the cure for each (avne/doctor/)."""

from __future__ import annotations

import sys
from collections.abc import Callable

from avne.cli import routing, version
from avne.cli.console import colour
from avne.config import load
from avne.doctor import FAILS, LIMITED, OK, Line, clock, helpers, look, machine, tor
from avne.paths import runtime_dir, state_dir


def doctor(as_json: bool, name: str = "") -> int:
    """Run all checks and print them; 0 where nothing fails, else 1.

    `name`: one to be resolved through Tor; without it nothing is asked of anybody outside.
    """
    lines: list[Line] = []
    for title, check in CHECKS.items():
        lines.append(look(title, check))
        if check is helpers.setuid:
            lines += helpers.environment()
    if name:
        lines.append(look("a name", lambda: tor.resolves(name)))
    if as_json:
        import json

        rows = [{**line._asdict(), "ok": line.state != FAILS} for line in lines]
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    else:
        sys.stdout.write(report(lines))
    return 1 if any(line.state == FAILS for line in lines) else 0


def report(lines: list[Line]) -> str:
    """One line each, and the cure below what is not well."""
    marks = _marks()
    width = max(len(line.name) for line in lines)
    text = []
    for line in lines:
        mark, number = marks[line.state]
        text.append(f"{colour(mark, number)} {line.name:{width}}  {line.detail}\n")
        if line.cure:
            text.append(f"{' ' * len(mark)} {'':{width}}  {line.cure}\n")
    return "".join(text)


def _marks() -> dict[str, tuple[str, int]]:
    """Words where the locale cannot show the signs; and colours."""
    utf = "utf" in (sys.stdout.encoding or "").lower()
    signs = ("✓", "!", "✗") if utf else ("ok     ", "limited", "FAILS  ")
    return dict(zip((OK, LIMITED, FAILS), zip(signs, (32, 33, 31), strict=True), strict=True))


def _config() -> str:
    config = load()
    routing.parse(config)
    origins = {value.origin for value in config.values.values()} - {"default"}
    return f"from {', '.join(sorted(origins))}" if origins else "the defaults"


def _helper() -> str:
    return f"{helpers.helper()} ({version.layout()})"


CHECKS: dict[str, Callable[[], str]] = {
    "Python": machine.python,
    "kernel": machine.kernel,
    "user namespaces": machine.user_namespaces,
    "seccomp": machine.seccomp,
    "/proc and /sys": machine.container,
    "memory": machine.memory,
    "open files": machine.files,
    "settings": _config,
    "runtime directory": runtime_dir,
    "state directory": state_dir,
    "helper": _helper,
    "/dev/net/tun": helpers.tun,
    "AppArmor": helpers.apparmor,
    "setuid helper": helpers.setuid,
    "upstream": tor.upstream,
    "tor": tor.program,
    "clock": clock.clock,
}
