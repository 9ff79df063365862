# SPDX-License-Identifier: GPL-3.0-or-later
"""The workers on other machines: who is let in, and who is still there.

The supervisor gives us the listening socket and the keys; ZeroMQ accepts, and we can open nothing ourselves.
A worker that has gone is seen by the end of its connection, where that is told, or by its silence
(ipc/heartbeat.py); either costs its own flows only.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from avne.ipc import messages
from avne.ipc.heartbeat import Heartbeats
from avne.ipc.messages import encode

if TYPE_CHECKING:
    from avne.ipc.channel import Router
    from avne.netstack.lines import Lines
    from avne.netstack.stack import Stack

_SETTLE: Final = 0.05  # seconds in which ZeroMQ comes to know of an end that it has told
_LOG_INTERVAL: Final = 1.0  # seconds between two lines about those who were refused
SILENT: Final = "silent"


def listen(config: dict[str, Any], fds: list[int]) -> Router | None:
    """Where workers elsewhere may join; takes the first of `fds` then."""
    if "endpoint" not in config:
        return None
    from avne.ipc.channel import Keys, Router

    secret, public, allowed = config["keys"]
    return Router(fds.pop(0), config["endpoint"], Keys(secret, public, frozenset(allowed)))


class Elsewhere:
    """`cut_off` gives whom to treat as gone, after each turn's messages."""

    def __init__(self, router: Router, lines: Lines, stack: Stack) -> None:
        self._router = router
        self._lines = lines
        self._stack = stack
        self._beats = Heartbeats(time.monotonic())
        self._log_at = 0.0

    def poll_at(self) -> float:
        return self._beats.poll_at()

    def take_turn(self, now: float) -> list[tuple[bytes, str]]:
        """Answer those who knock, ask who is there; gives whom to treat as gone, and why."""
        for what, address in self._router.news():
            if what == "lost":
                self._beats.ask_at(now + _SETTLE)
            else:
                self._refused(what, address, now)
        if self._lines.strangers:
            self._stack.counters["worker-stranger"] += self._lines.strangers
            self._lines.strangers = 0
        if now < self._beats.poll_at():
            return []
        upstreams = self._stack.upstreams
        peers = [peer for peer in upstreams.workers if peer not in upstreams.lanes]
        self._beats.heard |= self._lines.heard
        self._lines.heard.clear()
        ask, silent = self._beats.handle_timer(peers, now)
        # One that has gone is found out by sending.
        upstreams.messages.extend((peer, encode(messages.PING, 0, 0), None) for peer in ask)
        return [(peer, SILENT) for peer in silent]

    def _refused(self, why: str, address: str, now: float) -> None:
        self._stack.count("worker-refused")
        if now >= self._log_at:
            self._log_at = now + _LOG_INTERVAL
            self._stack.logs.append(("warning", "worker-refused", {"why": why, "from": address}))
