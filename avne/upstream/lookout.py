# SPDX-License-Identifier: GPL-3.0-or-later
"""The sockets of the canary: opens, asks and closes them as canary.py decides."""

from __future__ import annotations

import select
import socket
from typing import Final

from avne.confine.runtime import SENDTO
from avne.upstream.base import Upstream
from avne.upstream.canary import Canary, Command
from avne.upstream.socks5 import ANONYMOUS_GREETING, is_method_reply

SYSCALLS: Final = (SENDTO, "recvfrom", "epoll_ctl", "close")

_EVENTS: Final = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
_GONE: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class Lookout:
    """Shares the worker's epoll; `take_verdicts` after each call.

    Sockets to be closed are put into `closing`, for the end of the turn.
    """

    def __init__(self, epoll: select.epoll, upstream: Upstream, closing: list[socket.socket]) -> None:
        self._epoll = epoll
        self._upstream = upstream
        self._closing = closing
        self._canary = Canary()
        self._spare: socket.socket | None = None
        self._asked: socket.socket | None = None
        self._answer = b""

    def flow_ended(self, flow: int, opened: float, now: float) -> None:
        """The upstream has hung up on `flow`, open since `opened`, which awaits a verdict."""
        self._canary.flow_ended(flow, opened, now)
        self._obey(now)

    def flow_gone(self, flow: int) -> None:
        self._canary.flow_gone(flow)

    def poll_at(self) -> float:
        return self._canary.poll_at()

    def handle_timer(self, now: float) -> None:
        if now >= self._canary.poll_at():
            self._canary.handle_timer(now)
            self._obey(now)

    def take_verdicts(self) -> list[tuple[int, bool]]:
        """``(flow, whether the upstream lived after its end)``."""
        verdicts, self._canary.verdicts = self._canary.verdicts, []
        return verdicts

    def on_event(self, fd: int, mask: int, now: float) -> bool:
        """Whether `fd` is one of ours."""
        if self._asked is not None and fd == self._asked.fileno():
            if mask & _GONE:
                self._read_answer(self._asked, now)
        elif self._spare is not None and fd == self._spare.fileno():
            if mask & _GONE:  # nobody has asked it anything: even a byte is wrong
                self._close_spare()
                self._canary.spare_died(now)
            elif mask & select.EPOLLOUT:
                self._canary.opened(now)
        else:
            return False
        self._obey(now)
        return True

    def _obey(self, now: float) -> None:
        commands = self._canary.commands
        while commands:
            command = commands.pop(0)
            if command is Command.CONNECT:
                try:
                    self._spare = self._upstream.knock()
                except OSError:
                    self._canary.spare_died(now)
                else:
                    self._epoll.register(self._spare.fileno(), _EVENTS)
            elif command is Command.ASK:
                assert self._spare is not None
                self._asked, self._spare = self._spare, None
                self._answer = b""
                try:
                    self._asked.send(ANONYMOUS_GREETING)
                except OSError:
                    self._canary.answered(False, now)
            elif command is Command.CLOSE_ASKED:
                assert self._asked is not None
                self._closing.append(self._asked)
                self._asked = None
            else:
                self._close_spare()

    def _read_answer(self, asked: socket.socket, now: float) -> None:
        try:
            data = asked.recv(2 - len(self._answer))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._answer += data
        if not data or len(self._answer) == 2:
            self._canary.answered(is_method_reply(self._answer), now)

    def _close_spare(self) -> None:
        assert self._spare is not None
        self._closing.append(self._spare)
        self._spare = None
