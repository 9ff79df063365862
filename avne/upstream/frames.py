# SPDX-License-Identifier: GPL-3.0-or-later
"""The flows of a netstack elsewhere, whose bytes are messages; and who proves the ends of all flows.

A netstack of the same machine gets its flows' sockets (worker.py), and only asks here about their ends.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Sequence
from socket import socket
from typing import Any

from avne.errors import Malformed
from avne.ipc import messages
from avne.ipc.messages import Capability, Code, encode
from avne.ipc.pace import Pace
from avne.ipc.streams import Stream, Streams
from avne.upstream.base import Upstream
from avne.upstream.lookout import Lookout
from avne.upstream.uplink import Payload, Uplink

Log = Callable[[str, str, dict[str, Any]], None]  # level, event, fields


class FrameFlow:
    """One of them: the `Peer` of its stream."""

    __slots__ = ("_data_header", "_frames", "number", "opened", "stream", "upstream")

    def __init__(self, frames: Frames, number: int, opened: float, upstream: int) -> None:
        self._frames = frames
        self.number = number
        self.opened = opened
        self.upstream = upstream  # its number
        self.stream: Stream
        self._data_header = encode(messages.DATA, number)

    def on_data(self, payload: memoryview, now: float) -> None:
        self._frames.uplink.send(self._data_header, payload)

    def on_credit(self, count: int, now: float) -> None:
        self._frames.uplink.send(encode(messages.CREDIT, self.number, count))

    def on_hangup(self, now: float) -> None:
        self._frames.flow_ended(self.number, self.opened, self.upstream, now)

    def on_end(self, now: float) -> None:
        self._frames.uplink.send(encode(messages.SHUT, self.number))

    def on_reset(self, code: int, now: float) -> None:
        self._frames.uplink.send(encode(messages.RESET, self.number, code))

    def on_gone(self, now: float) -> None:
        self._frames.flow_gone(self.number)


class Frames:
    """All of them."""

    def __init__(
        self, uplink: Uplink, streams: Streams, epoll: select.epoll, upstreams: Sequence[Upstream], log: Log
    ) -> None:
        self.uplink = uplink
        self._streams = streams
        self._log = log
        self._upstreams = upstreams
        self._paces = [Pace(upstream.rate) if upstream.rate else None for upstream in upstreams]
        provers = {one.prover for one in upstreams if one.prover is not None}
        lookouts = {one: Lookout(epoll, one, streams.closing) for one in provers}
        self._lookouts = list(lookouts.values())
        # By an upstream's number; several may share one.
        self._lookout_of = [None if one.prover is None else lookouts[one.prover] for one in upstreams]
        self._flows: dict[int, FrameFlow] = {}

    def __len__(self) -> int:
        return len(self._flows)

    def __contains__(self, number: int) -> bool:
        return number in self._flows

    def adopt(self, number: int, sock: socket, credit: int, upstream: int) -> None:
        """A new flow on a connected socket; the netstack grants `credit` bytes down."""
        flow = self._flows[number] = FrameFlow(self, number, self._streams.now, upstream)
        can = self._upstreams[upstream].capabilities
        half_close, proof = Capability.HALF_CLOSE in can, Capability.PROOF in can
        flow.stream = self._streams.adopt(
            number, sock, flow, credit, half_close, proof, self._paces[upstream]
        )
        self.uplink.send(encode(messages.OPENED, number, flow.stream.relay.grant))

    def handle(self, message: list[Any], payload: Payload | None) -> None:
        """A message of the netstack about a flow; one that is gone is passed over.  Raises `Malformed`."""
        kind, number = message[0], message[1]
        flow = self._flows.get(number)
        if kind == messages.ENDED:
            _, _, opened, upstream = message
            proved = upstream < len(self._lookout_of) and self._lookout_of[upstream] is not None
            if flow is not None or not proved:
                raise Malformed("wire-turn")
            self.flow_ended(number, opened / 1e6, upstream, self._streams.now)
        elif flow is None:
            return
        elif kind == messages.DATA:
            assert payload is not None
            self._streams.send(flow.stream, payload)
        elif kind == messages.CREDIT:
            self._streams.grant(flow.stream, message[2])
        elif kind == messages.SHUT:
            self._streams.shut(flow.stream)
        elif kind == messages.RESET:
            self._streams.reset(flow.stream)

    # ---- ends ------------------------------------------------------------------------------

    def flow_ended(self, number: int, opened: float, upstream: int, now: float) -> None:
        """The upstream has closed a flow, one of ours or one that was given away, open since `opened`."""
        lookout = self._lookout_of[upstream]
        assert lookout is not None
        lookout.flow_ended(number, opened, now)
        self._heed_verdicts(lookout)

    def flow_gone(self, number: int) -> None:
        lookout = self._lookout_of[self._flows.pop(number).upstream]
        if lookout:
            lookout.flow_gone(number)

    def on_event(self, fd: int, mask: int) -> None:
        """An event of epoll for a lookout, or for nobody (any more)."""
        for lookout in self._lookouts:
            if lookout.on_event(fd, mask, self._streams.now):
                self._heed_verdicts(lookout)
                return

    def poll_at(self) -> float:
        return min((lookout.poll_at() for lookout in self._lookouts), default=float("inf"))

    def handle_timer(self) -> None:
        for lookout in self._lookouts:
            lookout.handle_timer(self._streams.now)
            self._heed_verdicts(lookout)

    def _heed_verdicts(self, lookout: Lookout) -> None:
        verdicts = lookout.take_verdicts()
        lost = sum(not alive for _, alive in verdicts)
        if lost:
            self._log("warning", "upstream-died", {"flows": lost})
        for number, alive in verdicts:
            if (flow := self._flows.get(number)) is not None:
                self._streams.judge(flow.stream, alive)
            elif alive:
                self.uplink.send(encode(messages.ALIVE, number))
            else:
                self.uplink.send(encode(messages.RESET, number, int(Code.UPSTREAM_DOWN)))
