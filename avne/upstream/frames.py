# SPDX-License-Identifier: GPL-3.0-or-later
"""The flows of a netstack elsewhere, whose bytes are messages; and who proves the ends of all flows.

A netstack of the same machine gets its flows' sockets (worker.py), and only asks here about their ends.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from socket import socket
from typing import Any

from avne.errors import Malformed
from avne.ipc import messages
from avne.ipc.messages import Capability, Code, encode
from avne.ipc.streams import Stream, Streams
from avne.upstream.base import Upstream
from avne.upstream.lookout import Lookout
from avne.upstream.uplink import Payload, Uplink

Log = Callable[[str, str, dict[str, Any]], None]  # level, event, fields


class FrameFlow:
    """One of them: the `Peer` of its stream."""

    __slots__ = ("_data_header", "_frames", "number", "opened", "stream")

    def __init__(self, frames: Frames, number: int, opened: float) -> None:
        self._frames = frames
        self.number = number
        self.opened = opened
        self.stream: Stream
        self._data_header = encode(messages.DATA, number)

    def on_data(self, payload: memoryview, now: float) -> None:
        self._frames.uplink.send(self._data_header, payload)

    def on_credit(self, count: int, now: float) -> None:
        self._frames.uplink.send(encode(messages.CREDIT, self.number, count))

    def on_hangup(self, now: float) -> None:
        self._frames.flow_ended(self.number, self.opened, now)

    def on_end(self, now: float) -> None:
        self._frames.uplink.send(encode(messages.SHUT, self.number))

    def on_reset(self, code: int, now: float) -> None:
        self._frames.uplink.send(encode(messages.RESET, self.number, code))

    def on_gone(self, now: float) -> None:
        self._frames.flow_gone(self.number)


class Frames:
    """All of them."""

    def __init__(
        self, uplink: Uplink, streams: Streams, epoll: select.epoll, upstream: Upstream, log: Log
    ) -> None:
        self.uplink = uplink
        self._streams = streams
        self._log = log
        self._half_close = Capability.HALF_CLOSE in upstream.capabilities
        proof = Capability.PROOF in upstream.capabilities
        self._lookout = Lookout(epoll, upstream, streams.closing) if proof else None
        self._flows: dict[int, FrameFlow] = {}

    def __len__(self) -> int:
        return len(self._flows)

    def __contains__(self, number: int) -> bool:
        return number in self._flows

    def adopt(self, number: int, sock: socket, credit: int) -> None:
        """A new flow on a connected socket; the netstack grants `credit` bytes down."""
        flow = self._flows[number] = FrameFlow(self, number, self._streams.now)
        proof = self._lookout is not None
        flow.stream = self._streams.adopt(number, sock, flow, credit, self._half_close, proof)
        self.uplink.send(encode(messages.OPENED, number, flow.stream.relay.grant))

    def handle(self, message: list[Any], payload: Payload | None) -> None:
        """A message of the netstack about a flow; one that is gone is passed over.  Raises `Malformed`."""
        kind, number = message[0], message[1]
        flow = self._flows.get(number)
        if kind == messages.ENDED:
            if self._lookout is None or flow is not None:
                raise Malformed("wire-turn")
            self.flow_ended(number, message[2] / 1e6, self._streams.now)
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

    def flow_ended(self, number: int, opened: float, now: float) -> None:
        """The upstream has closed a flow, one of ours or one that was given away, open since `opened`."""
        assert self._lookout is not None
        self._lookout.flow_ended(number, opened, now)
        self._heed_verdicts()

    def flow_gone(self, number: int) -> None:
        del self._flows[number]
        if self._lookout:
            self._lookout.flow_gone(number)

    def on_event(self, fd: int, mask: int) -> None:
        """An event of epoll for the lookout, or for nobody (any more)."""
        if self._lookout and self._lookout.on_event(fd, mask, self._streams.now):
            self._heed_verdicts()

    def poll_at(self) -> float:
        return self._lookout.poll_at() if self._lookout else float("inf")

    def handle_timer(self) -> None:
        if self._lookout:
            self._lookout.handle_timer(self._streams.now)
            self._heed_verdicts()

    def _heed_verdicts(self) -> None:
        assert self._lookout is not None
        verdicts = self._lookout.take_verdicts()
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
