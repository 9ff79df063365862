# SPDX-License-Identifier: GPL-3.0-or-later
"""An upstream worker: carries the netstack's flows over an upstream, in a process of its own.

Started (spawn.python) with its descriptor of the control line, where ``config {identity, rules, resolver,
about}`` comes, with its end of the lane where the netstack is on this machine, else with the ``endpoint``.
The rules (routes.py) give each flow its upstream, whose negotiation ends with its socket given to that
netstack; where there is no lane, its bytes go by frames.py.  The loop's thread does everything but what
blocks, which happens on the pool's threads.  HELLO and READY with the netstack, and one look at the default
upstream, make ``ready``.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextvars import copy_context
from functools import partial
from typing import Any, Final, NoReturn

from avne.confine import kernel, runtime
from avne.confine.rules import Policy
from avne.confine.sandbox import Sandbox
from avne.errors import AvneError, Malformed
from avne.ipc import control as control_line
from avne.ipc import lane, messages, streams
from avne.ipc.control import Control
from avne.ipc.messages import Code, ResolveKind, Sender, encode
from avne.ipc.pool import Pool as Memory
from avne.ipc.streams import Streams
from avne.ipc.verdict import Verdict
from avne.upstream import confinement, failure, lookout, pool, proxy, services, uplink, way
from avne.upstream import negotiations as negotiating
from avne.upstream.base import Attempt, OpenError, Resolved, Upstream
from avne.upstream.frames import Frames
from avne.upstream.identity import TOKEN
from avne.upstream.negotiations import Negotiations, Opening
from avne.upstream.pool import Pool
from avne.upstream.router import Router
from avne.upstream.routes import Route, Routes
from avne.upstream.services import Services
from avne.upstream.spec import UpstreamSpec
from avne.upstream.uplink import Payload, connect
from avne.upstream.warm_up import rehearse, warm_up

SYSCALLS: Final = ("epoll_wait", "epoll_pwait", "epoll_ctl", "write")  # the last for a filter's log
_MODULES: Final = (
    runtime, control_line, lane, streams, negotiating, lookout, uplink, pool, proxy, services, way
)  # fmt: skip

ZMQ_THREADS: Final = 2  # one for its sockets, one that buries them
STATS_INTERVAL: Final = 1.0
DRAIN_BOUND: Final = 30.0  # for all flows together
_SLACK: Final = 0.02  # seconds by which a timer may be late while there is something else to do


def policy(plan: confinement.Plan) -> Policy:
    """What the process may do."""
    modules = [SYSCALLS, *(module.SYSCALLS for module in _MODULES)]
    if plan.kind == confinement.REMOTE:
        from avne.ipc import channel

        modules.append(channel.SYSCALLS)
    return confinement.policy(plan, modules)


def make_routes(control: Control, config: dict[str, Any]) -> Routes:
    """With all that they read from files.  Raises `AvneError`."""
    resolver = config["resolver"]

    def log(level: str, event: str, fields: dict[str, Any]) -> None:
        with contextlib.suppress(BlockingIOError):  # a supervisor that is stopped (^Z) misses it
            control.send("log", level, event, fields)

    rules = Router.from_config(config["rules"])
    return Routes(rules, None if resolver is None else (resolver[0], resolver[1]), log, config["about"])


class Worker:
    """The process."""

    def __init__(
        self,
        control: Control,
        config: dict[str, Any],
        lane: socket.socket | None,
        routes: Routes,
        doors: dict[str, way.Way],
    ) -> None:
        self._control = control
        self._routes = routes
        self._doors = doors
        upstreams = self._routes.upstreams
        self._pool = Pool()
        self._epoll = select.epoll()
        self._uplink = connect(config, lane, self._epoll)
        self._streams = Streams(self._epoll, self._log, Memory())
        self._frames = Frames(self._uplink, self._streams, self._epoll, upstreams, self._log)
        closing = self._streams.closing
        self._services = Services(self._epoll, closing)
        self._negotiations = [Negotiations(self._epoll, upstream, closing) for upstream in upstreams]
        self._opening: dict[int, Attempt | Opening] = {}
        self._last_stats = (0, 0, 0)
        self._stats_at = 0.0
        self._welcome = self._checked = False
        self._drain_until: float | None = None

    def run(self) -> NoReturn:
        """Greet the netstack, look at the upstream, and work until drained or cut off."""
        for fd in (self._control.fileno(), self._pool.wake):
            self._epoll.register(fd, select.EPOLLIN)
        default = self._routes.default
        about = messages.WIRE_VERSION, default.spec.label()[:32], int(self._routes.capabilities)
        self._uplink.send(encode(messages.HELLO, 0, *about))
        self._pool.submit(default.check, self._on_checked)
        streams, uplink, poll = self._streams, self._uplink, self._epoll.poll
        look_at = 0.0  # when to look at the timers
        events: list[tuple[int, int]] = []
        while not self._is_drained():
            if streams.waiting or not uplink.idle():
                timeout = 0.0
            elif events:
                timeout = _SLACK
            else:
                timeout = self._timeout()
            events = poll(timeout)
            now = streams.now = time.monotonic()
            if timeout and not events:
                gc.collect(0)  # idle: flows have no cycles, but exceptions may leave some
            for fd, mask in events:
                self._on_event(fd, mask)
            if uplink.closed:
                self._leave()
            if not uplink.takes_sockets:
                self._receive(uplink.receive())
            streams.take_turn()
            if now >= look_at or not events:
                look_at = now + _SLACK
                self._handle_timers(now)
            uplink.flush()
        os._exit(0)

    def _handle_timers(self, now: float) -> None:
        for negotiations in self._negotiations:
            negotiations.handle_timer(now)
        self._services.handle_timer(now)
        self._streams.handle_timer()
        if self._checked:
            self._frames.handle_timer()
        self._uplink.handle_timer(now)
        self._report_stats()

    def _leave(self) -> NoReturn:
        """The netstack has gone, or has cut us off."""
        if self._uplink.why:
            self._control.send("lost", self._uplink.why)
        os._exit(0)

    def _on_event(self, fd: int, mask: int) -> None:
        if fd == self._control.fileno():
            self._read_control()
        elif fd == self._pool.wake:
            self._pool.collect()
        else:
            try:
                received = self._uplink.on_event(fd, mask)
            except Malformed as error:
                self._broken(error)
            if received is not None:
                self._receive(received)
            elif not (
                any(negotiations.on_event(fd) for negotiations in self._negotiations)
                or self._streams.on_event(fd, mask)
                or self._services.on_event(fd)
            ):
                self._frames.on_event(fd, mask)

    def _timeout(self) -> float:
        """Seconds until a turn is due, if nothing comes."""
        due = min(self._streams.now + 60.0, self._services.poll_at(), self._streams.poll_at())
        due = min(due, self._uplink.poll_at())
        due = min(due, *(negotiations.poll_at() for negotiations in self._negotiations))
        if self._checked:
            due = min(due, self._frames.poll_at())
        if self._stats() != self._last_stats:
            due = min(due, self._stats_at)
        if self._drain_until is not None:
            due = min(due, self._drain_until)
        return max(0.0, due - time.monotonic())

    # The netstack.

    def _receive(self, received: Iterator[tuple[bytes, Payload | None]]) -> None:
        try:
            for header, payload in received:
                message = messages.decode(header, Sender.NETSTACK)
                if messages.TABLE[message[0]].payload != (payload is not None):
                    raise Malformed("wire-payload")
                self._handle(message, payload)
        except Malformed as error:
            self._broken(error)

    def _broken(self, error: Malformed) -> NoReturn:
        """The netstack broke the protocol: nothing it says can be believed."""
        self._log("error", "wire", {"reason": error.reason})
        os._exit(1)

    def _handle(self, message: list[Any], payload: Payload | None) -> None:
        kind, number = message[0], message[1]
        if kind == messages.OPEN:
            self._open(number, *message[2:])
        elif kind == messages.RESOLVE:
            self._resolve(number, ResolveKind(message[2]), *message[3:])
        elif kind == messages.READY:
            self._welcome = True
            self._announce()
        elif kind == messages.DRAIN:
            self._drain()
        elif kind == messages.PING:
            self._streams.write()  # the answer says that what came before has been done
            self._uplink.send(encode(messages.PONG, number, message[2]))
        elif kind == messages.EARLY:
            self._hurry(number, message[2])
        elif number not in self._opening:
            self._frames.handle(message, payload)
        elif kind == messages.RESET:
            self._opening.pop(number).cancel()
        else:
            raise Malformed("wire-turn")

    def _open(self, number: int, host: str, port: int, credit: int, token: str) -> None:
        if number in self._opening or number in self._frames:
            raise Malformed("wire-turn")
        if self._streams.draining:
            self._refuse(number, OpenError(Code.UPSTREAM_DOWN, "this worker is about to end"))
            return

        route = self._routes.pick(host, port)
        upstream = route.upstream

        def done(result: socket.socket | OpenError) -> None:
            opening = self._opening.pop(number, None)
            if opening is None:  # given up meanwhile
                if isinstance(result, socket.socket):
                    result.close()
                return
            upstream.opened(host, port, result if isinstance(result, OpenError) else None)
            if isinstance(result, OpenError):
                self._refuse(number, self._routes.refusal(route, result), upstream)
            else:
                early = opening.early if isinstance(opening, Opening) else 0
                self._hand_over(number, result, credit, route, early)

        attempt = self._opening[number] = Attempt()
        TOKEN.set(token)
        try:
            if service := upstream.service(host, port):
                done(self._services.start(service))
                return
            dialogue = upstream.dialogue(host, port)
            opening = self._negotiations[route.number].start(dialogue, done) if dialogue else None
        except OpenError as error:
            done(error)
            return
        if opening is None:
            self._pool.submit(partial(copy_context().run, upstream.open, host, port, attempt), done)
        elif number in self._opening:  # not done yet
            self._opening[number] = opening

    def _hurry(self, number: int, data: bytes) -> None:
        """A flow's first bytes, before it is open; if it is already, its netstack writes them."""
        if not self._uplink.takes_sockets:
            raise Malformed("wire-turn")
        opening = self._opening.get(number)
        if isinstance(opening, Opening):
            opening.hurry(data)

    def _hand_over(self, number: int, sock: socket.socket, credit: int, route: Route, early: int) -> None:
        """A connected socket, to who moves its bytes."""
        if not self._uplink.takes_sockets:
            self._frames.adopt(number, sock, credit, route.number)
            return
        upstream = route.upstream
        can = int(upstream.capabilities)
        about = int(self._streams.now * 1e6), route.number, can, upstream.rate, early
        self._uplink.give(encode(messages.SOCKET, number, *about), sock)

    def _refuse(self, number: int, error: OpenError, upstream: Upstream | None = None) -> None:
        verdict = Verdict.REFUSED if upstream is None else upstream.verdict(error.code)
        self._uplink.send(encode(messages.REFUSED, number, error.code, int(verdict), error.detail))

    def _resolve(self, number: int, kind: ResolveKind, what: str, token: str) -> None:
        def done(result: Resolved | OpenError) -> None:
            if isinstance(result, OpenError):
                self._uplink.send(encode(messages.RESOLVED, number, result.code, [], 0))
            else:
                answer = int(Code.SUCCEEDED), result.answers, result.ttl
                self._uplink.send(encode(messages.RESOLVED, number, *answer))

        if kind is ResolveKind.ROUTE:
            self._uplink.send(encode(messages.RESOLVED, number, int(self._routes.judge(what)), [], 0))
            return
        try:
            upstream = self._routes.asked(what)
        except OpenError as error:
            done(error)
            return
        TOKEN.set(token)
        self._pool.submit(partial(copy_context().run, upstream.resolve, kind, what, Attempt()), done)

    def _drain(self) -> None:
        if self._drain_until is None:
            self._drain_until = self._streams.now + DRAIN_BOUND
            for number, attempt in self._opening.items():
                attempt.cancel()
                self._refuse(number, OpenError(Code.UPSTREAM_DOWN, "this worker is about to end"))
            self._opening.clear()
            self._streams.drain()

    def _is_drained(self) -> bool:
        if self._drain_until is None:
            return False
        return not len(self._frames) or time.monotonic() >= self._drain_until

    def _stats(self) -> tuple[int, int, int]:
        return len(self._frames), self._streams.bytes_up, self._streams.bytes_down

    def _report_stats(self) -> None:
        stats = self._stats()
        if stats != self._last_stats and self._streams.now >= self._stats_at:
            self._stats_at = self._streams.now + STATS_INTERVAL
            self._last_stats = stats
            self._uplink.send(encode(messages.STATS, 0, *stats))

    # The supervisor.

    def _on_checked(self, result: OpenError | None) -> None:
        if result is not None:
            self._control.send("failed", *failure.explain(self._routes.default.spec, result))
            os._exit(1)
        self._checked = True
        self._frames.handle_timer()  # which opens what proves ends: before the first flow, not after a while
        self._announce()
        for upstream in self._routes.upstreams:
            if upstream is not self._routes.default:
                self._pool.submit(upstream.check, partial(self._note, upstream.spec))

    def _note(self, spec: UpstreamSpec, error: OpenError | None) -> None:
        """An upstream of a rule: one that is not there is no reason not to begin."""
        if error is not None:
            self._log("warning", "upstream-down", {"upstream": spec.label(), "why": error.detail})

    def _announce(self) -> None:
        if self._welcome and self._checked:
            self._control.send("ready")

    def _read_control(self) -> None:
        received = self._control.receive()
        if received is None:
            return
        message, fds = received
        if not message:
            os._exit(0)  # the supervisor has gone
        if message[0] == "socket" and message[1] in self._doors:
            self._doors[message[1]].renew(fds[0] if fds else None)
        elif message[0] == "leave":
            self._uplink.send(encode(messages.DRAIN, 0))

    def _log(self, level: str, event: str, fields: dict[str, Any]) -> None:
        with contextlib.suppress(BlockingIOError):  # a supervisor that is stopped (^Z) misses it
            self._control.send("log", level, event, fields)


