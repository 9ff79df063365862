# SPDX-License-Identifier: GPL-3.0-or-later
"""What a refusal becomes for the program's connect(2).

A worker decides, by the table of its upstream's kind (`Upstream.replies`), and says so in REFUSED; the
netstack, which knows no kinds, carries it out.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class Verdict(IntEnum):
    """How a parked SYN is answered; the numbers are the wire's."""

    REFUSED = 0
    NETWORK_UNREACHABLE = 1
    HOST_UNREACHABLE = 2
    PROHIBITED = 3
    SILENCE = 4

    @property
    def answer(self) -> str:
        """What the program's kernel gets."""
        return _MEANING[self][0]

    @property
    def errno(self) -> str:
        """What connect(2) then reports."""
        return _MEANING[self][1]


_MEANING: Final = {
    Verdict.REFUSED: ("RST", "ECONNREFUSED"),
    Verdict.NETWORK_UNREACHABLE: ("ICMP network unreachable", "ENETUNREACH"),
    Verdict.HOST_UNREACHABLE: ("ICMP host unreachable", "EHOSTUNREACH"),
    Verdict.PROHIBITED: ("ICMP administratively prohibited", "EHOSTUNREACH (IPv4), EACCES (IPv6)"),
    Verdict.SILENCE: ("no answer", "ETIMEDOUT"),  # when the program's kernel gives up
}
