# SPDX-License-Identifier: GPL-3.0-or-later
"""How much one end of the wire lets the other send: the windows of all flows in one direction.  Sans-IO.

A window is a promise that cannot be taken back (RFC 9293 §3.8.6), so three things bound it:

* a flow's own use: it begins with CREDIT_MIN (CREDIT_FIRST up, while little is promised), and has twice
  as much each time it has used up a whole window, up to CREDIT_MAX.  An idle flow holds little;
* the flows that are busy now: all they have under way is CREDIT_TOTAL, for more would only wait
  in queues, and be cold in the cache when it is its turn;
* what has been promised to all flows, busy or not: CREDIT_PROMISED.

CREDIT_MIN is granted always, so that every flow moves.
"""

from __future__ import annotations

from typing import Final

from avne.limits import CREDIT_FIRST, CREDIT_MAX, CREDIT_MIN, CREDIT_PROMISED, CREDIT_TOTAL

PERIOD: Final = 0.05  # seconds in which a flow that moves counts as busy


class Budget:
    """What all flows of a direction share.  `held`: bytes granted, or received and not done with."""

    __slots__ = ("_busy", "_each", "ends", "held", "period")

    def __init__(self) -> None:
        self.held = 0
        self.period = 0
        self._busy = 0
        self._each = CREDIT_MAX
        self.ends = 0.0  # when the period does

    def busy(self, now: float) -> None:
        """One more flow moves in this period, or in a new one."""
        if now >= self.ends:
            self._each = CREDIT_TOTAL // max(1, self._busy)
            self.ends = now + PERIOD
            self._busy = 0
            self.period += 1
        self._busy += 1

    def first(self) -> int:
        """What a flow of the program's direction is granted at first."""
        return CREDIT_FIRST if self.held < CREDIT_PROMISED >> 2 else CREDIT_MIN

    def most(self) -> int:
        """What any one flow may hold now."""
        return min(self._each, CREDIT_PROMISED - self.held >> 3)


class Account:
    """One flow's part of a budget, in one direction.

    `outstanding` bytes have been granted and not received; `waiting` ones received and not done with.
    """

    __slots__ = ("_budget", "_period", "_used", "_window", "outstanding", "waiting")

    def __init__(self, budget: Budget, first: int = CREDIT_MIN) -> None:
        self._budget = budget
        self._window = first
        self._used = 0  # bytes since the window grew
        self._period = -1
        self.outstanding = first
        self.waiting = 0
        budget.held += first

    def received(self, size: int) -> None:
        """At most `outstanding` bytes have come."""
        self.outstanding -= size
        self.waiting += size

    def done(self, size: int, now: float) -> int:
        """`size` bytes do not wait any more: gives how many the other end may send now, mostly 0."""
        budget = self._budget
        budget.held -= size
        self.waiting -= size
        self._used += size
        if self._used >= self._window < CREDIT_MAX:
            self._window *= 2
            self._used = 0
        if self._period != budget.period or now >= budget.ends:
            budget.busy(now)
            self._period = budget.period
        target = max(CREDIT_MIN, min(self._window, budget.most()))
        grant = target - self.outstanding - self.waiting
        if grant < target >> 2:
            return 0  # it has the other three quarters
        self.outstanding += grant
        budget.held += grant
        return grant

    def drop(self, size: int) -> None:
        """`size` bytes are given up, and nothing is granted for them."""
        self.waiting -= size
        self._budget.held -= size

    def end(self) -> None:
        """Nothing more will come; what waits is still to be done with."""
        self._budget.held -= self.outstanding
        self.outstanding = 0

    def close(self) -> None:
        """The flow is over."""
        self.end()
        self.drop(self.waiting)
