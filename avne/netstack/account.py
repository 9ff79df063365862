# SPDX-License-Identifier: GPL-3.0-or-later
"""The account of a run: what came out of the tun and went into it, and where each byte of it has gone.

Each side is counted where it is: frames by the loop, packets where it is decided what they are, text
by the sequence numbers of connections and by what was handed to leases.  The sums (tests hold them):

    tun in            =  tcp + dns + udp + icmp + multicast + other + fragment + foreign + malformed
    accepted          =  to the upstream + discarded          the program's text, in order, acknowledged
    from the upstream =  acknowledged + lost                  the upstream's text
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from avne.netstack.tcp import seq, state

if TYPE_CHECKING:
    from avne.netstack.flows import Flow
    from avne.netstack.leases import Lease
    from avne.netstack.tcp.connection import Connection

TCP, DNS, UDP, ICMP, MULTICAST, OTHER = "tcp", "dns", "udp", "icmp", "multicast", "other"
FRAGMENT, FOREIGN, MALFORMED = "fragment", "foreign", "malformed"
KINDS: Final = (TCP, DNS, UDP, ICMP, MULTICAST, OTHER, FRAGMENT, FOREIGN, MALFORMED)
MAX_REASONS: Final = 64
MAX_NAMES: Final = 300  # that are kept, where they may be kept at all
_QUESTION: Final = 12  # where the question begins in a DNS message (RFC 1035 §4.1.1)


class Account:
    """Counters only; nothing here decides anything."""

    __slots__ = (
        "_bytes", "_fast", "_fast_packets", "_flows", "_names", "_packets", "_reasons", "bytes_in",
        "bytes_out", "discarded", "frames_in", "frames_out", "from_inside", "keep_names", "to_inside",
    )  # fmt: skip

    def __init__(self) -> None:
        self._fast = self._fast_packets = 0
        self.discarded = 0  # bytes of text whose upstream was gone
        self.from_inside = self.to_inside = 0  # bytes of connections that came from outside (inbound.py)
        self.keep_names = False
        self._bytes: Counter[str] = Counter()
        self._packets: Counter[str] = Counter()
        self._flows: Counter[str] = Counter()
        self.frames_in = self.bytes_in = self.frames_out = self.bytes_out = 0  # of the tun, as IP counts
        self._names: dict[str, None] = {}
        self._reasons: Counter[str] = Counter()

    # ---- packets -------------------------------------------------------------------

    def take(self, kind: str, size: int) -> None:
        """A packet that was looked at as a whole."""
        self._bytes[kind] += size
        self._packets[kind] += 1

    def take_text(self, size: int) -> None:
        """A TCP segment that took the short way in."""
        self._fast_packets += 1
        self._fast += size

    def asked(self, wire: bytes) -> None:
        """A DNS query: its name, where names may be kept."""
        if self.keep_names and len(self._names) < MAX_NAMES:
            self._names[question_name(wire)] = None

    def refused(self, code: int, detail: str) -> None:
        """A connection: why, which never holds a destination's name."""
        reason = f"{code:#06x} {detail}".rstrip()
        if reason in self._reasons or len(self._reasons) < MAX_REASONS:
            self._reasons[reason] += 1

    # ---- text ----------------------------------------------------------------------

    def flow_ended(self, flow: Flow) -> None:
        """Before it lets its lease go."""
        if flow.lease is not None:
            self._flow(flow, flow.lease, self._flows)

    def resolver_ended(self, lease: Lease) -> None:
        """A stream of our own to the configured DNS server."""
        self._flows["resolver_up"] += lease.sent
        self._flows["resolver_down"] += lease.received

    @staticmethod
    def _flow(flow: Flow, lease: Lease, flows: Counter[str]) -> None:
        """Sequence numbers wrap: they tell how far a count is from what they say."""
        connection, sent, received = flow.connection, lease.sent, lease.received
        up, down = flow.own_up, flow.own_down
        ahead = seq.diff(connection.rcv_nxt, seq.add(connection.irs, 1 + up + sent)) - connection.fin_received
        behind = seq.diff(connection.snd_una, seq.add(connection.iss, 1 + down + received))
        flows["accepted"] += sent + ahead
        flows["to_upstream"] += sent
        flows["from_upstream"] += received
        flows["acknowledged"] += max(0, received + min(0, behind))  # a FIN of ours is one more

    def sum(self, connections: Iterable[Connection], streams: Iterable[Lease]) -> dict[str, Any]:
        """The account as it is now, with what is still open."""
        from avne.netstack.flows import Flow

        flows = Counter(self._flows)
        for connection in connections:
            app = connection.app
            if isinstance(app, Flow) and app.lease is not None and connection.state is not state.PARKED:
                self._flow(app, app.lease, flows)
        for lease in streams:
            flows["resolver_up"] += lease.sent
            flows["resolver_down"] += lease.received
        sizes = {kind: self._bytes[kind] for kind in KINDS}
        sizes[TCP] += self._fast
        packets = {kind: self._packets[kind] for kind in KINDS}
        packets[TCP] += self._fast_packets
        return {
            "tun": {"in": {"packets": self.frames_in, "bytes": self.bytes_in},
                    "out": {"packets": self.frames_out, "bytes": self.bytes_out}},
            "packets": packets,
            "bytes": sizes,
            "up": {"accepted": flows["accepted"], "to_upstream": flows["to_upstream"],
                   "discarded": self.discarded},
            "down": {"from_upstream": flows["from_upstream"], "acknowledged": flows["acknowledged"],
                     "lost": flows["from_upstream"] - flows["acknowledged"]},
            "resolver": {"to_upstream": flows["resolver_up"], "from_upstream": flows["resolver_down"]},
            "inbound": {"from_program": self.from_inside, "to_program": self.to_inside},
            "names": list(self._names) if self.keep_names else None,
            "reasons": dict(self._reasons),
        }  # fmt: skip


def question_name(wire: bytes) -> str:
    """The name of the first question, as text; as far as it can be read."""
    labels = []
    at = _QUESTION
    while at < len(wire) and (size := wire[at]) and size < 64:
        labels.append(wire[at + 1 : at + 1 + size].decode("ascii", "backslashreplace"))
        at += 1 + size
    return ".".join(labels)[:255]
