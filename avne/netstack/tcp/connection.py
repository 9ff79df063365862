# SPDX-License-Identifier: GPL-3.0-or-later
"""One TCP connection with a program inside: its transmission control block and its interface.

Theory of operation
    The guest is a kernel's TCP one virtual hop away.  Segments come in by `arrives.segment`
    (RFC 9293 §3.10.7), go out by `output.flush`, timers are handled by `timers.expire`; this
    file holds what the three share.  None of them reads a clock or touches a device: `now` is
    an argument, packets are appended to ``link.packets``.

    A connection belongs to an `App` (a relayed flow, or a service of our own).  Data from the
    guest is given to the app at once and never kept here, except ahead of its turn; the app says
    how much it can take with `grant`, and that is the receive window.  Data for the guest is
    queued by `write` until it is acknowledged; the app bounds it by what it takes from upstream.

    Output is deferred: every change marks the connection with ``link.wake`` and one `flush` per
    turn of the loop sends data, FIN and at most one ACK for all segments of the turn.

Sequence variables keep the RFC's names: ``snd_una snd_nxt snd_wnd rcv_nxt``; ``rcv_adv`` is the
right edge of the window as advertised, which never moves left (SHLD-14), and ``rcv_edge`` the one
the app has granted.  Windows are scaled to their full 32 bits as soon as they are read (REC-1).
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final, Protocol

from avne.limits import GSO_SIZE
from avne.netstack.tcp import seq, state
from avne.netstack.tcp.reassembly import Reassembly
from avne.netstack.tcp.rto import RetransmissionTimeout
from avne.netstack.tcp.state import State
from avne.netstack.wire import tcp as wire

Packet = tuple[bytes | memoryview, ...]  # header, then payload pieces: one frame for writev(2)

INFINITE: Final = float("inf")
NOTHING: Final[deque[Any]] = deque()  # every queue that is empty: one of its own takes 760 bytes
WINDOW_SCALE: Final = 8
RESET_GRACE: Final = 1.0  # seconds
# An ACK that `ack_now` stands for may wait for something that goes the same way (RFC 9293 §3.8.6.3).
ACK_MAY_WAIT: Final = 2
MAX_CRUMBS: Final = 64  # unsent pieces of less than 1 KiB on average


class App(Protocol):
    """Who a connection works for.  Called while a segment or timer is handled, or never again
    once `closed` was called."""

    def established(self, now: float) -> None: ...
    def received(self, payload: memoryview, now: float) -> None: ...
    def received_fin(self, now: float) -> None: ...
    def acked(self, count: int, now: float) -> None: ...
    def closed(self, reset: bool, now: float) -> None:
        """The connection is over: `reset` unless both directions ended with a FIN (MUST-12)."""


class _Gone:
    """The app of a closed connection: lets go of the real one, so that no cycle is left."""

    def established(self, now: float) -> None: ...
    def received(self, payload: memoryview, now: float) -> None: ...
    def received_fin(self, now: float) -> None: ...
    def acked(self, count: int, now: float) -> None: ...
    def closed(self, reset: bool, now: float) -> None: ...


_GONE: Final = _Gone()


class Link(Protocol):
    """What all connections of a stack share."""

    packets: deque[Packet]

    def wake(self, connection: Connection) -> None:
        """`flush` it at the end of this turn."""

    def schedule(self, connection: Connection) -> None:
        """Its deadline has become earlier."""

    def drop(self, connection: Connection) -> None:
        """It is CLOSED."""

    def challenge(self, now: float) -> bool:
        """Whether one more challenge ACK may be sent now (RFC 5961 §7)."""


class Sent:
    """A segment in flight: [start, end) of sequence space, kept until it is acknowledged."""

    __slots__ = ("at", "end", "fin", "payload", "retransmitted", "sacked", "start", "timed")

    def __init__(self, start: int, end: int, payload: Packet, fin: bool, at: float) -> None:
        self.start = start
        self.end = end
        self.payload = payload
        self.fin = fin
        self.at = at  # when it was first sent
        self.retransmitted = False
        self.timed = False  # SACK has told its round trip
        self.sacked = False


class Timer:
    """Which of the timers runs; a connection has one deadline (RFC 9293 §3.8.3, §3.8.6.1, §3.6.1)."""

    NONE: Final = 0
    RETRANSMIT: Final = 1
    PERSIST: Final = 2
    TIME_WAIT: Final = 3


class Connection:
    """A transmission control block (RFC 9293 §3.3.1)."""

    __slots__ = (
        "ack_now", "app", "backoffs", "deadline", "dupacks", "fin_queued", "fin_received", "fin_sent",
        "gso_size", "inflight", "irs", "iss", "key", "link", "max_snd_wnd", "mss_advertised",
        "passive", "probes", "rcv_adv", "rcv_edge", "rcv_nxt", "rcv_wscale", "reassembly", "recover",
        "rst_by", "rst_una", "rto",
        "sack_ok",
        "scheduled",
        "snd_nxt", "snd_una", "snd_wl1", "snd_wl2", "snd_wnd", "snd_wscale", "state", "syn_ack_sent",
        "template", "timer", "unsent", "unsent_bytes",
    )  # fmt: skip

    def __init__(
        self, link: Link, app: App, key: bytes, template: wire.HeaderTemplate, iss: int, mss: int
    ) -> None:
        self.link = link
        self.app = app
        self.key = key
        self.template = template
        self.state = state.CLOSED
        self.iss = self.snd_una = self.snd_nxt = iss
        self.snd_wnd = self.snd_wl1 = self.snd_wl2 = self.max_snd_wnd = 0
        self.irs = self.rcv_nxt = self.rcv_adv = self.rcv_edge = 0
        self.snd_wscale = self.rcv_wscale = 0
        self.mss_advertised = mss
        self.gso_size = GSO_SIZE
        self.sack_ok = False
        self.unsent: deque[memoryview] = NOTHING
        self.unsent_bytes = 0
        self.inflight: deque[Sent] = NOTHING
        self.reassembly: Reassembly | None = None
        self.fin_queued = self.fin_sent = self.fin_received = False
        self.ack_now = 0  # true where an ACK is owed: it may wait, or goes with this turn
        self.syn_ack_sent = False
        self.rst_by: float | None = None  # a RST follows what is queued, at this time at the latest,
        self.rst_una = 0  # unless the guest has acknowledged more than this meanwhile
        self.passive = True  # how it was opened (RFC 9293 §3.5, MUST-11)
        self.rto = RetransmissionTimeout()
        self.recover: int | None = None  # in loss recovery until snd_una reaches it
        self.dupacks = self.backoffs = 0
        self.probes = 0  # of a zero window, since the guest was last heard
        self.timer = Timer.NONE
        self.deadline = INFINITE
        self.scheduled = INFINITE  # the link's earliest note of a deadline of ours

    # ---- what the app calls ------------------------------------------------------

    def open_passive(self, syn: wire.Segment) -> None:
        """Take a SYN and park it (RFC 9293 §3.10.7.2); `accept` or `abort` answers it."""
        self.irs = syn.seq
        self.rcv_nxt = self.rcv_adv = self.rcv_edge = seq.add(syn.seq, 1)
        self.take_syn_options(syn)
        self._set_window_from_syn(syn)
        self.enter(state.PARKED)

    def open_active(self) -> None:
        """Send a SYN (RFC 9293 §3.10.1)."""
        self.passive = False
        self.rcv_wscale = WINDOW_SCALE
        self.enter(state.SYN_SENT)
        self.link.wake(self)

    def accept(self, window: int) -> None:
        """Answer a parked SYN; `window`: bytes that the app can take."""
        self.enter(state.SYN_RECEIVED)
        self.grant(window)

    def grant(self, count: int) -> None:
        """The app can take `count` more bytes."""
        self.rcv_edge = (self.rcv_edge + count) & seq.MASK
        self.link.wake(self)

    def write(self, data: memoryview) -> None:
        """Queue bytes for the guest; they are kept, and not copied unless they come in crumbs.

        What is written within a turn is sent together (MAY-16), and at its end in any case (MUST-60).
        """
        if not data:
            return
        unsent = self.unsent
        if unsent is NOTHING:
            unsent = self.unsent = deque()
        unsent.append(data)
        self.unsent_bytes += len(data)
        if len(unsent) > MAX_CRUMBS and self.unsent_bytes < len(unsent) << 10:
            whole = memoryview(b"".join(unsent))  # a piece costs 200 bytes, whatever is in it
            unsent.clear()
            unsent.append(whole)
        self.link.wake(self)

    def shutdown(self) -> None:
        """No more `write`: a FIN follows what is queued (RFC 9293 §3.10.4)."""
        self.fin_queued = True
        self.link.wake(self)

    def reset(self, now: float) -> None:
        """No more `write`: a RST follows what is queued, as it would follow a peer's bytes.

        A guest that takes nothing of it for `RESET_GRACE` loses it: it has to hear of the reset.
        """
        if self.state is state.PARKED or self.state is state.SYN_SENT:
            self.abort(now)
        else:
            self.rst_by = now + RESET_GRACE
            self.rst_una = self.snd_una
            self.link.wake(self)

    def abort(self, now: float) -> None:
        """RST to the guest, which forgets everything queued (RFC 9293 §3.10.5)."""
        if self.state is state.PARKED:
            self.emit_rst(0, self.rcv_nxt)  # <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>
        elif self.state not in (state.CLOSED, state.SYN_SENT, state.TIME_WAIT):
            self.emit_rst(self.snd_nxt, self.rcv_nxt)
        self.close(True, now)

    # ---- what arrives, output and timers share -----------------------------------

    def enter(self, new: State) -> None:
        """Change the state; a move that the RFC does not know is a fault of ours."""
        assert self.state is state.CLOSED or new is state.CLOSED or new in state.TRANSITIONS[self.state], (
            self.state,
            new,
        )
        self.state = new

    def close(self, reset: bool, now: float) -> None:
        """Forget everything, and tell the app once."""
        if self.state is state.CLOSED:
            return
        told = self.state is state.TIME_WAIT
        self.state = state.CLOSED
        self.stop_timer()
        self.unsent = self.inflight = NOTHING
        self.unsent_bytes = 0
        self.reassembly = None
        app, self.app = self.app, _GONE
        if not told:
            app.closed(reset, now)
        self.link.drop(self)

    def track(self, sent: Sent) -> None:
        """Keep a segment until it is acknowledged."""
        if self.inflight is NOTHING:
            self.inflight = deque()
        self.inflight.append(sent)

    def take_syn_options(self, syn: wire.Segment) -> None:
        """RFC 9293 §3.7.1, RFC 7323 §2.2, RFC 2018 §2: what the guest's SYN offers."""
        options = syn.options
        default = wire.DEFAULT_MSS_V4 if len(self.template.src) == 4 else wire.DEFAULT_MSS_V6
        # MUST-16; what is smaller than any real MSS would cost more than it carries.
        self.gso_size = min(GSO_SIZE, max(options.mss or default, 64))
        self.sack_ok = options.sack_permitted
        # RFC 7323 §2.2: scaling works only where both sides sent the option.
        self.snd_wscale = options.window_scale or 0
        self.rcv_wscale = 0 if options.window_scale is None else WINDOW_SCALE

    def _set_window_from_syn(self, syn: wire.Segment) -> None:
        self.snd_wnd = self.max_snd_wnd = syn.wnd  # RFC 7323 §2.2: never scaled in a SYN
        self.snd_wl1 = syn.seq
        self.snd_wl2 = self.iss

    def established(self, syn_or_ack: wire.Segment, now: float) -> None:
        """Both SYNs are acknowledged (RFC 9293 §3.10.7.3 and .4)."""
        self.enter(state.ESTABLISHED)
        shift = 0 if syn_or_ack.flags & wire.SYN else self.snd_wscale
        self.snd_wnd = syn_or_ack.wnd << shift
        self.max_snd_wnd = max(self.max_snd_wnd, self.snd_wnd)
        self.snd_wl1, self.snd_wl2 = syn_or_ack.seq, syn_or_ack.ack
        self.backoffs = 0
        self.rto.begin_data()
        self.link.wake(self)  # what was written before can go now
        self.app.established(now)

    @property
    def rcv_room(self) -> int:
        """What the app has granted, and the guest has not sent yet."""
        return (self.rcv_edge - self.rcv_nxt) & seq.MASK

    @property
    def rcv_wnd(self) -> int:
        """The window as the guest knows it (RFC 9293 §3.3.1).

        It is counted from the largest edge that was ever told, not from the last (RFC 7323 §2.4).
        """
        return (self.rcv_adv - self.rcv_nxt) & seq.MASK

    def window_field(self, scaled: bool = True) -> int:
        """The window to put into a segment, scaled (RFC 7323 §2.3); remembers it as advertised.

        It may stay closed for as long as the app takes nothing (MAY-8).
        """
        room = self.rcv_room
        shift = self.rcv_wscale if scaled else 0
        field = min(room >> shift, 0xFFFF)
        edge = (self.rcv_nxt + (field << shift)) & seq.MASK
        if seq.lt(self.rcv_adv, edge):
            self.rcv_adv = edge
        return field

    def start_timer(self, which: int, deadline: float) -> None:
        self.timer = which
        self.deadline = deadline
        if deadline < self.scheduled:
            self.link.schedule(self)

    def stop_timer(self) -> None:
        self.timer = Timer.NONE
        self.deadline = INFINITE

    def emit(
        self, flags: int, start: int, payload: Packet = (), length: int = 0, options: bytes = b""
    ) -> None:
        """One segment at sequence number `start`, with everything received acknowledged."""
        gso = self.gso_size if length > self.gso_size else 0
        scaled = not flags & wire.SYN
        header = self.template.build(
            start, self.rcv_nxt, flags, self.window_field(scaled), length, gso, options
        )
        self.ack_now = 0
        self.link.packets.append((header, *payload))

    def emit_ack(self) -> None:
        """A pure ACK at once, with SACK blocks where there are any."""
        options = b""
        if self.sack_ok and self.reassembly is not None:
            blocks = self.reassembly.sack_blocks()
            options = wire.sack_option(blocks) if blocks else b""
        self.emit(wire.ACK, self.snd_nxt, options=options)

    def emit_rst(self, start: int, ack: int) -> None:
        self.link.packets.append((self.template.build(start, ack, wire.RST | wire.ACK, 0, 0, 0),))
