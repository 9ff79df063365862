# SPDX-License-Identifier: GPL-3.0-or-later
"""The retransmission timer's value (RFC 6298)."""

from __future__ import annotations

from typing import Final

# RFC 6298 §5: nothing is sent again sooner.  RFC 6298 §2.1: 1 s until there is a sample.  §2.4 asks for
# 1 s as the least value as well; the path here is one virtual hop of some 20 µs, and like Linux on its
# own paths we take 200 ms: long enough for a guest that has lost its processor for a while.
INITIAL: Final = 1.0
MINIMUM: Final = 0.2
MAXIMUM: Final = 60.0  # RFC 6298 §2.5
AFTER_LOST_SYN: Final = 3.0  # RFC 6298 §5.7
_ALPHA: Final = 1 / 8
_BETA: Final = 1 / 4
_K: Final = 4
_GRANULARITY: Final = 0.001


class RetransmissionTimeout:
    """SRTT, RTTVAR and RTO of one connection, in seconds."""

    __slots__ = ("_rttvar", "_srtt", "value")

    def __init__(self) -> None:
        self.value = INITIAL
        self._srtt: float | None = None
        self._rttvar = 0.0

    def sample(self, rtt: float) -> None:
        """A measured round trip of a segment that was sent once (Karn's algorithm, RFC 6298 §3)."""
        if self._srtt is None:
            self._srtt = rtt  # RFC 6298 §2.2
            self._rttvar = rtt / 2
        else:  # RFC 6298 §2.3
            self._rttvar += _BETA * (abs(self._srtt - rtt) - self._rttvar)
            self._srtt += _ALPHA * (rtt - self._srtt)
        # RFC 6298 §4: the variance term is never less than the clock's granularity.
        value = self._srtt + max(_GRANULARITY, _K * self._rttvar)
        self.value = MINIMUM if value <= MINIMUM else min(MAXIMUM, value)

    def back_off(self) -> None:
        """RFC 6298 §5.5: the timer expired."""
        self.value = min(MAXIMUM, self.value * 2)

    def begin_data(self) -> None:
        """The handshake has ended.  RFC 6298 §5.7: after a lost SYN data starts with 3 s.

        A SYN that was repeated gives no sample, so without one the value has only been backed off.
        """
        if self._srtt is None and self.value > INITIAL:
            self.value = AFTER_LOST_SYN
