# SPDX-License-Identifier: GPL-3.0-or-later
"""The supervisor's event loop: descriptors and named timers, each with what to do about it."""

from __future__ import annotations

import select
import time
from collections.abc import Callable

Action = Callable[[], None]


class Loop:
    """`turn` waits for the next event and calls its action; an exception of an action ends the turn."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._actions: dict[int, Action] = {}
        self._timers: dict[str, tuple[float, Action]] = {}

    def watch(self, fd: int, action: Action) -> None:
        """Call `action` whenever `fd` is readable or at its end."""
        self._actions[fd] = action
        self._epoll.register(fd, select.EPOLLIN)

    def forget(self, fd: int) -> None:
        """Before `fd` is closed."""
        del self._actions[fd]
        self._epoll.unregister(fd)

    def after(self, seconds: float, name: str, action: Action) -> None:
        """Call `action` once; a timer of the same name is replaced."""
        self._timers[name] = (time.monotonic() + seconds, action)

    def cancel(self, *names: str) -> None:
        """Drop the timers of these names, all when none is given."""
        for name in names or tuple(self._timers):
            self._timers.pop(name, None)

    def turn(self) -> None:
        due = min((when for when, _ in self._timers.values()), default=None)
        wait = None if due is None else max(0.0, due - time.monotonic())
        for fd, _ in self._epoll.poll(wait):
            if action := self._actions.get(fd):  # an action earlier in this turn may have forgotten it
                action()
        now = time.monotonic()
        for name, timer in list(self._timers.items()):
            if timer[0] <= now and self._timers.get(name) is timer:
                del self._timers[name]
                timer[1]()

    def close(self) -> None:
        self._epoll.close()
