# SPDX-License-Identifier: GPL-3.0-or-later
"""The netstack's process and its loop: tun ⇄ Stack ⇄ sockets and workers.

Started by the supervisor (spawn.python) with its descriptor of the control line.  The first control
message brings the configuration and perhaps a capture's file, the second the tun.  Where workers
elsewhere may join there is an ``endpoint``, with its listening socket, and ZeroMQ is loaded for them.

One turn of the loop: the workers' messages, drain the tun (a bounded number of packets), what that has for
the workers, read from the flows' sockets and write to them, timers (every 20 ms), flush, workers, packets.
The tun is read before it is written: each write puts the guest's ACK into its ring before it returns.
Sockets come from the workers, connected: none is opened here.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from avne.confine import kernel
from avne.confine.sandbox import Sandbox, Wish
from avne.errors import Malformed
from avne.ipc.control import Control
from avne.ipc.streams import Streams
from avne.limits import LEAST_READ, TUN_MTU
from avne.netstack import elsewhere, orphans
from avne.netstack.confinement import ROUTER_THREADS, policy
from avne.netstack.dns.resolver import Config
from avne.netstack.lines import CutOff, Lines, Received
from avne.netstack.link import GONE, Packets, Tun
from avne.netstack.stack import Stack
from avne.netstack.tokens import PROGRAM, RUN, Tokens
from avne.netstack.warm_up import warm_up
from avne.netstack.wire import split, vnet

if TYPE_CHECKING:
    from avne.netstack.capture import Capture

_READ = vnet.SIZE + TUN_MTU + 16
_READS_PER_TURN = 128
_READS_PER_WRITE = 16  # about what the cache holds, and one write takes
_DRAIN_REPORT = 0.5  # seconds between two counts of what is still owed
# Seconds by which a timer may be late while there is something else to do: to find out which comes next
# would cost as much as a packet.  RTO_MIN is ten times as long.
_SLACK = 0.02
_ACK_DELAY = 0.001  # the least that epoll_wait(2) can wait; RFC 9293 §3.8.6.3 allows 0.5 s


class Process:
    """The loop.  `run` ends when the supervisor is gone."""

    def __init__(self, control: Control, sandbox: Sandbox) -> None:
        self._control = control
        message, fds = self._expect("config")
        config: dict[str, Any] = message[1]
        router = "endpoint" in config
        captures = len(fds) > router
        if router:  # while there are files
            import avne.ipc.channel
        if captures:
            import avne.netstack.capture  # noqa: F401
        got = sandbox.isolate(Wish(file_size=captures))
        resolver = config.get("resolver")
        names = Config((resolver[0], resolver[1]) if resolver else None, config["dns"])
        self._stack = Stack(names, os.urandom)
        mode, key = config.get("isolate", (RUN, b""))
        self._stack.upstreams.tokens = Tokens(mode, config.get("epoch", ""), key)
        self._stack.owners.asks = mode == PROGRAM
        self._stack.upstreams.spread = config.get("spread", False)
        self._stack.upstreams.kind = config.get("kind", "")
        self._stack.account.keep_names = bool(config.get("log_names"))
        self._stack.optimistic = frozenset(config.get("optimistic", ()))
        generation = config.get("generation", 1)
        self._stack.port53.names.begin_at(generation)
        self._epoll = select.epoll()
        listening = elsewhere.listen(config, fds)
        self._lines = Lines(listening, self._epoll)
        self._elsewhere = elsewhere.Elsewhere(listening, self._lines, self._stack) if listening else None
        self._capture = self._stack.capture = self._begin_capture(config["session"], generation, *fds)
        self._streams = Streams(self._epoll, self._log, self._stack.pool, LEAST_READ)
        self._stack.upstreams.streams = self._streams
        self._heads = bytearray(split.HEAD_V4), bytearray(split.HEAD_V6)
        self._head = self._heads[0]  # of the version that came last
        warm_up(config["session"] if self._capture else None)
        calls = sandbox.seal(policy(router, self._capture is not None), router * ROUTER_THREADS)
        self._log("info", "confined", {**got.fields(), "calls": calls})
        message, fds = self._expect("tun")
        self._tun = fds[0]
        self._link = Packets(self._tun, self._stack.count) if message[1] else Tun(self._tun)
        self._read, self._readv, self._writev = self._link.read, self._link.readv, self._link.writev
        self._epoll.register(control.fileno(), select.EPOLLIN)
        self._reads_tun = False  # not before a worker has joined: packets wait in the device
        self._ended = False
        self._draining = False
        self._owing = -1
        self._tun_more = False
        control.send("ready")

    def _expect(self, verb: str) -> tuple[list[Any], list[int]]:
        while True:
            received = self._control.receive(wait=True)
            if not received or not received[0]:
                os._exit(0)  # the supervisor has gone before we had begun
            message, fds = received
            if message[0] == verb:
                return message, fds
            if message[0] != "lane":
                raise RuntimeError(f"expected {verb}, got {message[0]}")
            self._add_lane(message[1].encode(), fds[0])

    def _begin_capture(self, session: str, generation: int, fd: int = -1) -> Capture | None:
        if fd < 0:
            return None
        from avne.netstack.capture import begin

        return begin(fd, session, generation, self._stack.port53.names.name_of, self._stack.counters)

    def flush_capture(self) -> None:
        """Write it, and tell the supervisor if that was its end."""
        if self._capture and (failed := self._capture.flush()) is not None:
            self._control.send("capture-ended", failed)

    def run(self) -> None:
        """Turn after turn."""
        stack = self._stack
        streams = self._streams
        monotonic = time.monotonic
        control = self._control.fileno()
        poll = self._epoll.poll
        lines = self._lines
        packets, messages = stack.packets, stack.upstreams.messages
        questions = stack.owners.questions
        inbound = stack.inbound
        look_at = 0.0  # when to look at the timers
        hold_until = 0.0
        ready: list[tuple[int, int]] = []
        while not self._ended:
            if self._tun_more or streams.waiting or not lines.idle():
                timeout = 0.0
            elif stack.held:
                timeout = _ACK_DELAY
            elif ready:
                timeout = _SLACK
            else:
                timeout = max(0.0, self._due() - monotonic())
            if self._capture and timeout:
                self.flush_capture()
            ready = poll(timeout)
            now = streams.now = monotonic()
            if timeout and not ready:
                gc.collect(0)  # idle: the graph has no cycles, but exceptions may leave some
            for fd, mask in ready:
                if fd == self._tun:
                    self._tun_more = True
                elif fd == control:
                    self._read_control(now)
                elif not streams.on_event(fd, mask):
                    self._handle(lines.on_event(fd, mask), now)
            if self._tun_more:
                self._read_tun(now)
            if lines.check_router:
                self._handle(lines.receive(), now)
            if self._elsewhere:
                for worker, reason in self._elsewhere.take_turn(now):
                    self._cut_off(worker, reason, now)
            if messages:
                self._write_workers(now)  # they go on while we do the rest
            stack.push(now)
            streams.take_turn()
            if now >= look_at or not ready:
                look_at = now + _SLACK
                streams.handle_timer()
                stack.handle_timer(now)
            if not stack.held:
                hold_until = now + _ACK_DELAY
            stack.flush(now, bool(ready) and now < hold_until)
            if stack.upstreams.leaving:
                stack.upstreams.let_go()
            if messages:
                self._write_workers(now)
            if packets:
                self._write_tun()
            if stack.logs:
                self._send_logs()
            if inbound.taken or inbound.ended:
                self._control.send("inbound", *inbound.news())
            while questions:
                self._control.send("whose", *questions.popleft())
            if self._draining:
                self._report_owing()

    def _due(self) -> float:
        """When the next turn is due at the latest, if nothing comes."""
        due = self._streams.poll_at()
        if self._elsewhere:
            due = min(due, self._elsewhere.poll_at())
        if (stack := self._stack.poll_at()) is not None:
            due = min(due, stack)
        longest = _DRAIN_REPORT if self._draining else 60.0
        return min(due, self._streams.now + longest)

    # ---- the tun -------------------------------------------------------------------------------

    def _read_tun(self, now: float) -> None:
        """Until it is empty, with a bound; the text of segments goes straight into the pool."""
        stack = self._stack
        self._tun_more = True
        try:
            for count in range(1, _READS_PER_TURN + 1):
                room = stack.pool.room(_READ)
                if room is None:
                    frame = self._read(_READ)
                    stack.account.frames_in += 1
                    stack.account.bytes_in += len(frame) - vnet.SIZE
                    if self._capture:
                        self._capture.guest_sent((frame,), now)
                    stack.receive(frame, now)
                else:
                    self._read_split(room, now)
                if not count % _READS_PER_WRITE:
                    stack.push(now)
                    self._streams.write()
        except BlockingIOError:
            self._tun_more = False

    def _read_split(self, room: memoryview, now: float) -> None:
        head = self._head
        size = self._readv((head, room))
        account = self._stack.account
        account.frames_in += 1
        account.bytes_in += size - vnet.SIZE
        if self._capture:
            self._capture.guest_sent((head[:size], room[: max(0, size - len(head))]), now)
        if size < len(head):
            self._stack.receive(bytes(head[:size]), now)
            return
        text = room[: size - len(head)]
        ours = self._heads[head[vnet.SIZE] >> 4 == 6]
        if ours is head:
            self._stack.receive_text(head, text, now)
        else:
            self._head = ours
            self._stack.receive(bytes(head) + text, now)

    def _write_tun(self) -> None:
        packets = self._stack.packets
        writev = self._writev
        account = self._stack.account
        capture = self._capture
        while packets:
            pieces = packets.popleft()
            try:
                account.bytes_out += writev(pieces) - vnet.SIZE
                account.frames_out += 1
            except BlockingIOError:  # a packet socket that has no room
                self._stack.count("tun-write-later")
                packets.appendleft(pieces)
                self._tun_more = True  # so that the next turn does not wait
                return
            except OSError as error:
                # The kernel refused a frame: ours to fix, but not a reason to end a session.
                self._stack.count(f"tun-write-{error.errno}")
                if error.errno in GONE:  # and so is the environment
                    packets.clear()
            else:
                if capture:
                    capture.guest_receives(pieces, time.monotonic())

    # ---- the workers ---------------------------------------------------------------------------

    def _add_lane(self, worker: bytes, fd: int) -> None:
        self._lines.add_lane(worker, fd)
        self._stack.upstreams.lanes.add(worker)

    def _handle(self, received: Iterator[Received], now: float) -> None:
        try:
            for worker, header, payload in received:
                joining = worker not in self._stack.upstreams.workers
                try:
                    self._stack.handle(worker, header, payload, now)
                except Malformed as error:
                    self._cut_off(worker, error.reason, now)
                    continue
                if joining:
                    self._control.send("worker", worker.decode(), self._kind(worker))
                    self._begin_to_read()
        except CutOff as cut:
            self._cut_off(cut.worker, cut.reason, now)

    def _begin_to_read(self) -> None:
        if not self._reads_tun:
            self._reads_tun = True
            self._epoll.register(self._tun, select.EPOLLIN)

    def _kind(self, worker: bytes) -> str:
        return self._stack.upstreams.workers[worker].kind

    def _cut_off(self, worker: bytes, reason: str, now: float) -> None:
        """A worker that breaks the protocol is treated as dead; the supervisor replaces it."""
        self._gone(worker, now)
        if reason:
            self._stack.count(f"worker-{reason}")
            who = worker.decode("ascii", "backslashreplace")
            self._control.send("log", "error", "worker-cut-off", {"worker": who, "reason": reason})

    def _gone(self, worker: bytes, now: float) -> None:
        self._streams.closing += self._lines.forget(worker)
        self._stack.worker_gone(worker, now)

    def _write_workers(self, now: float) -> None:
        outgoing = self._stack.upstreams.messages
        while outgoing:
            message = outgoing.popleft()
            if not self._lines.send(message):
                self._gone(message[0], now)
                self._stack.flush(now)
        self._lines.flush()

    # ---- the supervisor ------------------------------------------------------------------------

    def _read_control(self, now: float) -> None:
        while (received := self._control.receive()) is not None:
            message, fds = received
            if not message:
                self._ended = True
                return
            if message[0] == "lane":
                self._add_lane(message[1].encode(), fds[0])
            elif message[0] == "gone":
                self._gone(message[1].encode(), now)
            elif message[0] == "leave":
                self._stack.upstreams.retire(message[1].encode())
            elif message[0] == "workers":
                self._control.send("workers", self._stack.upstreams.rows())
            elif message[0] == "inbound":
                self._stack.inbound.take(fds, message[1], now)
            elif message[0] == "orphans":
                orphans.provoke(self._stack, message[1:])
            elif message[0] == "theirs":
                self._stack.owners.answer(message[1], message[2], now)
            elif message[0] == "newnym":
                self._stack.upstreams.tokens.epoch = message[1]
                self._stack.port53.resolver.renew(now)
            elif message[0] == "drain":
                self._draining = True
                self._owing = -1

    def _report_owing(self) -> None:
        """Tell the supervisor, while the environment ends, how many connections still send."""
        owing = self._stack.owing()
        if not owing and not self._tun_more:
            if not self._streams.draining:
                self._streams.drain()
            owing = len(self._streams)  # what they have is written, and their servers have a moment to end
        if owing != self._owing:
            self._owing = owing
            self._control.send("owing", owing)
        if not owing and self._streams.draining:
            self._draining = False
            self._stack.upstreams.drain()
            self._write_workers(time.monotonic())
            account = self._stack.account.sum(self._stack.connections.values(), self._stack.port53.leases())
            if lost := self._link.lost():
                self._stack.counters["tun-lost"] += lost
            self._control.send("drained", dict(self._stack.counters), account)

    def _log(self, *event: Any) -> None:
        self._control.send("log", *event)

    def _send_logs(self) -> None:
        logs = self._stack.logs
        while logs:
            self._log(*logs.popleft())


def main() -> None:
    """Entry point: ``CONTROL_FD``."""
    kernel.introduce("avne [net]", signal.SIGKILL)
    process = Process(Control.from_fd(int(sys.argv[1])), Sandbox())
    # Flows hold no cycles; what is allocated so far stays.
    gc.freeze()
    gc.disable()
    code = 0
    try:
        process.run()
    except KeyboardInterrupt:
        pass
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    process.flush_capture()  # what was captured before a fault of ours is worth most
    os._exit(code)  # the interpreter's own end is more than the filter allows
