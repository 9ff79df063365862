# SPDX-License-Identifier: GPL-3.0-or-later
"""``avne rules test NAME PORT``: which rule a connection would get, and why; nothing is sent."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from avne.cli import routing
from avne.config import load
from avne.errors import EXIT_USAGE, AvneError
from avne.upstream.patterns import Host
from avne.upstream.router import Ask, Blocked, Router, Rule, table


def test(host: str, port: str, flags: Mapping[str, Any]) -> int:
    """Prints it; 0 where the connection would be tried, 1 where a rule blocks it.  Raises `AvneError`."""
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise AvneError(f"{port!r} is no port", "It is a number from 1 to 65535.", EXIT_USAGE)
    written = routing.parse(load(flags))
    rows = [(rule.pattern, rule.upstream or written.default, rule.origin) for rule in written.rules]
    router = table(rows, written.default, written.onion_only, written.https_only)
    chosen = router.route(host, int(port))
    rule = router.rules[chosen]
    sys.stdout.write(f"{host} port {port}: {rule.upstream.redacted()}, by rule {chosen + 1}\n")
    sys.stdout.write(f"{_of_the_name(router, host)}\n\n")
    lines = [_line(router, number, host, int(port), chosen) for number in range(len(router.rules))]
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, (*widths, 0), strict=True)]
        sys.stdout.write("  ".join(cells).rstrip() + "\n")
    return 1 if rule.blocks else 0


def _line(router: Router, number: int, host: str, port: int, chosen: int) -> tuple[str, str, str, str]:
    rule = router.rules[number]
    mark = ">" if number == chosen else " "
    why = rule.pattern.why(Host.of(host), port) if number <= chosen else "not reached"
    return f"{mark} {number + 1}", rule.pattern.text, rule.upstream.redacted(), f"{why}{_origin(rule)}"


def _origin(rule: Rule) -> str:
    return f" [{rule.origin}]" if rule.origin.startswith(("/", "AVNE_")) else ""


def _of_the_name(router: Router, host: str) -> str:
    """What becomes of a question about it."""
    if Host.of(host).family:
        return "It is an address: no name is looked up."
    way = router.name(host)
    if isinstance(way, Blocked):
        return "Its name does not exist for the program: whatever the port, a rule blocks it."
    if isinstance(way, Ask):
        return f"Its name is looked up by way of {router.rules[way.rule].upstream.label()}."
    return "Its name is not looked up: whoever carries the connection gets the name."
