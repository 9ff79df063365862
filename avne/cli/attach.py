# SPDX-License-Identifier: GPL-3.0-or-later
"""``avne attach``: a second program in an environment that runs.

The environment's init starts it: no privilege is needed, and no namespace is entered from here.
On a terminal it gets a terminal of its own, which `Relay` joins to ours, since a process of
another pid namespace cannot be a job of our shell.
"""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

from avne.cli import meta, target
from avne.cli.console import Console
from avne.cli.doors import ATTACH
from avne.cli.environment import program_environment
from avne.cli.relay import Relay
from avne.cli.signals import ENDING, TERMINAL, Inherited, Interrupted, Signals, die_of, inherited
from avne.cli.start import settle_descriptors
from avne.config import load
from avne.errors import AvneError
from avne.paths import Live, live_sessions
from avne.privileged import launch
from avne.privileged.attach import Attachment, Ending, Event, Terminal, Wish


def attach(which: str, program: list[str], raw: bool = False) -> int:
    """Run `program`, the user's shell if it is empty, in the environment `which`.

    With `raw` it may capture the packets there.  Gives its exit code, or dies of its signal; raises
    `AvneError` for everything that keeps it from running.
    """
    state = inherited()
    settle_descriptors()
    argv = program or [os.environ.get("SHELL") or "/bin/sh"]
    wish = _wish(argv, state, raw)
    connection = _by_process(int(which), wish) if which.isdigit() else _by_name(which, wish)
    try:
        code = Attached(connection, argv[0], state).run()
    except Interrupted as interrupted:
        code = -interrupted.number
    if code < 0:
        die_of(-code)
    return code


def _by_name(which: str, wish: Wish) -> Attachment:
    session = target.named(which)
    connection = _connect(session)
    if connection is None:
        raise AvneError(f"the environment {which} is ending", "Start another: avne run PROGRAM")
    connection.request(_in(session, wish))
    return connection


def _by_process(number: int, wish: Wish) -> Attachment:
    """Ask each environment whether the process is in it; an `avne run` stands for its own."""
    pidfd = target.process(number)
    try:
        sessions = live_sessions()
        for session in sessions:
            connection = _connect(session)
            if connection is None:
                continue
            if connection.supervisor == number:
                connection.request(_in(session, wish))
                return connection
            if "init" in meta.read(session):  # one that has not begun has no process to know
                connection.request(_in(session, wish), target=pidfd)
                if not connection.misses_target():
                    return connection
            connection.close()
        raise target.not_inside(number, sessions)
    finally:
        os.close(pidfd)


def _connect(session: Live) -> Attachment | None:
    try:
        return Attachment(f"{session.directory}/{ATTACH}")
    except OSError:
        return None


def _in(session: Live, wish: Wish) -> Wish:
    return wish._replace(env={**wish.env, "AVNE": "1", "AVNE_ID": session.id})


def _wish(argv: list[str], state: Inherited, raw: bool) -> Wish:
    os.umask(umask := os.umask(0))
    try:
        cwd = os.getcwd()
    except OSError:  # it has been removed
        cwd = ""
    # By the rules of `avne run`: what it was not given by --env there it is not given here.
    env, _ = program_environment(os.environ, load()["env"], (), {})
    return Wish(
        argv=argv,
        env=env,
        cwd=cwd,
        ignored=state.ignored,
        blocked=state.blocked,
        umask=umask,
        personality=int(Path("/proc/self/personality").read_text(), 16),
        terminal=os.isatty(0) and os.isatty(1),
        raw=raw,
    )


class Attached:
    """One attached program, from the request to its end."""

    def __init__(self, connection: Attachment, program: str, state: Inherited) -> None:
        self._connection = connection
        self._program = program
        self._signals = Signals(state, (signal.SIGTSTP, signal.SIGWINCH))
        self._relay: Relay | None = None
        self._started = False
        self._ending = False
        self._exit: int | None = None

    def run(self) -> int:
        """Raises `AvneError`, and `Interrupted` while the program has not been started."""
        try:
            while self._exit is None:
                self._turn()
            return self._exit
        finally:
            self._connection.close()
            if self._relay:
                self._relay.close()
            if self._ending:
                Console().notice(f"the environment has ended, and {self._program} with it")
            self._signals.close()

    def _turn(self) -> None:
        if self._connection.has_event:
            self._on_event(self._connection.receive())
            return
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        poll.register(self._signals, select.POLLIN)
        if self._relay:
            for fd, events in self._relay.interest().items():
                poll.register(fd, events)
        for fd, events in poll.poll():
            if fd == self._connection.fileno():
                self._on_event(self._connection.receive())
            elif fd == self._signals.fileno():
                for number in self._signals.read():
                    self._on_signal(number)
            elif self._relay:
                self._relay.handle(fd, events)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Terminal):
            self._relay = Relay(event.fd)
        elif isinstance(event, launch.Started):
            self._started = True
        elif isinstance(event, Ending):
            self._ending = True
        elif isinstance(event, launch.Exited):
            self._exit = os.waitstatus_to_exitcode(event.status)
        elif isinstance(event, launch.Failed):
            raise launch.explain(event.stage, event.errno, False, self._program)
        elif self._started:
            raise AvneError(
                f"the environment is gone, and {self._program} with it",
                "Its avne run has been killed, or this connection was; avne ps shows what still runs.",
            )
        else:
            raise AvneError(
                "the environment did not answer: it is ending, or too busy", "Look at avne ps, and try again."
            )

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGWINCH:
            if self._relay:
                self._relay.resize()
        elif number == signal.SIGTSTP:
            self._stop()
        elif number == signal.SIGCONT:
            self._continue()
        elif self._started:
            self._connection.signal(number, group=number in TERMINAL)
        elif number in ENDING:
            raise Interrupted(number)

    def _stop(self) -> None:
        """Both stop: the program is nobody's job, so that SIGTSTP would do nothing to it."""
        if self._started:
            self._connection.signal(signal.SIGSTOP, group=True)
        if self._relay:
            self._relay.suspend()
        os.kill(os.getpid(), signal.SIGSTOP)

    def _continue(self) -> None:
        if self._relay:
            self._relay.resume()
        if self._started:
            self._connection.signal(signal.SIGCONT, group=True)
