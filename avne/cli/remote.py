# SPDX-License-Identifier: GPL-3.0-or-later
"""``avne worker``: this machine's upstream for a run on another one.

The worker is the process that a run has on its own machine (upstream/worker.py), locked in as that is; here
is its supervisor.  Each connection is another worker, under a name that is never used again.  One that is
refused ends the command; one that is lost is made anew, for PATIENCE.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from avne import __version__
from avne.cli import elsewhere, keys, routing
from avne.cli.children import LINGER, Part, died_early
from avne.cli.console import Console
from avne.cli.run import upstreams
from avne.cli.start import WORKER, settle_descriptors, start
from avne.cli.workers import Restarts
from avne.config import Config, load
from avne.errors import EXIT_USAGE, AvneError
from avne.netstack.lines import ELSEWHERE
from avne.upstream.router import table

PATIENCE: Final = 60.0  # seconds without a connection, after the first
_UNFINISHED: Final = "no-handshake"
_REFUSALS: Final = {
    "unknown-key": (
        "does not know this key",
        "Add the line of avne keys to the file of its --workers-allowed.",
    ),
    "no-key": ("speaks without keys", "See whether it is an avne run with --workers-at."),
    _UNFINISHED: (
        "has not got the key of --server-key, or ended the connection at its beginning",
        "Compare it with what avne keys prints for its --workers-key; if it is the same, try again.",
    ),
}


class End(NamedTuple):
    """Of one connection: why it is lost, "" where it was ended, and whether it had begun."""

    why: str
    ready: bool


def worker(connect: str, key_file: str, server_key: str, flags: Mapping[str, Any]) -> int:
    """Until the run lets it go, or a signal comes.  Raises `AvneError`."""
    settle_descriptors()
    config = load(flags)
    console = Console(False, config["verbose"])
    written = routing.parse(config)
    _check(written)
    try:
        host, port = elsewhere.split_endpoint(connect)
    except ValueError as error:
        raise AvneError(
            f"{connect} is no place to connect to", "Write tcp://HOST:PORT.", EXIT_USAGE
        ) from error
    pair = keys.read_pair(key_file)
    known_key = keys.server_key(server_key)
    with upstreams(written, config, console) as known:
        told = _routing(known, config)
        told["keys"] = [pair.secret, pair.public, [known_key]]
        return Client(connect, (host, port), told, console).run()


def _check(written: routing.Routing) -> None:
    plain = not (written.rules or written.onion_only or written.https_only or written.others)
    if not plain or written.default.inner is not None:
        raise AvneError(
            "a worker for another machine has one upstream, without rules and filters",
            "Leave them out, in the configuration as well: avne config",
        )
    if written.direct():
        raise AvneError("a worker for another machine leads through a proxy only", "Name one: --upstream tor")


def _routing(known: routing.Routing, config: Config) -> dict[str, Any]:
    resolver = routing.resolver(config)
    about = {
        "version": __version__, "session": "", "upstream": known.default.label(), "open": [],
        "log_names": False,
    }  # fmt: skip
    rules = table([], known.default, False, False, resolver)
    return {"rules": rules.to_config(), "resolver": resolver, "about": about}


class Client:
    """The worker of this machine, one process after the other."""

    def __init__(
        self, connect: str, address: tuple[str, int], told: dict[str, Any], console: Console
    ) -> None:
        self._connect = connect
        self._address = address
        self._told = told
        self._console = console
        self._signals, theirs = socket.socketpair()
        theirs.setblocking(False)
        self._theirs = theirs  # kept open
        signal.set_wakeup_fd(theirs.fileno())
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        self._asked = 0  # by how many signals to end

    def run(self) -> int:
        restarts = Restarts()
        lost_at = 0.0
        while True:
            end = self._once()
            if self._asked:
                return 0
            if not end.why and end.ready:
                self._console.notice(f"{self._connect} has let this worker go")
                return 0
            if not end.why:
                raise AvneError(
                    f"{self._connect} does not take this worker",
                    "Its upstream must be of the kind of that of avne run there, whose log says why.",
                )
            if end.why in _REFUSALS and not (
                end.why == _UNFINISHED and lost_at
            ):  # a key that was right is right
                problem, cure = _REFUSALS[end.why]
                raise AvneError(f"{self._connect} {problem}", cure)
            now = time.monotonic()
            if end.ready:
                restarts.succeeded()
                lost_at = now
                self._console.notice(
                    f"{self._connect} is lost ({end.why}); trying again for {PATIENCE:.0f} s"
                )
            if not lost_at or now - lost_at > PATIENCE:
                raise AvneError(
                    f"{self._connect} cannot be reached",
                    "See whether avne run --workers-at runs there, and what is between.",
                )
            self._pause(restarts.delay(now, True) or 0.0)
            if self._asked:
                return 0

    def _once(self) -> End:
        """One connection, to its end."""
        part = Part("the worker", "worker", start(WORKER))
        identity = ELSEWHERE.decode() + os.urandom(8).hex()
        part.control.send("config", {**self._told, "identity": identity, "endpoint": self._endpoint()})
        why, code = "", 0
        try:
            poll = select.poll()
            for fd in (part.control.fileno(), part.output, self._signals.fileno()):
                poll.register(fd, select.POLLIN)
            ended = False
            while not ended:
                for fd, _ in poll.poll():
                    if fd == part.output:
                        self._relay(part)
                    elif fd == self._signals.fileno():
                        self._end(part)
                while (received := part.control.receive()) is not None:
                    match received[0]:
                        case []:
                            ended = True
                            break
                        case ["ready"]:
                            part.ready = True
                            self._console.notice(f"connected to {self._connect}")
                        case ["failed", str(problem), str(cure)]:
                            part.failed = AvneError(problem, cure)
                        case ["lost", str(what)]:
                            why = what
        finally:
            part.close()
            code, _ = part.reap(LINGER)
        if part.failed:
            raise part.failed
        if code and not self._asked:
            raise died_early(part, "")
        return End(why, part.ready)

    def _endpoint(self) -> str:
        """With an address: the worker looks no name up.  Raises `AvneError`."""
        try:
            found = socket.getaddrinfo(*self._address, type=socket.SOCK_STREAM)
        except OSError as error:
            raise AvneError(
                f"cannot find {self._address[0]}: {error.strerror or error}",
                "Look at the name, or take an address.",
            ) from error
        host, port = map(str, found[0][4][:2])
        return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"

    def _relay(self, part: Part) -> None:
        for line in part.lines():
            sys.stderr.write(f"avne: {line}\n")

    def _end(self, part: Part) -> None:
        """The first signal lets the flows end, the second does not."""
        self._asked += len(self._signals.recv(64))
        if self._asked > 1 or not part.ready:
            part.kill()
        else:
            self._console.notice("ends when no connection needs it; once more ends it now")
            part.control.send("leave")

    def _pause(self, seconds: float) -> None:
        if select.select([self._signals], [], [], seconds)[0]:
            self._asked += len(self._signals.recv(64))
