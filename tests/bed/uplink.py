# SPDX-License-Identifier: GPL-3.0-or-later
"""A network of a test's own that leads nowhere, with a watcher: whatever speaks past avne is heard there.

The network of the machine that the tests run on is full of other programs' packets; in this one there
are no others.  avne reaches its upstream from there by a unix socket, which knows no network namespace.
"""

from __future__ import annotations

import os
from typing import Self

from avne.probes import model
from tests.bed.namespaces import fresh_network
from tests.bed.runs import Avne
from tests.bed.wire import Packet, Wire


class _There:
    """A `Place` of somebody else's, in this network."""

    def __init__(self, prefix: list[str]) -> None:
        self.prefix = prefix


class Uplink:
    """`packets`: what has left by it since the last call."""

    def __init__(self) -> None:
        with fresh_network():
            model.make_uplink()
            self._wire = Wire()
            self._network = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def of(self, avne: Avne) -> Avne:
        """The same avne, called where this is the network."""
        prefix = ["nsenter", f"--net=/proc/{os.getpid()}/fd/{self._network}", *avne.place.prefix]
        return Avne(avne.mode, avne.command, avne.person, _There(prefix))  # type: ignore[arg-type]

    def wait(self, seconds: float) -> bool:
        return self._wire.wait(seconds)

    def packets(self) -> list[Packet]:
        """Raises where the watcher has lost some: then it has shown nothing."""
        seen = self._wire.packets()
        if lost := self._wire.lost():
            raise RuntimeError(f"{lost} packets were not seen")
        return seen

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._wire.close()
        os.close(self._network)
