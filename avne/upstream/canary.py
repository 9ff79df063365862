# SPDX-License-Identifier: GPL-3.0-or-later
"""Is it the server that ended these connections, or did Tor die?  Sans-IO.

Whatever happens behind a SocksPort ends as an orderly FIN, and so does every connection when
Tor itself is killed: half a file would look whole.  So no end counts before Tor has shown that
it lived after it.  A spare connection, open since before, is sent a SOCKS greeting; a reply can
only come from the same Tor process.  (A fresh connection could reach Tor's successor.)

    ends of flows ──► ASK on the spare ──► reply       ► they are the servers' own (alive)
                        (and CONNECT       end, error  ► Tor is dead
                         a new spare)      2 s silence ► as good as dead

Ends that come while an answer is awaited wait for the next spare, which was opened before them.
A spare that dies unasked within a second of an end says the same as one that dies asked,
to all flows that were open then.
Tor closes connections that have asked nothing for two minutes, so a spare is replaced in time.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

PATIENCE: Final = 2.0  # seconds Tor has to answer
NEARBY: Final = 1.0  # seconds between a spare's death and an end that belong together
REFRESH: Final = 60.0  # seconds after which a spare is replaced; Tor's SocksTimeout is 120
RETRY: Final = 1.0  # seconds between attempts to open a spare


class Command(Enum):
    """What the worker does for the canary, in order."""

    CONNECT = 1  # open a spare, then call `opened` or `spare_died`
    ASK = 2  # the spare becomes the asked one: send the greeting on it
    CLOSE_SPARE = 3
    CLOSE_ASKED = 4


class Canary:
    """`commands` and `verdicts` are the outputs; the worker empties both after each call."""

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self.verdicts: list[tuple[int, bool]] = []  # (flow, whether Tor lived after its end)
        self._waiting: set[int] = set()  # flows for the next question
        self._in_question: set[int] = set()  # flows of the question that was asked
        self._asked = False
        self._deadline = 0.0  # for the answer, or for a spare to ask
        self._connecting = False
        self._spare = False
        self._renew_at = 0.0  # of the spare, or of the next attempt
        self._died_at = float("-inf")

    def flow_ended(self, flow: int, opened: float, now: float) -> None:
        """`flow`, open since `opened`, has hung up."""
        if opened <= self._died_at and now - self._died_at <= NEARBY:
            self.verdicts.append((flow, False))
            return
        if not self._waiting and not self._asked:
            self._deadline = now + PATIENCE
        self._waiting.add(flow)
        self._proceed(now)

    def flow_gone(self, flow: int) -> None:
        """`flow` is over, its verdict is not needed any more."""
        self._waiting.discard(flow)
        self._in_question.discard(flow)

    def opened(self, now: float) -> None:
        """The spare is connected."""
        self._connecting = False
        self._spare = True
        self._renew_at = now + REFRESH
        self._proceed(now)

    def spare_died(self, now: float) -> None:
        """The spare could not be connected, or has ended."""
        if self._spare:
            self._died_at = now  # not when it could not connect: that kills nothing
        self._spare = self._connecting = False
        self._renew_at = now + RETRY
        self._judge_waiting()

    def answered(self, good: bool, now: float) -> None:
        """The asked connection gave a method reply, or (not `good`) ended or gave anything else."""
        self._asked = False
        self.commands.append(Command.CLOSE_ASKED)
        if not good:
            self._died_at = now
        self.verdicts += [(flow, good) for flow in self._in_question]
        self._in_question.clear()
        if good:
            self._deadline = now + PATIENCE
            self._proceed(now)
        else:
            self._judge_waiting()

    def poll_at(self) -> float:
        """When `handle_timer` is due next."""
        due = float("inf") if self._connecting else self._renew_at
        return min(due, self._deadline) if self._asked or self._waiting else due

    def handle_timer(self, now: float) -> None:
        if (self._asked or self._waiting) and now >= self._deadline:
            if self._asked:
                self.answered(False, now)
            else:
                self._judge_waiting()
        if now >= self._renew_at and not self._connecting:
            if self._spare:
                self._spare = False
                self.commands.append(Command.CLOSE_SPARE)
            self._connect()

    def _proceed(self, now: float) -> None:
        """Ask, or get a spare to ask."""
        if self._asked or not self._waiting:
            return
        if self._spare:
            self._spare = False
            self._asked = True
            self._deadline = now + PATIENCE
            self._in_question, self._waiting = self._waiting, set()
            self.commands.append(Command.ASK)
            self._connect()
        elif not self._connecting:
            self._connect()

    def _connect(self) -> None:
        self._connecting = True
        self.commands.append(Command.CONNECT)

    def _judge_waiting(self) -> None:
        """No spare for those that wait: Tor is dead, or as good as dead."""
        self.verdicts += [(flow, False) for flow in self._waiting]
        self._waiting.clear()
