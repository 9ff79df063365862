# SPDX-License-Identifier: GPL-3.0-or-later
"""When is a network usable?  Each wait looks at what Tor itself says, and then tries it."""

from __future__ import annotations

import contextlib
import datetime
import json
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from tests.bed.tornet.control import Control
from tests.bed.tornet.node import ONION_ECHO_PORT, Node
from tests.bed.tornet.processes import LOOPBACK, MissedVote, TornetError, poll
from tests.bed.tornet.socks_client import RESOLVE, SocksError, echo_roundtrip, socks_request

if TYPE_CHECKING:
    from tests.bed.tornet.network import Network


def watched(net: Network, check: Callable[[], bool]) -> Callable[[], bool]:
    """`check`, but false while something does not listen yet, and an error when a node has died."""

    def run() -> bool:
        net.check_alive()
        try:
            return check()
        except MissedVote:
            raise
        except (OSError, TornetError):
            return False  # not listening yet, or closed under us

    return run


class _Consensus:
    """Every relay holds a consensus that lists every relay as running."""

    def __init__(self, net: Network) -> None:
        self.relays = net.by_role("authority", "relay")
        self.exits = len(net.by_role("relay"))
        self.pending = {node.name: "no answer" for node in self.relays}
        self.nudged: dict[str, float] = {}

    def check(self) -> bool:
        for node in self.relays:
            if node.name in self.pending:
                try:
                    with node.control() as control:
                        self._examine(node, control)
                except MissedVote:
                    raise
                except (OSError, TornetError):
                    pass  # its control port is not open yet
        return not self.pending

    def _examine(self, node: Node, control: Control) -> None:
        document = control.getinfo("ns/all")
        # "1" once it has the relays' microdescriptors as well.
        enough = control.getinfo("status/enough-dir-info") == "1"
        flags = [set(f.split()) for f in re.findall(r"^s (.*)$", document, re.MULTILINE)]
        running = sum("Running" in f for f in flags)
        leaving = sum("Exit" in f for f in flags)
        if running >= len(self.relays) and leaving >= self.exits and enough:
            del self.pending[node.name]
            return
        self.pending[node.name] = f"{running}/{len(self.relays)} running, {leaving}/{self.exits} exits" + (
            "" if enough else ", descriptors missing"
        )
        if node.role == "authority" and running:
            _check_next_vote(control)
        self._nudge(node, control)

    def _nudge(self, node: Node, control: Control) -> None:
        """A relay that asked too early backs off for many seconds; a reload makes it ask again."""
        published = not any(a.name in self.pending for a in self.relays if a.role == "authority")
        due = time.monotonic() - self.nudged.get(node.name, 0.0) > 4
        if node.role == "relay" and published and due:
            self.nudged[node.name] = time.monotonic()
            control.command("SIGNAL RELOAD")


def _check_next_vote(control: Control) -> None:
    """An incomplete consensus: is it worth while to wait for the next?"""
    until = control.getinfo("consensus/fresh-until").strip('"')
    fresh = datetime.datetime.fromisoformat(until + "+00:00").timestamp()
    if fresh - time.time() > 20:
        raise MissedVote("the first consensus does not list every relay")


def wait_consensus(net: Network, deadline: float) -> None:
    state = _Consensus(net)
    poll(
        "the relays did not agree on a consensus:",
        watched(net, state.check),
        deadline,
        0.2,
        lambda: json.dumps(state.pending),
    )


def wait_bootstrap(net: Network, node: Node, deadline: float) -> None:
    phase = ""

    def check() -> bool:
        nonlocal phase
        with node.control() as control:
            phase = control.getinfo("status/bootstrap-phase")
        return "PROGRESS=100" in phase

    poll(f"{node.name} did not bootstrap:", watched(net, check), deadline, 0.05, lambda: phase)


def wait_client(net: Network, deadline: float) -> None:
    wait_bootstrap(net, net.client, deadline)


def wait_exits(net: Network, deadline: float) -> None:
    """A name resolves and a stream is echoed through the network."""
    port = net.client.ports["socks"]
    last = ""

    def check() -> bool:
        nonlocal last
        try:
            sock, _answer = socks_request(port, RESOLVE, f"ready.{net.options['zone']}", 0, 15)
            sock.close()
            echo_roundtrip(port, LOOPBACK, net.helper["echo_port"], 15)
            return True
        except (OSError, SocksError) as error:
            last = f"{type(error).__name__}: {error}"
            return False

    poll("no stream gets through the exits:", watched(net, check), deadline, 0.1, lambda: last)


class OnionWatch:
    """Follows an onion service from start to descriptors published.

    Asking a client for a service whose descriptor is not there yet makes every later request fail
    for a while, so probing is not enough: first wait for the uploads, seen as HS_DESC events of the
    hosting Tor.
    """

    def __init__(self, net: Network, node: Node) -> None:
        self._net, self._node = net, node
        self._control: Control | None = None
        self._last = "no descriptor uploaded"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._control:
            self._control.close()

    def subscribe(self, deadline: float) -> None:
        """Ask for the events, at once: uploads begin 2 s after the start."""

        def connect() -> bool:
            self._control = self._node.control()
            self._control.command("SETEVENTS HS_DESC")
            return True

        poll("the onion host's control port is shut", watched(self._net, connect), deadline)

    def wait(self, deadline: float) -> str:
        """Until the service answers; gives its host name."""
        file = self._node.path / "service" / "hostname"
        poll("no onion hostname", watched(self._net, file.exists), deadline)
        hostname = file.read_text().strip()
        poll(
            "the onion service is not reachable:",
            watched(self._net, lambda: self._check(hostname)),
            deadline,
            0.2,
            lambda: self._last,
        )
        return hostname

    def _check(self, hostname: str) -> bool:
        assert self._control is not None
        self._control.command("GETINFO version")  # collects pending events
        text = "\n".join(self._control.events)
        asked, sent, lost = (
            len(re.findall(f"HS_DESC {word} ", text)) for word in ("UPLOAD", "UPLOADED", "FAILED")
        )
        self._last = f"descriptors: {asked} uploads begun, {sent} done, {lost} failed"
        if not sent or sent + lost < asked:
            return False
        with contextlib.suppress(OSError, SocksError):
            echo_roundtrip(self._net.client.ports["socks"], hostname, ONION_ECHO_PORT, 20)
            return True
        with self._net.client.control() as control:
            control.command("SIGNAL NEWNYM")  # forget failed look-ups
        time.sleep(1)
        return False
