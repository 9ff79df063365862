# SPDX-License-Identifier: GPL-3.0-or-later
"""Acts upon runs, one after the other, and what must hold whatever happens.

* no packet for the servers that the program speaks to leaves the host (tests/bed/wire.py);
* no byte is wrong, and no connection ends as if it were complete when it was not;
* a run that lives serves new connections soon after an act;
* a run that ends leaves no process behind within a second of its end, and no session directory.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import select
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from tests.bed import people, places
from tests.bed.installed import Installed
from tests.bed.leftovers import DIRECTORIES, is_held
from tests.bed.runs import Avne, Run
from tests.bed.wire import Wire, of_the_world
from tests.chaos.acts import ACTS, Act, hired
from tests.chaos.ground import Ground
from tests.chaos.guest import SOURCE

SERVED = 10.0  # seconds within which a run that lives has opened a new connection
GONE = 1.0
RUN = 12  # acts, on average, after which a run is let end by itself, if none has ended it
CAPTURED = 0.3  # of the runs write what they see to the disk, until it is full
DRAINED = 35.0  # what a program had sent is handed on after its end, for 30 s at the most


class Tally:
    """What happened in one mode."""

    def __init__(self) -> None:
        self.acts: Counter[str] = Counter()
        self.runs = 0
        self.packets = 0
        self.verified = self.wrong = self.early = self.broken = self.opened = 0
        self.growth = 0.0  # of a supervisor's memory, from when its run was up to the run's orderly end, ×
        self.slowest = 0.0  # seconds until a new connection was served after an act
        self.faults: list[str] = []

    def add(self, state: dict[str, int]) -> None:
        for name in ("verified", "wrong", "early", "broken", "opened"):
            setattr(self, name, getattr(self, name) + state[name])


MODES = {"rootless": "0666", "setuid": "0600", "root": "0600", "netstack --listen": "0666"}  # of the tun


@contextlib.contextmanager
def storm(mode: str, installed: Installed, user: people.Person, upstream: str, seed: str) -> Iterator[Storm]:
    """One in a mode of `MODES`; `user` calls avne, but for root's."""
    setup = installed.avne if mode == "setuid" else ""
    person = people.ROOT if mode == "root" else user
    ground = Ground(installed, MODES[mode], setup, user.name)
    try:
        kind = "rootless" if mode == "netstack --listen" else mode
        avne = Avne(kind, installed.avne, person, ground.place)
        serving = ground.serving(installed.avne) if kind != mode else contextlib.nullcontext("")
        with serving as netstack:
            yield Storm(avne, ground, upstream, Random(f"{seed} {mode}"), netstack)
    finally:
        ground.close()


