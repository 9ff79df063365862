# SPDX-License-Identifier: GPL-3.0-or-later
"""When a connection's timer is due: a heap of what was said first, corrected when its time has come.

Most timers are put off or stopped before they expire.  That changes the connection's own `deadline` and
nothing here: an entry that comes up is looked at again.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection

from avne.netstack.tcp import timers
from avne.netstack.tcp.connection import INFINITE, Connection

_IDLE_DEADLINES = 1024  # that may be left in the heap beyond two for each connection


class Deadlines:
    """Of all `connections`."""

    __slots__ = ("_connections", "_heap", "_serial")

    def __init__(self, connections: Collection[object]) -> None:
        self._connections = connections
        self._heap: list[tuple[float, int, Connection]] = []
        self._serial = 0

    def __len__(self) -> int:
        return len(self._heap)

    def schedule(self, connection: Connection) -> None:
        """Its deadline has become earlier."""
        if connection.deadline < connection.scheduled:
            connection.scheduled = connection.deadline
            self._serial += 1
            heapq.heappush(self._heap, (connection.deadline, self._serial, connection))
            if len(self._heap) > 2 * len(self._connections) + _IDLE_DEADLINES:
                self._forget_old()

    def poll_at(self) -> float:
        """When `handle_timer` is due."""
        heap = self._heap
        while heap and heap[0][0] < heap[0][2].deadline:
            self._reschedule(heapq.heappop(heap)[2])  # put off, or dead: no reason to wake up
        return heap[0][0] if heap else INFINITE

    def handle_timer(self, now: float) -> None:
        heap = self._heap
        while heap and heap[0][0] <= now:
            connection = heapq.heappop(heap)[2]
            if connection.deadline <= now:
                timers.expire(connection, now)
            self._reschedule(connection)

    def _reschedule(self, connection: Connection) -> None:
        """Its entry has left the heap; it needs another if it has a deadline still."""
        connection.scheduled = INFINITE
        if connection.deadline != INFINITE:
            self.schedule(connection)

    def _forget_old(self) -> None:
        """Those of the dead, and those that others came before, would stay until their time: up to 135 s."""
        latest = {entry[2]: entry for entry in self._heap if entry[0] == entry[2].scheduled}
        for connection in [c for c in latest if c.deadline == INFINITE]:
            connection.scheduled = INFINITE
            del latest[connection]
        self._heap[:] = latest.values()
        heapq.heapify(self._heap)
