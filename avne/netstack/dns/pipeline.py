# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions to one resolver over one TCP stream through the upstream (RFC 7766).

Theory of operation
    The stream is opened by the first question, carries all of them without waiting for answers,
    which may come in any order, and is closed after a while without any.  IDs are random, and an
    answer must repeat its question.

    A question gets `TIMEOUT` seconds.  When they pass without a byte on the stream, or the stream
    ends, or something comes that is no answer, the stream is given up and its questions go to a
    new one, once.  (A stream that ended after an answer does not count: there are servers that
    end it after each.)  When the stream is alive, only this name is slow: it gets `TIMEOUT`
    seconds more, and the others are not disturbed.

    A resolver whose streams cannot be opened, or end without any answer, is out of reach: for
    `PAUSE` seconds `usable` is false.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from avne.errors import Malformed
from avne.netstack.dns import response
from avne.netstack.dns.commands import CloseStream, Command, Log, OpenStream, SendStream
from avne.netstack.dns.framing import Framing
from avne.netstack.dns.response import Response

TIMEOUT: Final = 5.0
IDLE: Final = 30.0  # RFC 7766 §6.2.3 leaves it to the two ends; servers mostly wait 10 to 30 s
PAUSE: Final = 30.0
MAX_MESSAGE: Final = 65535


class Result(NamedTuple):
    """The end of a question: its `tag`, and the answer, or None when there was none to get."""

    tag: bytes
    response: Response | None


class _Exchange:
    """A question under way."""

    __slots__ = ("deadline", "late", "question", "tag", "tries", "wire")

    def __init__(self, wire: bytes, question: bytes, tag: bytes) -> None:
        self.wire = wire
        self.question = question
        self.tag = tag
        self.tries = 0
        self.late = False  # it has had its time once, on a stream that is alive
        self.deadline = 0.0


class Pipeline:
    """`token(n)` gives n random bytes; what ends is queued in `results`."""

    def __init__(self, host: str, port: int, token: Callable[[int], bytes], commands: deque[Command]) -> None:
        self._host = host
        self._port = port
        self._token = token
        self._commands = commands
        self.results: deque[Result] = deque()
        self._exchanges: dict[bytes, _Exchange] = {}  # by ID, in the order of their deadlines
        self._stream = 0  # its number; 0: there is none
        self._streams = 0  # how many there have been
        self._open = False
        self._answered = 0  # answers on this stream
        self._heard = 0.0  # when something last came
        self._idle_at = 0.0
        self._paused_until = 0.0
        self._framing = Framing(MAX_MESSAGE)

    def usable(self, now: float) -> bool:
        return now >= self._paused_until

    def ask(self, wire: bytes, question: bytes, tag: bytes, now: float) -> None:
        """Send the message `wire`, its ID still to be filled in; `question` is its question section."""
        self._put(_Exchange(wire, question, tag), now)

    def opened(self, stream: int) -> None:
        if stream == self._stream:
            self._open = True
            data = b"".join(_framed(number, ex) for number, ex in self._exchanges.items())
            self._commands.append(SendStream(stream, data))

    def received(self, stream: int, data: bytes, now: float) -> None:
        if stream != self._stream:
            return
        self._heard = now
        try:
            for message in self._framing.feed(data):
                self._message(message)
        except Malformed as error:
            self._commands.append(Log("warning", "dns-resolver-garbage", {"reason": error.reason}))
            self._close()
            self._again(self._answered, self._answered > 0, now)
        self._idle_at = now + IDLE

    def closed(self, stream: int, now: float) -> None:
        if stream == self._stream:
            self._stream = 0
            self._again(self._answered, self._answered > 0, now)

    def reset(self) -> None:
        """The upstream is another one: forget the stream, its questions and its failures."""
        self._exchanges.clear()
        self._paused_until = 0.0
        if self._stream:
            self._close()

    def renew(self, now: float) -> None:
        """Go on by another stream."""
        if self._stream:
            self._close()
            self._again(1, True, now)

    @property
    def idle(self) -> bool:
        """There is no stream, and nothing is asked: no timer runs."""
        return not self._stream and not self._exchanges

    def poll_at(self) -> float | None:
        for exchange in self._exchanges.values():
            return exchange.deadline
        return self._idle_at if self._stream else None

    def handle_timer(self, now: float) -> None:
        if not self._exchanges:
            if self._stream and now >= self._idle_at:
                self._close()
            return
        for number, exchange in list(self._exchanges.items()):
            if exchange.deadline > now:
                break
            if self._heard <= exchange.deadline - TIMEOUT:  # nothing since it was sent
                self._close()
                self._again(0, self._open, now)
                break
            del self._exchanges[number]
            if exchange.late:
                self.results.append(Result(exchange.tag, None))
            else:
                exchange.late = True
                exchange.deadline = now + TIMEOUT
                self._exchanges[number] = exchange
        self._idle_at = now + IDLE

    def _put(self, exchange: _Exchange, now: float) -> None:
        number = self._token(2)
        while number in self._exchanges:
            number = self._token(2)
        exchange.tries += 1
        exchange.deadline = now + TIMEOUT
        self._exchanges[number] = exchange
        if not self._stream:
            self._connect()
        elif self._open:
            self._commands.append(SendStream(self._stream, _framed(number, exchange)))

    def _connect(self) -> None:
        self._streams += 1
        self._stream = self._streams
        self._open = False
        self._answered = 0
        self._heard = 0.0
        self._framing = Framing(MAX_MESSAGE)
        self._commands.append(OpenStream(self._stream, self._host, self._port))

    def _message(self, message: bytes) -> None:
        exchange = self._exchanges.get(message[:2])
        if exchange is None:  # the answer to a question that was given up
            return
        answer = response.parse(message, exchange.question)
        del self._exchanges[message[:2]]
        self._answered += 1
        self.results.append(Result(exchange.tag, answer))

    def _close(self) -> None:
        self._commands.append(CloseStream(self._stream))
        self._stream = 0

    def _again(self, answered: int, reached: bool, now: float) -> None:
        """The stream is gone: ask what is left on a new one, or give it up."""
        left = list(self._exchanges.values())
        self._exchanges.clear()
        for exchange in left:
            if exchange.tries < 2 or answered:
                exchange.tries -= answered > 0
                self._put(exchange, now)
            else:
                self.results.append(Result(exchange.tag, None))
                if not reached:
                    self._pause(now)

    def _pause(self, now: float) -> None:
        if self.usable(now):
            self._commands.append(
                Log("warning", "dns-resolver-unreachable", {"host": self._host, "port": self._port})
            )
        self._paused_until = now + PAUSE


def _framed(number: bytes, exchange: _Exchange) -> bytes:
    """The question as it goes onto the stream, under this ID."""
    return len(exchange.wire).to_bytes(2, "big") + number + exchange.wire[2:]