class Storm:
    """Raises nothing for what goes wrong: `tally.faults` has it."""

    def __init__(
        self, avne: Avne, ground: Ground, upstream: str, random: Random, netstack: str = "", flows: int = 6
    ) -> None:
        """`netstack`: the socket of a service that has the netstacks."""
        self._avne = avne
        self._ground = ground
        self._settings = {"XDG_STATE_HOME": str(ground.disk)}
        self._options = ["--netstack", netstack] if netstack else []
        self._upstream = upstream
        self._random = random
        self._flows = flows
        self.tally = Tally()

    def rage(self, count: int) -> None:
        """`count` acts, upon as many runs as they need."""
        before = _sessions()
        mounts = self._ground.mounts()
        with Wire() as wire:
            while self.tally.acts.total() < count:
                self._one_run(count)
            found = [str(packet) for packet in of_the_world(wire.packets())]
            self.tally.packets += len(found)
            self.tally.faults += found[:10]
            if wire.lost():
                self.tally.faults.append("the watcher lost packets: it proves nothing")
        # Which removes what a killed supervisor has left.
        self._avne.run("true", upstream=self._upstream, env=self._settings)
        self.tally.faults += [f"left behind: {path}" for path in _sessions() - before]
        self.tally.faults += [f"mounted still: {line}" for line in self._ground.mounts() - mounts]

    def _one_run(self, count: int) -> None:
        tally = self.tally
        tally.runs += 1
        words = ["python3", "-c", SOURCE, places.V4, str(self._flows)]
        receipt = self._ground.disk / f"{tally.runs}.json"
        options = [*self._options, "--receipt", str(receipt)]
        if self._random.random() < CAPTURED:
            options += ["--capture", f"{self._ground.disk}/{tally.runs}.pcapng"]
        with self._avne.start(
            *words, upstream=self._upstream, options=options, env=self._settings, stdin=True
        ) as run:
            assert run.stdout
            if run.stdout.readline() != "up\n":
                raise AssertionError(f"a run did not start: {run.stderr.read() if run.stderr else ''}")
            memory = _memory(run.supervisor)
            state = self._state(run)
            while state is not None and tally.acts.total() < count:
                (act,) = self._random.choices(ACTS, [act.weight for act in ACTS])
                before, state = state, self._after(run, act, state)
                if state is None:
                    tally.add(before)
                    return
                if state is not None and not self._random.randrange(RUN):
                    break
            if state is not None:
                tally.growth = max(tally.growth, _memory(run.supervisor) / memory)
                tally.add(self._end(run))
                self._check(receipt)

    def _after(self, run: Run, act: Act, state: dict[str, int]) -> dict[str, int] | None:
        """Do it; the state of the guest once a new connection was served, None where the run has ended."""
        everything = self._parts(run)
        with contextlib.suppress(AssertionError, OSError, ValueError):  # the part is just being replaced
            act.do(run, self._ground, self._random)
            self.tally.acts[act.name] += 1
        began = time.monotonic()
        if act.after == "ends":
            bounds = {"kill supervisor": GONE, "kill program": DRAINED}
            self._gone(everything, act, bounds.get(act.name, SERVED))
            return None
        while time.monotonic() - began < SERVED:
            now = self._state(run)
            if now is None:
                if act.after == "lives":
                    self._fault(act, f"the run ended with {run.wait(10)}: {_errors(run)}")
                elif run.wait(10) != 125:
                    self._fault(act, f"the run ended with {run.returncode}: {_errors(run)}")
                self._gone(everything, act, SERVED)
                return None
            if now["opened"] > state["opened"]:
                self.tally.slowest = max(self.tally.slowest, time.monotonic() - began)
                return now
            time.sleep(0.02)
        self._fault(act, f"no new connection within {SERVED:.0f} s")
        return self._state(run)

    def _state(self, run: Run) -> dict[str, int] | None:
        """What the guest says; None where the run has ended."""
        assert run.stdin
        assert run.stdout
        try:
            run.stdin.write("?")
            run.stdin.flush()
        except OSError:
            return None
        if not select.select([run.stdout], [], [], SERVED)[0]:
            raise AssertionError("the program inside does not answer")
        line = run.stdout.readline()
        if not line:
            return None
        state: dict[str, int] = json.loads(line)
        return state

    def _end(self, run: Run) -> dict[str, Any]:
        """The orderly end of a run: its last word."""
        assert run.stdin
        assert run.stdout
        everything = self._parts(run)
        run.stdin.close()
        lines = run.stdout.read().splitlines()
        if run.wait(60) != 0:
            self.tally.faults.append(f"an orderly end with {run.returncode}: {_errors(run)}")
        self._gone(everything, None, GONE)
        state: dict[str, Any] = json.loads(lines[-1])
        return state

    def _check(self, receipt: Path) -> None:
        """It is whole, or, where the disk was full, empty."""
        text = (self._ground.root / str(receipt)[1:]).read_text()
        with contextlib.suppress(ValueError):
            if not text or json.loads(text)["exit"] == 0:
                return
        self.tally.faults.append(f"{self._avne.mode}: a receipt that is not whole: {text[-200:]!r}")

    def _parts(self, run: Run) -> list[int]:
        return [*run.parts(), *(hired(self._ground) if self._ground.service else ())]

    def _gone(self, pids: list[int], act: Act | None, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while left := [pid for pid in pids if _lives(pid)]:
            if time.monotonic() > deadline:
                self._fault(act, f"still there after {seconds:.0f} s: {[_name(pid) for pid in left]}")
                return
            time.sleep(0.01)

    def _fault(self, act: Act | None, text: str) -> None:
        self.tally.faults.append(f"{self._avne.mode}: {act.name if act else 'the end'}: {text}")


def _errors(run: Run) -> str:
    return run.stderr.read().strip() if run.stderr else ""


def _memory(pid: int) -> int:
    """Resident, in pages."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1])


def _lives(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return str(pid)


def _sessions() -> set[str]:
    """Session directories that nobody holds."""
    patterns = [pattern.format(pid=os.getpid()) for pattern in DIRECTORIES]
    return {path for pattern in patterns for path in glob.glob(pattern) if not is_held(path)}
