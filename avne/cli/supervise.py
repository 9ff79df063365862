# SPDX-License-Identifier: GPL-3.0-or-later
"""The supervisor: starts helper, netstack and workers, sends GO, and ends them in the right order.

The only file of the supervisor that waits.  Its four phases, and what ends each:

* STARTING: the tun has come and was handed to the netstack, the netstack and all workers are
  ready → GO.  Anything that dies here ends the run with an error.
* RUNNING: the program has ended (EXITED) → `drain`.  The dead of the network are replaced (network.py);
  where that is hopeless or not wanted the tun is closed: the device vanishes, and the program is ended.
* DRAINING: what the program had sent is handed on (`drained`), or the bound is reached → END.
* ENDING: the environment is gone.

Whatever happens, also an exception of ours, `run` leaves no process behind.
"""

from __future__ import annotations

import gc
import os
import signal
import time
from typing import Any

from avne import __version__
from avne.cli.children import Parts
from avne.cli.console import Console
from avne.cli.doors import NEWNYM, RELOAD, STOP, Doors
from avne.cli.job import Job
from avne.cli.loop import Loop
from avne.cli.network import LASTING, Network
from avne.cli.signals import ENDING as ENDING_SIGNALS
from avne.cli.signals import TERMINAL, Interrupted, Signals
from avne.cli.stdio import Stdio
from avne.errors import EXIT_AVNE, AvneError
from avne.log import Log
from avne.privileged import launch

START_BOUND = 60.0  # until everything is ready: a worker's proxy may take a while to answer
TERM_BOUND = 5.0  # between TERM and KILL of a program that has lost its network
DRAIN_NOTICE = 2.0
DRAIN_BOUND = 30.0
END_BOUND = 5.0

STARTING, RUNNING, DRAINING, ENDING = range(4)


