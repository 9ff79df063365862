# SPDX-License-Identifier: GPL-3.0-or-later
"""The netstack's process and its only file that does I/O: tun ⇄ Stack ⇄ workers.

Started by the supervisor as ``python -I -m avne.netstack.process CONTROL_FD``.  The first control
message brings the configuration and the listening ipc socket, the second the tun.

One turn of the loop: drain the tun (a bounded number of packets), drain the workers' messages,
timers, flush; then the workers' messages go out, then the packets.  The tun is read before it
is written because each write puts the guest's ACK into the tun's ring before it returns.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import select
import signal
import sys
import time
from typing import Any

from avne.errors import Malformed
from avne.ipc.channel import BadFrames, Router
from avne.ipc.control import Control
from avne.limits import TUN_MTU
from avne.netstack.stack import Stack
from avne.netstack.wire import vnet

_READ = vnet.SIZE + TUN_MTU + 16
_READS_PER_TURN = 128
_MESSAGES_PER_TURN = 64
_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_DUMPABLE = 1, 15, 4
_DRAIN_REPORT = 0.5  # seconds between two counts of what is still owed


class Process:
    """The loop.  `run` ends when the supervisor is gone."""

    def __init__(self, control: Control) -> None:
        self._control = control
        message, fds = self._expect("config")
        config: dict[str, Any] = message[1]
        resolver = config.get("resolver")
        self._stack = Stack((resolver[0], resolver[1]) if resolver else None, os.urandom)
        self._router = Router(fds[0], config["endpoint"])
        self._expected = int(config.get("workers", 1))
        _, fds = self._expect("tun")
        self._tun = fds[0]
        os.set_blocking(self._tun, False)
        self._epoll = select.epoll()
        for fd in (self._tun, self._router.fileno(), control.fileno()):
            self._epoll.register(fd, select.EPOLLIN)
        self._ended = False
        self._draining = False
        self._owing = -1
        self._tun_more = False
        control.send("ready")

    def _expect(self, verb: str) -> tuple[list[Any], list[int]]:
        received = self._control.receive(wait=True)
        if not received or not received[0]:
            sys.exit(0)  # the supervisor has gone before we had begun
        message, fds = received
        if message[0] != verb:
            raise RuntimeError(f"expected {verb}, got {message[0]}")
        return message, fds

    def run(self) -> None:
        """Turn after turn."""
        stack = self._stack
        monotonic = time.monotonic
        while not self._ended:
            ready = self._epoll.poll(self._timeout(monotonic()))
            now = monotonic()
            if not ready:
                gc.collect(0)  # idle: the graph has no cycles, but exceptions may leave some
            for fd, _ in ready:
                if fd == self._control.fileno():
                    self._read_control(now)
                elif fd == self._tun:
                    self._tun_more = True
            if self._tun_more:
                self._read_tun(now)
            self._read_workers(now)
            stack.handle_timer(now)
            stack.flush(now)
            self._write_workers(now)
            self._write_tun()
            if stack.logs:
                self._send_logs()
            if self._draining:
                self._report_owing()

    def _timeout(self, now: float) -> float:
        if self._tun_more or self._router.pending():
            return 0.0
        due = self._stack.poll_at()
        wait = 60.0 if due is None else max(0.0, due - now)
        return min(wait, _DRAIN_REPORT) if self._draining else wait

    def _read_tun(self, now: float) -> None:
        receive = self._stack.receive
        tun = self._tun
        read = os.read
        self._tun_more = True
        try:
            for _ in range(_READS_PER_TURN):
                receive(read(tun, _READ), now)
        except BlockingIOError:
            self._tun_more = False

    def _read_workers(self, now: float) -> None:
        for _ in range(_MESSAGES_PER_TURN):
            try:
                message = self._router.receive()
            except BadFrames as error:
                self._cut_off(error.peer, error.reason, now)
                continue
            if message is None:
                return
            worker, header, payload = message
            joining = worker not in self._stack.upstreams.workers
            try:
                self._stack.handle(worker, header, payload, now)
                if joining:
                    self._control.send("worker", worker.decode(), self._kind(worker))
            except Malformed as error:
                self._cut_off(worker, error.reason, now)

    def _kind(self, worker: bytes) -> str:
        return self._stack.upstreams.workers[worker].kind

    def _cut_off(self, worker: bytes, reason: str, now: float) -> None:
        """A worker that breaks the protocol is treated as dead; the supervisor replaces it."""
        self._stack.count(f"worker-{reason}")
        self._stack.worker_gone(worker, now)
        who = worker.decode("ascii", "backslashreplace")
        self._control.send("log", "error", "worker-cut-off", {"worker": who, "reason": reason})

    def _write_workers(self, now: float) -> None:
        outgoing = self._stack.upstreams.messages
        while outgoing:
            worker, header, payload = outgoing.popleft()
            if not self._router.send(worker, header, payload):
                self._stack.worker_gone(worker, now)
                self._stack.flush(now)

    def _write_tun(self) -> None:
        packets = self._stack.packets
        tun = self._tun
        writev = os.writev
        while packets:
            try:
                writev(tun, packets.popleft())
            except OSError as error:
                # The kernel refused a frame: ours to fix, but not a reason to end a session.
                self._stack.count(f"tun-write-{error.errno}")
                if error.errno == 5:  # EIO: the device is down or gone, and so is the environment
                    packets.clear()

    def _read_control(self, now: float) -> None:
        while (received := self._control.receive()) is not None:
            message, _ = received
            if not message:
                self._ended = True
                return
            if message[0] == "gone":
                self._stack.worker_gone(message[1].encode(), now)
            elif message[0] == "drain":
                self._draining = True
                self._owing = -1

    def _report_owing(self) -> None:
        """Tell the supervisor, while the environment ends, how many connections still send."""
        owing = self._stack.owing()
        if owing != self._owing:
            self._owing = owing
            self._control.send("owing", owing)
        if not owing and not self._tun_more:
            self._draining = False
            self._stack.upstreams.drain()
            self._write_workers(time.monotonic())
            self._control.send("drained", dict(self._stack.counters))

    def _send_logs(self) -> None:
        logs = self._stack.logs
        while logs:
            self._control.send("log", *logs.popleft())


def main() -> None:
    """Entry point: ``CONTROL_FD``."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NAME, b"avne [net]", 0, 0, 0)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    process = Process(Control.from_fd(int(sys.argv[1])))
    # Flows hold no cycles; what is allocated so far stays.
    gc.collect()
    gc.freeze()
    gc.disable()
    with contextlib.suppress(KeyboardInterrupt):
        process.run()
    os._exit(0)  # nothing is left to say, and ZeroMQ's threads need not be joined


if __name__ == "__main__":
    main()
