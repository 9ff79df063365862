# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of hostile guests share: a flow that must go on beside them, and measures of memory."""

from __future__ import annotations

import contextlib
import gc
import os
import tracemalloc
from collections.abc import Iterator

from guest import Net, connected

from avne.ipc import messages
from avne.netstack.tcp.connection import Connection

MIB = 1 << 20


class Beside:
    """A well-behaved flow: what it sends arrives, what it is sent arrives, whatever goes on beside it."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.socket, self.flow = connected(net, local=9, credit=1 << 20)
        self.turns = 0

    def goes_on(self) -> None:
        self.turns += 1
        up, down = b"up %d." % self.turns, b"down %d." % self.turns
        self.net.told()
        before = len(self.socket.data)
        self.socket.send(up)
        data = [m.payload for m in self.net.told("DATA") if m.flow == self.flow]
        assert data == [up]
        self.net.say(messages.CREDIT, self.flow, len(up))
        self.net.say(messages.DATA, self.flow, payload=down)
        self.socket.send()
        assert bytes(self.socket.data[before:]) == down
        assert not self.socket.reset
        self.socket.inbox.clear()


def the_connection(net: Net) -> Connection:
    """The one that is not `Beside`'s."""
    (found,) = [c for c in net.stack.connections.values() if c.template._ports[2:] != (9).to_bytes(2, "big")]
    return found


@contextlib.contextmanager
def memory_within(mib: float) -> Iterator[None]:
    gc.collect()
    tracemalloc.start()
    try:
        yield
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] / MIB
        assert grown <= mib, f"{grown:.1f} MiB"
    finally:
        tracemalloc.stop()


def resident() -> float:
    """MiB of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB
