# SPDX-License-Identifier: GPL-3.0-or-later
"""A real worker process between a test's ROUTER (the netstack's part) and control line."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

from avne.ipc import messages
from avne.ipc.channel import Payload, Router
from avne.ipc.control import Control
from avne.ipc.lane import Lane, Piece
from avne.ipc.messages import Sender, decode, encode
from avne.limits import CREDIT_MAX
from avne.spawn import child_environment, python, spawn
from avne.upstream.spec import UpstreamSpec

TIMEOUT = 20.0
PEER = b"w3.1"
WITH_LANE = True  # as between processes of one machine; a fixture runs the tests without one, too


class Died(Exception):
    """The worker has ended."""


class Rig:
    """The messages of one flow can be waited for while those of others come."""

    def __init__(
        self, directory: Path, spec: UpstreamSpec, greet: bool = True, lane: bool | None = None
    ) -> None:
        path = str(directory / "n")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(8)
        self.router = Router(listener.detach(), f"ipc://{path}")
        self.control, theirs = Control.pair()
        with open(directory / "worker.stderr", "wb") as errors:
            arguments = python("avne.upstream.worker", "3")
            fds = {2: errors.fileno(), 3: theirs.fileno()}
            self.pid = spawn(arguments, fds, child_environment(), session=True)
        theirs.close()
        self.status: int | None = None
        self._seen: list[tuple[list[Any], Payload | None]] = []
        self.logs: list[list[Any]] = []
        config = {"endpoint": f"ipc://{path}", "identity": PEER.decode(), "upstream": spec.to_config()}
        self.lane: Lane | None = None
        if WITH_LANE if lane is None else lane:
            ours, worker_end = socket.socketpair()
            self.lane = Lane(ours)
            with worker_end:
                self.control.send("config", config, fds=(worker_end.fileno(),))
        else:
            self.control.send("config", config)
        if greet:
            self.hello = self.receive(messages.HELLO)[0]
            self.send(messages.READY, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()
        self.control.close()
        self.router.close()
        if self.lane:
            self.lane.close()

    def ready(self) -> Rig:
        assert self.control_message() == ["ready"]
        return self

    def send(self, kind: int, flow: int, *fields: Any, payload: Payload | None = None) -> None:
        header = encode(kind, flow, *fields)
        if self.lane and messages.takes_lane(header):
            self.lane.send(header, payload)
            self.lane.flush()
        else:
            assert self.router.send(PEER, header, payload)

    def open(self, flow: int, host: str = "host.test", port: int = 80, credit: int = CREDIT_MAX) -> int:
        """Gives the credit of OPENED."""
        self.send(messages.OPEN, flow, host, port, credit)
        return int(self.receive(messages.OPENED, flow)[0][2])

    def receive(self, kind: int, flow: int = 0, timeout: float = TIMEOUT) -> tuple[list[Any], Payload | None]:
        """The next message of `flow` (STATS and CREDIT apart), which must be of `kind`."""
        until = time.monotonic() + timeout
        while True:
            for index, (message, payload) in enumerate(self._seen):
                unasked = message[0] in (messages.STATS, messages.CREDIT) and message[0] != kind
                if message[1] == flow and not unasked:
                    assert message[0] == kind, f"{messages.TABLE[message[0]].name} {message}"
                    del self._seen[index]
                    return message, payload
            self._wait(until)

    def collect(self, flow: int) -> tuple[bytes, list[Any]]:
        """All DATA of `flow`, each credited, and the message that ends it."""
        data = bytearray()
        while True:
            message, payload = self.next_of(flow)
            if message[0] != messages.DATA:
                return bytes(data), message
            assert payload is not None
            data += payload
            self.send(messages.CREDIT, flow, len(payload))

    def next_of(self, flow: int) -> tuple[list[Any], Payload | None]:
        until = time.monotonic() + TIMEOUT
        while True:
            for index, (message, payload) in enumerate(self._seen):
                if message[1] == flow and message[0] != messages.CREDIT:
                    del self._seen[index]
                    return message, payload
            self._wait(until)

    def drained(self, flow: int) -> list[tuple[list[Any], Payload | None]]:
        """What has come for `flow` by the time the worker answers a PING."""
        self.send(messages.PING, 0, 7)
        self.receive(messages.PONG)
        found = [entry for entry in self._seen if entry[0][1] == flow]
        self._seen = [entry for entry in self._seen if entry[0][1] != flow]
        return found

    def _wait(self, until: float) -> None:
        while not self._receive():
            left = until - time.monotonic()
            assert left > 0, f"nothing came; seen: {self._seen}"
            lanes = [self.lane] if self.lane else []
            blocked = [lane for lane in lanes if lane.blocked]
            ready, _, _ = select.select([self.router, self.control, *lanes], blocked, [], left)
            for lane in blocked:
                lane.flush()
            if self.control in ready:
                self._read_control()

    def _receive(self) -> bool:
        """Take what there is; whether there was something."""
        before = len(self._seen)
        if (received := self.router.receive()) is not None:
            self._seen.append((decode(received[1], Sender.WORKER), received[2]))
        for header, payload in (self.lane.receive() or []) if self.lane else []:
            message = decode(header, Sender.WORKER)
            if message[0] == messages.RETURN:
                assert self.lane
                self.lane.slab.give_back(message[2])
                continue
            if isinstance(payload, Piece):
                self.send(messages.RETURN, 0, payload.offset)
                payload = bytes(payload.view)
            self._seen.append((message, payload))
        return len(self._seen) > before

    def log(self) -> list[Any]:
        """The next log event."""
        while not self.logs:
            assert select.select([self.control], [], [], TIMEOUT)[0]
            self._read_control()
        return self.logs.pop(0)

    def _read_control(self) -> list[Any]:
        received = self.control.receive()
        assert received is not None
        if not received[0]:
            raise Died(self.wait())
        if received[0][0] == "log":
            self.logs.append(received[0][1:])
        return received[0]

    def control_message(self) -> list[Any]:
        """The next message but log events."""
        while True:
            ready, _, _ = select.select([self.control], [], [], TIMEOUT)
            assert ready
            message = self._read_control()
            if message[0] != "log":
                return message

    def wait(self) -> int:
        """The worker's exit code, once it has ended by itself."""
        if self.status is None:
            fd = os.pidfd_open(self.pid)
            try:
                assert select.select([fd], [], [], TIMEOUT)[0], "the worker does not end"
            finally:
                os.close(fd)
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status

    def memory(self) -> int:
        """The worker's resident bytes."""
        with open(f"/proc/{self.pid}/statm") as file:
            return int(file.read().split()[1]) * 4096


class KillableTor:
    """socks_server.py as a process."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.start()

    def start(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.upstream.socks_server", self.path],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
