# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated link's table: loss × round trip × buffer → goodput, retransmissions, memory.

``make netsim`` measures it anew and writes docs/netsim.md; test_netsim.py compares.

One end sends as much as the other's buffer takes, through a link of endless bandwidth: what limits the
goodput is the window, the round trip, and how losses are repaired.  A loss takes a whole frame, up to 64 KiB,
as on a tun.  Time is simulated and all chance is seeded, so the figures are the same on any machine.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from simulator import End, Simulation, parse

from avne.netstack.tcp import seq

PAGE = Path(__file__).parents[2] / "docs" / "netsim.md"
LOSSES = (0.0, 0.001, 0.01, 0.05, 0.2)
ROUND_TRIPS = (20e-6, 1e-3, 100e-3)  # seconds
BUFFERS = (8 << 10, 64 << 10, 1 << 20)
SEEDS = (1, 2, 3)
FRAMES = 500  # as many as are sent at least, in each run

HEAD = """# The simulated link

<!-- Made by `make netsim` from tests/netstack/netsim.py. Do not edit. -->

Our TCP sends to itself over a simulated link of endless bandwidth, in simulated time: what limits the
goodput is the window (the receiver's buffer), the round trip, and how losses are repaired. A loss takes
a whole frame of up to 64 KiB, as on a tun. Each row is the sum of three seeded runs of at least 500
frames; `tests/netstack/test_netsim.py` measures again and compares.

*Goodput*: bytes delivered per simulated second. *Of the ideal*: of one buffer per round trip. *Memory*:
the most bytes that both ends together had queued, in flight or out of order, in buffers: one at the
sender until it is acknowledged, and less than another at the receiver while a hole is open.

avne's own link is the first line: 20 µs and no loss, unless the guest's kernel has no memory left. A
loss that duplicate ACKs uncover costs a round trip. One that they do not, because it was the last frame,
or the only one that the window had room for, or a repeated one, costs a timeout: at least 200 ms, ten
thousand times 20 µs, and twice as much each time until an unrepeated frame has been acknowledged (RFC
6298). That is what the rows with 20 µs or 8 KiB and many losses show; a TCP for such a link would have a
shorter least timeout than one whose only peer is a kernel that may have lost its processor.

"""


class Row(NamedTuple):
    loss: float
    rtt: float
    buffer: int
    goodput: float  # bytes per simulated second
    retransmitted: int  # segments
    sent: int  # segments with data
    memory: int  # bytes, the most at any time

    @property
    def ideal(self) -> float:
        return self.goodput / (self.buffer / self.rtt)


class _Transfer:
    """A run: the client sends `size` bytes, never more than `buffer` ahead of what is acknowledged."""

    def __init__(self, loss: float, rtt: float, buffer: int, seed: int) -> None:
        # The window field counts units of 256 bytes.
        self.sim = Simulation(seed, loss, delay=rtt / 2, window=buffer)
        self.size = FRAMES * min(buffer, 64 << 10)
        self.buffer = buffer
        self.written = self.retransmitted = self.sent = self.memory = 0
        self._highest: int | None = None
        self._block = memoryview(bytes(64 << 10))
        self.sim.client.acked = self._acked  # type: ignore[method-assign]
        self.sim.on_send = self._on_send

    def run(self) -> float:
        """Seconds from the first byte until the last has been acknowledged."""
        sim = self.sim
        sim.connect()
        while not sim.client.is_established:
            assert sim.step()
        began = sim.now
        self._refill()
        while sim.client.acked_bytes < self.size:
            assert sim.step(), "it has stopped"
            self.memory = max(self.memory, self._held())
        assert len(sim.server.received_bytes) == self.size
        return sim.now - began

    def _acked(self, count: int, now: float) -> None:
        self.sim.client.acked_bytes += count
        self._refill()

    def _refill(self) -> None:
        room = self.buffer - (self.written - self.sim.client.acked_bytes)
        while room > 0 and self.written < self.size:
            block = self._block[: min(room, self.size - self.written)]
            self.written += len(block)
            room -= len(block)
            self.sim.client.connection.write(block)

    def _held(self) -> int:
        ours, theirs = self.sim.client.connection, self.sim.server.connection
        queued = ours.unsent_bytes + ((ours.snd_nxt - ours.snd_una) & seq.MASK)
        return queued + (theirs.reassembly.held if theirs.reassembly else 0)

    def _on_send(self, end: End, frame: bytes) -> None:
        if end is self.sim.client and (segment := parse(frame)).payload:
            self.sent += 1
            after = seq.add(segment.seq, len(segment.payload))
            if self._highest is not None and not seq.lt(self._highest, after):
                self.retransmitted += 1
            else:
                self._highest = after


def measure(loss: float, rtt: float, buffer: int) -> Row:
    seconds = total = retransmitted = sent = memory = 0.0
    for seed in SEEDS if loss else SEEDS[:1]:
        transfer = _Transfer(loss, rtt, buffer, seed)
        seconds += transfer.run()
        total += transfer.size
        retransmitted += transfer.retransmitted
        sent += transfer.sent
        memory = max(memory, transfer.memory)
    return Row(loss, rtt, buffer, total / seconds, int(retransmitted), int(sent), int(memory))


def table() -> list[Row]:
    return [measure(loss, rtt, buffer) for rtt in ROUND_TRIPS for buffer in BUFFERS for loss in LOSSES]


# ---- the page -----------------------------------------------------------------------------------

_TITLE = "| round trip | buffer | loss | goodput | of the ideal | segments | retransmitted | memory |"


def page(rows: list[Row]) -> str:
    lines = [HEAD, _TITLE, "|---|---|---|--:|--:|--:|--:|--:|"]
    for r in rows:
        rtt = f"{r.rtt * 1e6:.0f} µs" if r.rtt < 1e-3 else f"{r.rtt * 1e3:.0f} ms"
        size = f"{r.buffer >> 10} KiB"
        lines.append(
            f"| {rtt} | {size} | {r.loss:.1%} | {r.goodput:,.0f} | {r.ideal:.1%} | {r.sent:,} "
            f"| {r.retransmitted:,} | {r.memory / r.buffer:.2f} |"
        )
    return "\n".join(lines) + "\n"


def read(text: str) -> dict[tuple[str, str, str], tuple[float, ...]]:
    """The page's rows: (round trip, buffer, loss) → goodput, ideal, segments, retransmitted, memory."""
    rows = {}
    for line in text.splitlines():
        if re.match(r"\| \d", line):
            fields = [field.strip() for field in line.strip("|").split("|")]
            rows[fields[0], fields[1], fields[2]] = tuple(
                float(x.strip("%").replace(",", "")) for x in fields[3:]
            )
    return rows


if __name__ == "__main__":
    PAGE.write_text(page(table()))
