# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the probes on a stage: `Tries.run` with the words that make an environment, or without.

``python -I -m avne.probes.runner WORD…`` does so for the environment of those words, and prints the
findings as JSON: one row of the matrix that the tests make.  PROBE_FACTS has what only the
tests can know, as JSON; PROBE_ONLY the names of the probes to try, where not all;
``{upstream}`` in a word stands for the stage's own upstream.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

from avne.errors import AvneError
from avne.probes import model, traces
from avne.probes.probe import ABSENT, LEAKED, SENT, STOPPED, UNKNOWN, Finding, Probe, load
from avne.probes.stage import Stage
from avne.probes.started import Run

INSIDE: Final = [sys.executable, "-I", "-m", "avne.probes.inside"]
MODEL: Final = [sys.executable, "-I", "-m", "avne.probes.model"]
BOUND = 120.0  # s for one run
_HEARING = 0.3  # s for what is on its way
# A directory is moved out of the way of Python, which takes none as its input.
_MOVE: Final = ["/bin/sh", "-c", 'exec "$@" 9<&0 </dev/null', "sh"]
_ORPHAN = "orphan"
_DEFERRED, _NAMESPACE, _DIAL = "deferred", "namespace-left", "direct-dial"
_UNHEARD: Final = Finding(STOPPED, "not heard")


class Tries:
    """Findings of runs on one stage."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.mode = ""  # of the environment that was run last

    def run(
        self, words: Sequence[str], probes: Iterable[Probe], overlay: dict[str, Any] | None = None
    ) -> dict[str, Finding]:
        """What the probes find when INSIDE is started with `words` before it.

        Raises `AvneError` where it cannot be started.
        """
        probes = list(probes)
        plain = [probe for probe in probes if not probe.entrance]
        found = self._run_plain(words, plain, overlay or {}) if plain else {}
        found |= self._run_entrances(words, [probe for probe in probes if probe.entrance])
        return {probe.name: found[probe.name] for probe in probes}

    def _run_plain(
        self, words: Sequence[str], probes: list[Probe], overlay: dict[str, Any]
    ) -> dict[str, Finding]:
        stage = self._stage
        run_id = os.urandom(6).hex()
        facts = {**stage.facts, **overlay, "run": run_id}
        orphan = stage.place("home", _ORPHAN)
        open(orphan, "w").close()
        stage.signalled()
        stdin, to = os.pipe2(os.O_CLOEXEC)
        out, stdout = os.pipe2(os.O_CLOEXEC)
        with contextlib.chdir(stage.directories["cwd"]):
            run = Run(stage, [*words, *INSIDE], {0: stdin, 1: stdout})
        os.close(stdin)
        os.close(stdout)
        os.write(to, (json.dumps({"facts": facts, "probes": [p.name for p in probes]}) + "\n").encode())
        try:
            found = self._converse(run, out, to)
            if not found.pop("done", None):
                found = {}
            typed = run.typed()
        finally:
            os.close(to)
            os.close(out)
            code = run.end(20)
            stage.change_back()
            run.close()
        if not found:
            raise _no_start(words, code, run.said)
        self._listen_on(run_id, typed, orphan, found)
        self._look_for_traces(run_id, found)
        heard = {name for run_of, name in stage.ears.heard if run_of == run_id}
        return {p.name: self._judge(p, found.get(p.name), p.name in heard) for p in probes}

    def _converse(self, run: Run, out: int, to: int) -> dict[str, Any]:
        """Hear the findings; change the stage when the early ones are there."""
        found: dict[str, Any] = {}
        rest = b""
        until = time.monotonic() + BOUND
        signals: dict[str, bool] = {}
        watching = False
        dials: list[int] = []
        closed: list[int] = []
        while "done" not in found and time.monotonic() < until:
            run.listen()
            if watching and not dials:
                dials, closed = traces.host_sockets(run.pid)
            if not select.select([out], [], [], 0.05)[0]:
                continue
            data = os.read(out, 65536)
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                name, *words = json.loads(line)
                if name == "late":
                    self._stage.change()
                    os.write(to, b"\n")
                elif name == "watch":
                    watching = True
                elif name == "done":
                    found["done"] = True
                elif name == "ready":
                    self.mode = _mode(words[0])
                else:
                    found[name] = Finding(*words)
                    watching = False
                    if name in ("fd-pidfd", "signal-process"):
                        signals[name] = self._was_signalled(found[name])
        if found.get(_DIAL, _UNHEARD).kind == SENT:
            found[_DIAL] = _dialled(dials, closed)
        for name, came in signals.items():
            found[name] = Finding(LEAKED, "the signal came") if came else found[name]
        return found

    def _was_signalled(self, finding: Finding) -> bool:
        until = time.monotonic() + (_HEARING if finding.kind == SENT else 0)
        while not (came := self._stage.signalled()) and time.monotonic() < until:
            time.sleep(0.01)
        return came

    def _listen_on(self, run: str, typed: bytes, orphan: str, found: dict[str, Any]) -> None:
        """What is heard after the end of the program."""
        ears = self._stage.ears
        for name in found:
            if f"avne-{run}-{name}.".encode() in typed:
                ears.note(run, name)
        open(f"{orphan}-over", "w").close()
        until = time.monotonic() + _HEARING
        while time.monotonic() < until:
            time.sleep(0.02)
            with open(orphan, "rb") as file:
                if f"avne-{run}-{_ORPHAN}.".encode() in file.read():
                    ears.note(run, _ORPHAN)
                    break
        os.unlink(f"{orphan}-over")
        os.unlink(orphan)

    def _look_for_traces(self, run: str, found: dict[str, Any]) -> None:
        """What there is still of the run, and what it has left for others."""
        ears, path = self._stage.ears, self._stage.place("home", _DEFERRED)
        with contextlib.suppress(FileNotFoundError):
            with open(path) as file:
                if f"avne-{run}-{_DEFERRED}." in file.read():
                    ears.note(run, _DEFERRED)
            os.unlink(path)
        left = found.get(_NAMESPACE)
        if left and left.kind == SENT and traces.namespace_users(int(left.how)):
            ears.note(run, _NAMESPACE)

    @staticmethod
    def _judge(probe: Probe, finding: Finding | None, heard: bool) -> Finding:
        if finding is None:
            return Finding(UNKNOWN, "no answer")
        if not probe.ear or finding.kind == LEAKED:
            return finding
        if heard:
            return Finding(LEAKED, "heard outside")
        return _UNHEARD if finding.kind == SENT else finding

    def _run_entrances(self, words: Sequence[str], probes: list[Probe]) -> dict[str, Finding]:
        """Each is a start of its own; they run at the same time."""
        stage = self._stage
        run_id = os.urandom(6).hex()
        facts = json.dumps(
            {**{name: stage.facts.get(name) for name in ("directories", "ring")}, "run": run_id}
        )
        found: dict[str, Finding] = {}
        with contextlib.ExitStack() as stack:
            null = os.open(os.devnull, os.O_RDWR)
            stack.callback(os.close, null)
            runs: dict[str, Run] = {}
            for probe in probes:
                if probe.entrance.endswith("ring") and not stage.facts.get("ring"):
                    found[probe.name] = Finding(ABSENT, "no io_uring on this machine")
                    continue
                number, fd = stage.entrance(probe.entrance, stack)
                shell = _MOVE if probe.entrance.endswith("directory") else []
                argv = [*words, *shell, *INSIDE, probe.name, facts]
                runs[probe.name] = Run(stage, argv, {0: null, 1: null, number: fd})
                stack.callback(runs[probe.name].close)
            codes = {name: run.end(20) for name, run in runs.items()}
            time.sleep(_HEARING if runs else 0)
        for name, code in codes.items():
            if (run_id, name) in stage.ears.heard:
                found[name] = Finding(LEAKED, "heard outside")
            else:
                found[name] = Finding(STOPPED, "refused at the start" if code == 125 else "not heard")
        return found


def _dialled(dials: list[int], closed: list[int]) -> Finding:
    """`dials`: processes of the run with a socket of the host's network; `closed`: those not to be seen."""
    if dials:
        return Finding(LEAKED, f"{len(dials)} processes have sockets of the host's network")
    if closed:
        return Finding(ABSENT, "only root may look into these processes")
    return Finding(STOPPED, "none has a socket of the host's network")


