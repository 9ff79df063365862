# SPDX-License-Identifier: GPL-3.0-or-later
"""The states of a connection and the moves between them (RFC 9293 §3.3.2)."""

from __future__ import annotations

from enum import Enum
from typing import Final


class State(Enum):
    """RFC 9293 §3.3.2, and PARKED.

    PARKED is a SYN-RECEIVED that has not answered yet: the guest's SYN waits for the upstream,
    so that connect(2) in the guest means what it says.  LISTEN has no connection of its own:
    the whole stack listens.
    """

    PARKED = "PARKED"
    SYN_SENT = "SYN-SENT"
    SYN_RECEIVED = "SYN-RECEIVED"
    ESTABLISHED = "ESTABLISHED"
    FIN_WAIT_1 = "FIN-WAIT-1"
    FIN_WAIT_2 = "FIN-WAIT-2"
    CLOSE_WAIT = "CLOSE-WAIT"
    CLOSING = "CLOSING"
    LAST_ACK = "LAST-ACK"
    TIME_WAIT = "TIME-WAIT"
    CLOSED = "CLOSED"

    __hash__ = object.__hash__  # Enum's own is written in Python


# Module constants: an Enum member looked up through its class costs four times as much.
PARKED: Final = State.PARKED
SYN_SENT: Final = State.SYN_SENT
SYN_RECEIVED: Final = State.SYN_RECEIVED
ESTABLISHED: Final = State.ESTABLISHED
FIN_WAIT_1: Final = State.FIN_WAIT_1
FIN_WAIT_2: Final = State.FIN_WAIT_2
CLOSE_WAIT: Final = State.CLOSE_WAIT
CLOSING: Final = State.CLOSING
LAST_ACK: Final = State.LAST_ACK
TIME_WAIT: Final = State.TIME_WAIT
CLOSED: Final = State.CLOSED

# Any state may also go to CLOSED: RST, abort, or the last retransmission.
TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    PARKED: frozenset({SYN_RECEIVED}),
    SYN_SENT: frozenset({SYN_RECEIVED, ESTABLISHED}),
    SYN_RECEIVED: frozenset({ESTABLISHED, FIN_WAIT_1}),
    ESTABLISHED: frozenset({FIN_WAIT_1, CLOSE_WAIT}),
    FIN_WAIT_1: frozenset({FIN_WAIT_2, CLOSING, TIME_WAIT}),
    FIN_WAIT_2: frozenset({TIME_WAIT}),
    CLOSE_WAIT: frozenset({LAST_ACK}),
    CLOSING: frozenset({TIME_WAIT}),
    LAST_ACK: frozenset(),
    TIME_WAIT: frozenset(),
    CLOSED: frozenset(),
}

# In these the guest may still send us data.
RECEIVING: Final = frozenset({ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2})