def main() -> None:
    """Entry point: ``CONTROL_FD``."""
    sandbox = Sandbox()
    sock = socket.socket(fileno=int(sys.argv[1]))
    control = Control(sock)
    received = control.receive(wait=True)
    if not received or not received[0]:
        return  # the supervisor went before we had begun
    (verb, config), fds = received
    if verb != "config":
        raise RuntimeError(f"expected config, got {verb}")
    sock.setblocking(False)
    # For ps(1): "avne [tor 1]" for the identity "w1.1" (slot.generation).
    slot = config["identity"].lstrip("w").partition(".")[0]
    kernel.introduce(f"avne [{config['about']['upstream']} {slot}]", signal.SIGKILL)
    try:
        routes = make_routes(control, config)
    except AvneError as error:
        control.send("failed", error.problem, error.cure)
        return
    specs = [upstream.spec for upstream in routes.upstreams]
    lane_end = socket.socket(fileno=fds[0]) if fds else None
    plan = confinement.plan(specs, remote=lane_end is None)
    doors = confinement.open_doors(specs, plan, partial(control.send, "reopen"))
    rehearse(routes.upstreams)
    got = sandbox.isolate(confinement.narrowed(plan.wish, doors.values()))
    if got.empty_root:
        way.use(doors)
    worker = Worker(control, config, lane_end, routes, doors)
    warm_up()
    calls = sandbox.seal(policy(plan), 0 if lane_end else ZMQ_THREADS)
    control.send("log", "info", "confined", {"kind": plan.kind, **got.fields(), "calls": calls})
    gc.freeze()
    gc.disable()
    try:
        worker.run()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    os._exit(1)  # the interpreter's own end is more than the filter allows