def _mode(uid_map: list[str]) -> str:
    """How the environment was made, by its user namespace."""
    if os.getuid() == 0:
        return "root"
    return "rootless" if uid_map[-1:] == ["1"] else "setuid"


def _no_start(words: Sequence[str], code: int, said: bytes) -> AvneError:
    text = said.decode(errors="replace").strip().replace("\r\n", "\n")
    return AvneError(f"the environment did not come up (exit code {code}): {text}", "Look at: avne doctor")


def not_here(probe: Probe) -> str:
    """Why this user cannot try the probe; empty if they can."""
    return "shows a leak to root only" if probe.root and os.getuid() else ""


def not_in_session(probe: Probe) -> str:
    """Why the probe cannot be tried in an environment that runs already; empty if it can."""
    if probe.packets or probe.name in ("host-address", _DIAL):
        return "would be asked of the environment's own upstream"
    if probe.name in _BEFORE:
        return "what was there before the start is hidden at the start, and this is there since then"
    return probe.start


_BEFORE: Final = (
    "unix-home",
    "unix-home-dgram",
    "unix-home-seqpacket",
    "unix-home-renamed",
    "unix-home-rights",
)


def control(tries: Tries, probes: Iterable[Probe]) -> dict[str, Finding]:
    """The same attempts outside; those that send packets, in the model of a network."""
    probes = list(probes)
    found = tries.run([], [p for p in probes if not p.packets])
    sending = [p for p in probes if p.packets]
    if not sending:
        return found
    overlay = {"interfaces": [model.UPLINK], "addresses": [model.V4]}
    try:
        found |= tries.run(MODEL, sending, overlay)
    except AvneError:
        why = Finding(ABSENT, "a control needs user namespaces, or root")
        found |= {probe.name: why for probe in sending}
    return found


def main() -> None:
    words = sys.argv[1:]
    only = [name for name in os.environ.get("PROBE_ONLY", "").split(",") if name]
    probes = [p for p in load().values() if not not_here(p) and (not only or p.name in only)]
    with Stage() as stage:
        stage.facts.update(json.loads(os.environ.get("PROBE_FACTS", "{}")))
        words = [word.replace("{upstream}", stage.upstream.url) for word in words]
        try:
            found = Tries(stage).run(words, probes)
        except AvneError as error:
            sys.exit(f"{error.problem}\n{error.cure}")
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
