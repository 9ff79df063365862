# SPDX-License-Identifier: GPL-3.0-or-later
"""What a case is given: clients, a server that it leads, and the transcript of both.

    @case
    def half_close_by_the_client(script: Script) -> None:
        client, server = script.connected()
        client.send(b"question")
        client.shutdown("WR")
        server.recv_to_end()
        …

Each verb is one of `Endpoint`; the line it gives is noted when the verb is done.  The server's verbs
travel over a pipe, not over the network, so they are done when the call returns, in both arms alike.
`later` starts a verb that has to wait for the other side; its `result` is noted when it is asked for.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import socket
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from tests.bed import places
from tests.differential.endpoint import PATIENCE, Endpoint
from tests.differential.words import call

Case = Callable[["Script"], None]
Line = tuple[str, str, tuple[Any, ...]]  # who, verb, arguments
CASES: dict[str, Case] = {}

# Addresses that fail, by family (places.FAILING says how).
UNREACHABLE = {
    "blackhole": ("198.51.100.66", "2001:db8::66"),
    "host": ("198.51.100.67", "2001:db8::67"),
    "network": ("203.0.113.68", "2001:db9::68"),
    "prohibited": ("198.51.100.69", "2001:db8::69"),
}


def case(function: Case) -> Case:
    assert function.__name__ not in CASES
    CASES[function.__name__] = function
    return function


class Later:
    """A verb that has been started."""

    def __init__(
        self, script: Script, line: tuple[str, str, tuple[Any, ...]], wait: Callable[[], str]
    ) -> None:
        self._script, self._line, self.wait = script, line, wait

    def result(self) -> None:
        self._script.note(*self._line, self.wait())


class Actor:
    """Notes each verb with its result."""

    def __init__(self, script: Script, name: str) -> None:
        self.script, self.name = script, name

    def __getattr__(self, verb: str) -> Callable[..., str]:
        if verb.startswith("_"):
            raise AttributeError(verb)

        def act(*arguments: Any) -> str:
            result = self.start(verb, arguments)()
            self.script.note(self.name, verb, arguments, result)
            return result

        return act

    def later(self, verb: str, *arguments: Any) -> Later:
        return Later(self.script, (self.name, verb, arguments), self.start(verb, arguments))

    def start(self, verb: str, arguments: tuple[Any, ...]) -> Callable[[], str]:
        raise NotImplementedError


class Client(Actor):
    """A socket of this process."""

    def __init__(self, script: Script, name: str, sock: socket.socket) -> None:
        super().__init__(script, name)
        self.endpoint = Endpoint(sock)

    def start(self, verb: str, arguments: tuple[Any, ...]) -> Callable[[], str]:
        perform = getattr(self.endpoint, verb)
        return lambda: str(perform(*arguments))

    def later(self, verb: str, *arguments: Any) -> Later:
        results: list[str] = []
        thread = threading.Thread(target=lambda: results.append(self.start(verb, arguments)()), daemon=True)
        thread.start()

        def wait() -> str:
            thread.join(PATIENCE)
            return results[0] if results else "still waiting"

        return Later(self.script, (self.name, verb, arguments), wait)

    def get_quietly(self, name: str) -> str:
        """An option's value, which is not noted."""
        return self.endpoint.get(name)

    def connect(self, listener: Listener) -> str:
        """To the case's server; its port differs from run to run and is not noted."""
        result = self.endpoint.connect(self.script.host, listener.port)
        self.script.note(self.name, "connect", (), result)
        return result

    def connect_to(self, host: str, port: int) -> str:
        result = self.endpoint.connect(host, port)
        self.script.note(self.name, "connect", (host, port), result)
        return result


class Remote(Actor):
    """An object of the puppet's."""

    def __init__(self, script: Script, name: str, handle: int) -> None:
        super().__init__(script, name)
        self.handle = handle
        script.handles.append(handle)

    def start(self, verb: str, arguments: tuple[Any, ...]) -> Callable[[], str]:
        number = self.script.puppet.ask(self.handle, verb, arguments)
        return lambda: str(self.script.puppet.answer(number)[0])


class Listener(Remote):
    def __init__(self, script: Script, backlog: int = 16) -> None:
        _, handle, self.port = script.puppet.call(0, "listen", backlog)
        super().__init__(script, "listener", handle)

    def accept(self, name: str = "server") -> Remote:
        text, handle = self.script.puppet.call(self.handle, "accept")
        self.script.note(self.name, "accept", (), text)
        return Remote(self.script, name, handle)


class Puppet:
    """The line to the server's process.  Cases on several threads share it."""

    def __init__(self, read: Connection, write: Connection) -> None:
        self._read, self._write = read, write
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._answers: dict[int, queue.SimpleQueue[tuple[Any, ...]]] = {}
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with contextlib.suppress(EOFError):
            while True:
                number, answer = self._read.recv()
                self._answers[number].put(answer)

    def ask(self, handle: int, verb: str, arguments: tuple[Any, ...]) -> int:
        with self._lock:
            number = next(self._numbers)
            self._answers[number] = queue.SimpleQueue()
            self._write.send((number, handle, verb, arguments))
        return number

    def answer(self, number: int) -> tuple[Any, ...]:
        """The answer to the question `number`; raises queue.Empty when none comes."""
        answer = self._answers[number].get(timeout=PATIENCE * 2)
        del self._answers[number]
        return answer

    def call(self, handle: int, verb: str, *arguments: Any) -> tuple[Any, ...]:
        return self.answer(self.ask(handle, verb, arguments))


class Script:
    def __init__(self, family: str, puppet: Puppet) -> None:
        self.v6 = family == "v6"
        self.family = socket.AF_INET6 if self.v6 else socket.AF_INET
        self.host = places.V6 if self.v6 else places.V4
        self.loopback = "::1" if self.v6 else "127.0.0.1"
        self.any = "::" if self.v6 else "0.0.0.0"
        self.puppet = puppet
        self.lines: list[str] = []
        self.handles: list[int] = []  # of the puppet's objects
        self._clients: list[Client] = []

    def note(self, who: str, verb: str, arguments: tuple[Any, ...], result: str) -> None:
        self.lines.append(call(who, verb, arguments, result))

    def say(self, what: str, result: Any) -> None:
        """A line of the case's own."""
        self.lines.append(f"{what} → {result}")

    def listener(self, backlog: int = 16) -> Listener:
        return Listener(self, backlog)

    def client(self, name: str = "client", sock: socket.socket | None = None) -> Client:
        made = Client(self, name, sock or socket.socket(self.family, socket.SOCK_STREAM))
        self._clients.append(made)
        return made

    def connected(self) -> tuple[Client, Remote]:
        """A client and the server's side of its connection."""
        listener, client = self.listener(), self.client()
        client.connect(listener)
        return client, listener.accept()

    def puppet_sent(self, server: Remote) -> int:
        """How many bytes of the stream the server has sent."""
        return int(server.start("count_sent", ())())

    def puppet_received(self, server: Remote) -> int:
        return int(server.start("count_received", ())())

    def unreachable(self, kind: str) -> str:
        return UNREACHABLE[kind][self.v6]

    def end(self) -> None:
        for client in self._clients:
            client.endpoint.sock.close()
        self.puppet.call(0, "end", self.handles)
