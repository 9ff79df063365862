# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose a connection is, where programs are kept apart (--isolate program): the supervisor is asked.

It sees the sockets and the processes, which we do not.  The connection waits meanwhile, as a parked SYN or
as a request to our proxy.  One whose owner is not found in time is given one that nobody else has.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

PATIENCE: Final = 2.0  # seconds; an answer takes about a millisecond
_AT_ONCE: Final = 64  # questions under way: they and their answers have room in the line

Then = Callable[[str, float], None]  # owner, now


class _Question(NamedTuple):
    key: bytes
    then: Then
    deadline: float


class Owners:
    """`token(n)` gives n random bytes.  `questions` are for the caller to send: number and key."""

    def __init__(self, token: Callable[[int], bytes], asks: bool = False) -> None:
        self.asks = asks
        self.questions: deque[tuple[int, bytes]] = deque()
        self._token = token
        self._waiting: dict[int, _Question] = {}  # in the order of their deadlines
        self._queue: deque[int] = deque()  # those that have not been asked
        self._under_way = 0
        self._last = 0

    @property
    def deadline(self) -> float:
        """When `handle_timer` is due."""
        for question in self._waiting.values():
            return question.deadline
        return float("inf")

    def find(self, key: bytes, then: Then, now: float) -> None:
        """Call `then` with the owner of a connection, "" where that does not matter."""
        if not self.asks:
            then("", now)
            return
        self._last += 1
        self._waiting[self._last] = _Question(key, then, now + PATIENCE)
        self._queue.append(self._last)
        self._ask()

    def answer(self, number: int, owner: str, now: float) -> None:
        """The supervisor's, perhaps too late."""
        self._under_way -= 1
        question = self._waiting.pop(number, None)
        self._ask()
        if question is not None:
            question.then(owner, now)

    def handle_timer(self, now: float) -> None:
        while self.deadline <= now:
            number = next(iter(self._waiting))
            self._waiting.pop(number).then(f"x{self._token(8).hex()}", now)

    def _ask(self) -> None:
        while self._queue and self._under_way < _AT_ONCE:
            number = self._queue.popleft()
            if number in self._waiting:
                self._under_way += 1
                self.questions.append((number, self._waiting[number].key))
