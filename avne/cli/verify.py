# SPDX-License-Identifier: GPL-3.0-or-later
"""``avne verify``: does anything get out of an environment on this machine?

It starts an environment by ``avne run`` itself, with an upstream of its own that refuses everything,
runs the probes in it, and the same probes outside as their controls (avne/probes/).
"""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
from collections.abc import Sequence

from avne import __version__
from avne.cli.console import Console, colour
from avne.cli.target import named
from avne.config import load
from avne.errors import AvneError
from avne.probes.board import LIMIT, Verdict, count, good, judge, render
from avne.probes.probe import ABSENT, LEAKED, STOPPED, UNKNOWN, Finding, Probe
from avne.probes.probe import load as load_probes
from avne.probes.runner import Tries, control, not_here, not_in_session
from avne.probes.stage import Stage

# A resolver for what is not mapped: nobody's address, and the upstream refuses it anyway.
_RUN = ["run", "--quiet", "--workers", "1", "--resolver", "192.0.2.53:53", "--upstream"]


def verify(as_json: bool, options: Sequence[str] = (), session: str = "") -> int:
    """Run all probes and print the board; gives 0 when everything was stopped, else 1.

    `options` are further ones of ``avne run``, as --strict, whose environment is to be verified; or
    `session` names one that runs, for ``avne attach``.  What would go to that one's upstream, or has to be
    there before its start, is not tried.  Raises `AvneError` where there is no environment.
    """
    load()  # a bad setting is told at once
    console = Console(quiet=as_json)
    # Whoever hangs up on a listener of the stage must not end it; a reader of the board may (main.py).
    broken_pipe = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    if session and options:
        raise AvneError(
            f"{', '.join(options)} is for a new environment, and {session} is there already",
            "Leave it out, or leave --session out.",
        )
    if session and not session.isdigit():
        named(session)
    reasons = {name: _reason(probe, session) for name, probe in load_probes().items()}
    here = [probe for probe in load_probes().values() if not reasons[probe.name]]
    with Stage() as stage:
        tries = Tries(stage)
        try:
            console.progress(f"trying {len(here)} ways out, outside")
            outside = control(tries, here)
            console.progress(f"trying {len(here)} ways out, inside")
            run = ["attach", session] if session else [*_RUN, stage.upstream.url, *options]
            words = [sys.executable, "-I", "-m", "avne", *run, "--"]
            inside = tries.run(words, here)
        finally:
            console.progress("")
        asked = None if session else stage.upstream.asked
    signal.signal(signal.SIGPIPE, broken_pipe)
    verdicts = []
    for probe in load_probes().values():
        why = Finding(ABSENT, reasons[probe.name])
        verdicts.append(judge(probe, outside.get(probe.name, why), inside.get(probe.name, why)))
    if as_json:
        sys.stdout.write(_json(verdicts, tries.mode, asked, session))
    else:
        sys.stdout.write(render(verdicts, colour, _marks()))
        sys.stdout.write(_about(tries.mode, asked, session))
    return 0 if good(verdicts) else 1


def _reason(probe: Probe, session: str) -> str:
    """Why it is not tried; empty if it is."""
    return not_here(probe) or (not_in_session(probe) if session else "")


def _json(verdicts: list[Verdict], mode: str, asked: int | None, session: str) -> str:
    report = {
        "avne": __version__, "python": platform.python_version(), "kernel": os.uname().release, "mode": mode,
        "upstream_requests": asked, "session": session, "counts": count(verdicts), "good": good(verdicts),
        "probes": [verdict.as_dict() for verdict in verdicts],
    }  # fmt: skip
    return json.dumps(report, indent=2) + "\n"


def _about(mode: str, asked: int | None, session: str) -> str:
    """The upstream's own evidence: what was tried by TCP came there, and nowhere else."""
    here = f"avne {__version__}, {mode}, Linux {os.uname().release}"
    if asked is None:
        return f"{here}; the environment {session} by avne attach, and its upstream was not asked\n"
    return f"{here}; the upstream was asked {asked} times and refused\n"


def _marks() -> dict[str, str]:
    if "utf" in (sys.stdout.encoding or "").lower():
        return {STOPPED: "✓", LEAKED: "✗", UNKNOWN: "?", LIMIT: "!"}
    return {STOPPED: "ok  ", LEAKED: "LEAK", UNKNOWN: "?   ", LIMIT: "!   "}
