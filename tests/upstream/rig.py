# SPDX-License-Identifier: GPL-3.0-or-later
"""A real worker process between a test's lane or ROUTER (the netstack's part) and control line.

With a lane the worker gives its flows' sockets away.  They are served here as in the netstack, by a
`Streams`, and what that says of a flow is seen as if it were a message: so a test may be of both ways.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from avne.ipc import messages
from avne.ipc.channel import Payload, Router
from avne.ipc.control import Control
from avne.ipc.lane import Lane
from avne.ipc.messages import Capability, Sender, decode, encode
from avne.ipc.pool import Pool
from avne.ipc.streams import Stream, Streams
from avne.limits import CREDIT_MAX
from avne.spawn import child_environment, python, spawn
from avne.upstream.patterns import Pattern
from avne.upstream.router import table
from avne.upstream.spec import UpstreamSpec

TIMEOUT = 20.0
PEER = b"w3.1"


class Died(Exception):
    """The worker has ended."""


class Given:
    """A flow whose socket has come: the `Peer` of its stream."""

    def __init__(self, rig: Rig, flow: int, origin: tuple[int, int]) -> None:
        self._rig = rig
        self._flow = flow
        self._origin = origin
        self.stream: Stream

    def _saw(self, *message: Any, payload: Payload | None = None) -> None:
        self._rig._seen.append(([message[0], self._flow, *message[1:]], payload))

    def on_data(self, payload: memoryview, now: float) -> None:
        self._saw(messages.DATA, payload=bytes(payload))

    def on_credit(self, count: int, now: float) -> None:
        self._saw(messages.CREDIT, count)

    def on_hangup(self, now: float) -> None:
        self._rig.send(messages.ENDED, self._flow, *self._origin)

    def on_end(self, now: float) -> None:
        self._saw(messages.SHUT)

    def on_reset(self, code: int, now: float) -> None:
        self._saw(messages.RESET, code)

    def on_gone(self, now: float) -> None:
        del self._rig.given[self._flow]


class Rig:
    """The messages of one flow can be waited for while those of others come."""

    def __init__(
        self,
        directory: Path,
        spec: UpstreamSpec,
        greet: bool = True,
        lane: bool = False,
        rules: Sequence[tuple[Pattern, UpstreamSpec]] = (),
    ) -> None:
        self.control, theirs = Control.pair()
        with open(directory / "worker.stderr", "wb") as errors:
            arguments = python("avne.upstream.worker", "3")
            fds = {2: errors.fileno(), 3: theirs.fileno()}
            self.pid = spawn(arguments, fds, child_environment(), session=True)
        theirs.close()
        self.status: int | None = None
        self.confined: dict[str, Any] = {}
        self.rate = self.early = 0  # of the flow that was given last
        self._seen: list[tuple[list[Any], Payload | None]] = []
        self.logs: list[list[Any]] = []
        router = table([(pattern, one, "test") for pattern, one in rules], spec)
        about = {"upstream": spec.label(), "session": "abc123", "version": "1", "open": [], "log_names": True}
        config: dict[str, Any] = {
            "identity": PEER.decode(), "rules": router.to_config(), "about": about,
            "resolver": ("192.0.2.53", 53),
        }  # fmt: skip
        self.line: Lane | Router
        self._epoll = select.epoll()
        self.given: dict[int, Given] = {}
        self._granted: dict[int, int] = {}
        self._streams = Streams(self._epoll, lambda *event: self.logs.append(list(event)), Pool())
        if lane:
            ours, worker_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self.line = Lane(ours)
            with worker_end:
                self.control.send("config", config, fds=(worker_end.fileno(),))
        else:
            listener = socket.create_server(("127.0.0.1", 0))
            endpoint = "tcp://{}:{}".format(*listener.getsockname())
            self.line = Router(listener.detach(), endpoint)
            self.control.send("config", {**config, "endpoint": endpoint})
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
        self.line.close()
        for given in list(self.given.values()):
            self._streams.reset(given.stream)
        self._streams.take_turn()
        self._epoll.close()

    def ready(self) -> Rig:
        assert self.control_message() == ["ready"]
        return self

    def send(self, kind: int, flow: int, *fields: Any, payload: Payload | None = None) -> None:
        header = encode(kind, flow, *fields)
        if kind == messages.OPEN:
            self._granted[flow] = fields[2]
        if flow in self.given and kind != messages.ENDED:
            self._tell(self.given[flow].stream, kind, *fields, payload=payload)
        elif isinstance(self.line, Lane):
            assert payload is None
            self.line.send(header)
            self.line.flush()
        else:
            assert self.line.send(PEER, header, payload)

    def _tell(self, stream: Stream, kind: int, *fields: Any, payload: Payload | None) -> None:
        if kind == messages.DATA:
            assert payload is not None
            self._streams.send(stream, payload)
        elif kind == messages.CREDIT:
            self._streams.grant(stream, *fields)
        elif kind == messages.SHUT:
            self._streams.shut(stream)
        else:
            assert kind == messages.RESET
            self._streams.reset(stream)
        self._turn()

    def begin(self, flow: int, host: str = "host.test", port: int = 80, credit: int = CREDIT_MAX) -> None:
        self.send(messages.OPEN, flow, host, port, credit, "")

    def open(self, flow: int, host: str = "host.test", port: int = 80, credit: int = CREDIT_MAX) -> int:
        """Gives the credit of OPENED."""
        self.begin(flow, host, port, credit)
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
            self._sleep(until)

    def _sleep(self, until: float) -> None:
        """Until something happens; the control line is read."""
        left = until - time.monotonic()
        assert left > 0, f"nothing came; seen: {self._seen}"
        if self._streams.poll_at() <= time.monotonic():
            left = 0.0
        blocked = [self.line] if isinstance(self.line, Lane) and self.line.blocked else []
        ready, _, _ = select.select([self.line, self.control, self._epoll], blocked, [], min(left, 1.0))
        for lane in blocked:
            lane.flush()
        if self.control in ready:
            self._read_control()

    def _receive(self) -> bool:
        """Take what there is; whether there was something."""
        before = len(self._seen)
        if isinstance(self.line, Lane):
            for header, sock in self.line.receive() or []:
                self._take(decode(header, Sender.WORKER), sock)
        elif (received := self.line.receive()) is not None:
            self._seen.append((decode(received[1], Sender.WORKER), received[2]))
        self._turn()
        return len(self._seen) > before

    def _take(self, message: list[Any], sock: socket.socket | None) -> None:
        """A message of the lane."""
        kind, flow = message[0], message[1]
        if kind == messages.SOCKET:
            assert sock is not None
            given = self.given[flow] = Given(self, flow, (message[2], message[3]))
            can = Capability(message[4])
            self.rate, self.early = message[5:]
            half_close, proof = Capability.HALF_CLOSE in can, Capability.PROOF in can
            self._streams.now = time.monotonic()
            given.stream = self._streams.adopt(flow, sock, given, self._granted[flow], half_close, proof)
            self._seen.append(([messages.OPENED, flow, given.stream.relay.grant], None))
        elif flow in self.given:
            assert kind in (messages.ALIVE, messages.RESET)
            self._streams.judge(self.given[flow].stream, kind == messages.ALIVE)
        elif kind != messages.ALIVE:  # which may be of a flow that has gone since
            self._seen.append((message, None))

    def _turn(self) -> None:
        self._streams.now = time.monotonic()
        for fd, mask in self._epoll.poll(0):
            self._streams.on_event(fd, mask)
        self._streams.take_turn()
        self._streams.handle_timer()

    def log(self) -> list[Any]:
        """The next log event."""
        until = time.monotonic() + TIMEOUT
        while not self.logs:
            self._receive()
            if not self.logs:
                self._sleep(until)
        return self.logs.pop(0)

    def _read_control(self) -> list[Any]:
        received = self.control.receive()
        assert received is not None
        if not received[0]:
            raise Died(self.wait())
        if received[0][0] == "reopen":
            self._reopen(received[0][1])
            return ["log"]
        if received[0][:3] == ["log", "info", "confined"]:
            self.confined = received[0][3]
        elif received[0][0] == "log":
            self.logs.append(received[0][1:])
        return received[0]

    def _reopen(self, path: str) -> None:
        """As the supervisor does it."""
        fds: tuple[int, ...] = ()
        with contextlib.suppress(OSError):
            fds = (os.open(path, os.O_PATH | os.O_CLOEXEC),)
        self.control.send("socket", path, fds=fds)
        for fd in fds:
            os.close(fd)

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
        if number == signal.SIGSTOP:  # its threads stop one after the other: wait for the word of the kernel
            os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
