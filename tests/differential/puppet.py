# SPDX-License-Identifier: GPL-3.0-or-later
"""The server of every case, in the bed's world: a puppet of the client's script.

Started as ``python -m tests.differential.puppet FILE``; standard input and output are pipes to the client's
process.  It takes ``(number, handle, verb, arguments)``, does the verb on a thread of its own, and answers
``(number, (text, …))``.  The client hands its transcripts over the same line; they go to FILE, one a line.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.bed.servers import listener
from tests.differential.endpoint import PATIENCE, Endpoint
from tests.differential.words import outcome


class Accepted(Endpoint):
    """A connection of the server's."""

    def kill(self) -> str:
        """The process that holds it is killed: the kernel closes it, whatever is unread or unsent."""
        child = os.fork()
        if child == 0:
            signal.pause()
            os._exit(1)
        self.sock.close()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return "killed"

    def count_sent(self) -> int:
        return self.sent

    def count_received(self) -> int:
        return self.received


class Listening(Endpoint):
    def __init__(self, puppet: Puppet, sock: socket.socket) -> None:
        super().__init__(sock)
        self._puppet = puppet

    def accept(self) -> tuple[str, int]:
        try:
            sock, _ = self.sock.accept()
        except TimeoutError:
            return "nobody came", self._puppet.keep(Endpoint(socket.socket()))
        sock.settimeout(PATIENCE)
        return "accepted", self._puppet.keep(Accepted(sock))


class EchoUdp(Endpoint):
    """Answers one datagram."""

    def answer(self) -> str:
        def answer() -> bytes:
            data, peer = self.sock.recvfrom(2048)
            self.sock.sendto(data, peer)
            return data

        return outcome(answer)


class Puppet:
    def __init__(self, file: Path) -> None:
        self._file = file
        self._read, self._write = Connection(0, writable=False), Connection(1, readable=False)
        self._lock = threading.Lock()
        self._handles = itertools.count(1)
        self._objects: dict[int, Any] = {0: self}

    def keep(self, thing: Endpoint) -> int:
        handle = next(self._handles)
        self._objects[handle] = thing
        return handle

    def listen(self, backlog: int) -> tuple[str, int, int]:
        sock = listener(0, backlog)
        sock.settimeout(PATIENCE)
        return "listening", self.keep(Listening(self, sock)), sock.getsockname()[1]

    def listen_udp(self, host: str) -> tuple[str, int, int]:
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((host, 0))
        sock.settimeout(1.0)
        return "listening", self.keep(EchoUdp(sock)), sock.getsockname()[1]

    def end(self, handles: list[int]) -> str:
        """A case is over: its sockets go."""
        for handle in handles:
            self._objects.pop(handle).sock.close()
        return "ended"

    def transcript(self, name: str, lines: list[str]) -> str:
        with self._file.open("a") as file:
            file.write(json.dumps([name, lines]) + "\n")
        return "written"

    def _do(self, number: int, handle: int, verb: str, arguments: tuple[Any, ...]) -> None:
        try:
            result = getattr(self._objects[handle], verb)(*arguments)
        except Exception as error:
            result = f"FAULT {error!r}"
        with self._lock, contextlib.suppress(BrokenPipeError):
            self._write.send((number, result if isinstance(result, tuple) else (result,)))

    def run(self) -> None:
        with contextlib.suppress(EOFError):
            while True:
                threading.Thread(target=self._do, args=self._read.recv(), daemon=True).start()


if __name__ == "__main__":
    Puppet(Path(sys.argv[1])).run()
    os._exit(0)