class Supervisor:
    """One run.  `run` gives the program's exit code, negative where a signal ended it."""

    def __init__(self, job: Job, log: Log, console: Console) -> None:
        self._job = job
        self._log = log
        self._console = console
        self._phase = STARTING
        self._exit: int | None = None
        self._done = False
        self._owing = 0
        self._drained = False
        self._lasted = 0.0  # the program, s
        self._term_at = -TERM_BOUND
        self._helpers = list(job.helpers)
        self._environment: launch.Environment | None = None
        self._loop = Loop()
        self._parts = Parts(self._loop, log)
        self._network = Network(job, self._loop, self._parts, log, self)
        self._stdio = Stdio()
        self._doors: Doors | None = None

    def run(self) -> int:
        """Raises `AvneError`, and `Interrupted` while the program has not been started."""
        signals = Signals(self._job.early.inherited)
        try:
            self._loop.watch(signals.fileno(), lambda: self._on_signals(signals.read()))
            bells = {STOP: self._stop_program, RELOAD: self._reload, NEWNYM: self._newnym}
            self._doors = Doors(self._job.session, self._loop, self._attach, bells, self._network.on_question)
            self._start()
            if self._job.onion:
                self._job.onion.watch(self._loop)
            while not self._done:
                self._loop.turn()
            assert self._exit is not None
            return self._exit
        finally:
            self._end_everything()
            self._stdio.close(signals.read)
            signals.close()
            self._loop.close()

    # Start

    def _start(self) -> None:
        job = self._job
        self._note("start", avne=__version__, upstream=job.upstream.redacted(), workers=job.workers)
        self._loop.after(START_BOUND, "start", self._start_too_slow)
        self._network.begin()
        self._start_helper()
        self._console.phase("helper, netstack and workers started")

    def _start_helper(self) -> None:
        self._environment = launch.Environment(self._helpers.pop(0), self._job.request, self._stdio.fds)
        self._loop.watch(self._environment.fileno(), self._on_environment)

    def _go_when_ready(self) -> None:
        """GO, once the netstack has the tun and everybody has said that it is ready."""
        if self._phase != STARTING or not self._network.ready:
            return
        self._loop.cancel("start")
        gc.enable()
        self._phase = RUNNING
        self._network.phase = LASTING
        self._parts.names_possible = True
        self._console.phase("everything is ready")
        assert self._environment
        self._environment.go(self._job.argv, self._job.environ, *self._job.early.inherited)

    def _start_too_slow(self) -> None:
        late = [part.name for part in self._parts.running if not part.ready]
        who = ", ".join(late) or "the environment"
        raise AvneError(f"{who} was not ready within {START_BOUND:.0f} s", "Try again with -vv to see why.")

    # The environment

    def _on_environment(self) -> None:
        assert self._environment
        event = self._environment.receive()
        if isinstance(event, launch.Tun):
            self._console.phase(f"environment made{launch.instead_of_tun(event)}")
            self._network.give_tun(event, self._environment.init)
            self._go_when_ready()
        elif isinstance(event, launch.Started):
            self._console.phase(f"started {self._job.argv[0]}")
            self._lasted = -time.monotonic()
            if self._job.receipt:
                self._job.receipt.started(self._environment)
            self._open_to_others()
        elif isinstance(event, launch.Exited):
            self._program_ended(os.waitstatus_to_exitcode(event.status))
        elif isinstance(event, launch.Failed):
            self._helper_failed(event)
        elif isinstance(event, launch.Gone):
            self._environment_gone()

    def _helper_failed(self, event: launch.Failed) -> None:
        assert self._environment
        if self._phase == STARTING and self._helpers and launch.another_may_work(event.stage):
            self._note("helper-fallback", stage=event.stage, errno=event.errno)
            self._loop.forget(self._environment.fileno())
            self._environment.close()
            self._start_helper()
            return
        raise launch.explain(event.stage, event.errno, self._environment.setuid, self._job.argv[0])

    def _environment_gone(self) -> None:
        if self._phase in (DRAINING, ENDING):
            self._done = True
            return
        raise AvneError(
            "the environment's own process ended, and the program with it",
            "If nobody killed it, look at the kernel's log: dmesg | tail.",
        )

    def _program_ended(self, code: int) -> None:
        self._lasted += time.monotonic()
        self._console.phase(f"ended with {code}" if code >= 0 else f"ended by signal {-code}")
        self._note("program-ended", code=code)
        if self._exit is None:
            self._exit = code
        self._loop.cancel("kill")
        assert self._doors
        self._doors.close_attach()
        if not self._network.lives:
            self._end_environment()
            return
        self._phase = DRAINING
        self._network.drain()
        self._loop.after(DRAIN_NOTICE, "notice", self._tell_of_draining)
        self._loop.after(DRAIN_BOUND, "drain", self._end_environment)

    def _end_when_drained(self) -> None:
        """Once the netstack owes nothing, and the workers have written what they held and ended."""
        if self._phase == DRAINING and self._drained and not self._network.has_workers:
            self._end_environment()

    def _tell_of_draining(self) -> None:
        some = {0: "a worker is", 1: "1 connection is"}
        who = some.get(self._owing, f"{self._owing} connections are")
        self._console.notice(f"{who} still sending what the program wrote; Ctrl-C ends it now")

    def _tell_of_silence(self, account: dict[str, Any]) -> None:
        """Where the program may have looked for another to do its work."""
        from avne.cli.handover import notice

        assert self._exit is not None
        if text := notice(self._job.argv, self._job.environ, self._exit, self._lasted, account):
            self._console.notice(text)

    def _end_environment(self) -> None:
        self._phase = ENDING
        self._loop.cancel()
        assert self._environment
        self._environment.end()
        self._loop.after(END_BOUND, "end", self._stop)  # what is left then is killed

    def _stop(self) -> None:
        self._done = True

    # Other commands

    def _open_to_others(self) -> None:
        """The program runs: `avne ps` shows it, and `avne attach` is let in."""
        from avne.cli import meta

        job = self._job
        assert self._environment
        assert self._doors
        about = {
            "id": job.session.id,
            "name": job.name,
            "supervisor": os.getpid(),
            "init": self._environment.init,
            "program": os.path.basename(job.argv[0]),
            "started": time.time(),
            "upstream": job.upstream.redacted(),
            "circuits": "tor" in job.kinds,
            "mode": "root" if os.geteuid() == 0 else "setuid" if self._environment.setuid else "rootless",
            "version": __version__,
            "opened": [opening.text for opening in job.openings],
        }
        try:
            meta.write(job.session.directory, about)
        except OSError as error:  # others see less of us: no reason to end the program
            self._note("no-meta", errno=error.errno)
        self._doors.open_attach()
        self._network.let_in()

    def _attach(self, connection: int) -> None:
        assert self._environment
        self._note("attach")
        self._environment.attach(connection)

    def _stop_program(self) -> None:
        """`avne stop`: TERM, then KILL; at once before the program starts and after its end."""
        if self._phase == RUNNING:
            self._signal(signal.SIGTERM)
            self._loop.after(TERM_BOUND, "kill", lambda: self._signal(signal.SIGKILL))
        else:
            self._on_signals(bytes([signal.SIGTERM]))

    def _reload(self) -> None:
        """`avne reload`."""
        self._note("reload")
        self._network.reload()

    def _newnym(self) -> None:
        """`avne newnym`."""
        self._note("newnym")
        self._network.newnym()

    # The network

    def on_ready(self, who: str) -> None:
        """A part of it is ready."""
        self._console.phase(f"{who} ready")
        self._go_when_ready()

    def on_message(self, message: list[Any]) -> None:
        """What else the netstack says."""
        match message:
            case ["owing", int(count)]:
                self._owing = count
            case ["capture-ended", int(errno)]:
                self._console.notice(f"the capture ends here ({os.strerror(errno)}); the program goes on")
            case ["drained", dict(counters), dict(account)]:
                self._log.event("info", "net", "counters", counters)
                if self._job.receipt:
                    self._job.receipt.network(counters, account)
                self._tell_of_silence(account)
                self._console.phase("everything has been handed on")
                self._drained = True
                self._end_when_drained()

    def on_replaced(self) -> None:
        """The netstack died, or was asked to, and the next one is on its way."""
        self._console.notice("the network was started anew; connections that were open are reset")
        if self._job.receipt:
            self._job.receipt.interrupted()

    def on_nothing_to_drain(self) -> None:
        """What the program had sent went with the netstack that was asked to go."""
        if self._phase == DRAINING:
            self._end_environment()

    def on_workers_gone(self) -> None:
        self._end_when_drained()

    def on_lost(self, error: AvneError) -> None:
        """Fail closed: the tun is closed, and nothing comes in its place."""
        if self._phase == ENDING:
            return
        self._exit = EXIT_AVNE
        self._console.error(error)
        if self._phase == DRAINING:
            self._end_environment()
        else:
            self._signal(signal.SIGTERM)
            self._loop.after(TERM_BOUND, "kill", lambda: self._signal(signal.SIGKILL))

    # Signals and the end

    def _on_signals(self, numbers: bytes) -> None:
        for number in numbers:
            if self._phase == RUNNING:
                if number not in TERMINAL:
                    self._forward(number)
            elif number in ENDING_SIGNALS:
                if self._phase == STARTING:
                    raise Interrupted(number)
                if self._phase == DRAINING:
                    self._exit = -number
                    self._end_environment()

    def _forward(self, number: int) -> None:
        """To the program; a second TERM within TERM_BOUND becomes KILL."""
        if number == signal.SIGTERM:
            now = time.monotonic()
            if now - self._term_at < TERM_BOUND:
                number = signal.SIGKILL
            self._term_at = now
        self._signal(number)

    def _signal(self, number: int) -> None:
        assert self._environment
        self._environment.signal(number)

    def _note(self, event: str, **fields: Any) -> None:
        self._log.event("info", "supervisor", event, fields)

    def _end_everything(self) -> None:
        """Leave nothing behind, from whatever state."""
        if self._doors:
            self._doors.close()
        if self._environment:
            self._environment.close()
        self._parts.end()
        self._network.close(deserted=True)
