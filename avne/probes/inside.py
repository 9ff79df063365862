# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs in the environment, and outside as its control: ``python -I -m avne.probes.inside``.

    standard input    one line of JSON: the facts, and the names of the probes to try; later lines end
                      the waiting of those that come late
    standard output   ``["ready", UID_MAP]``, then ``["late"]`` once the early ones are through, then a line
                      ``[NAME, KIND, HOW, ERRNO]`` for each probe, ``["watch"]`` before one that is
                      watched from outside, and ``["done"]``

With arguments NAME FACTS it tries that one only, and says nothing: its standard streams are the way out.
Each attempt has a process of its own: one that is killed, or changes its namespaces, harms no other.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from typing import Any

from avne.probes import packets
from avne.probes.probe import ABSENT, STOPPED, UNKNOWN, Absent, Finding, Plan, Probe, load, stopped

BOUND = 5.0  # s for one attempt


def token(run: str, name: str) -> str:
    """What a probe of a run says of itself; less than 64 bytes."""
    return f"avne-{run}-{name}."


def attempt(probe: Probe, plan: Plan) -> Finding:
    """Try it here."""
    try:
        return probe.attempt(plan)
    except Absent as absent:
        return Finding(ABSENT, str(absent))
    except OSError as error:
        return stopped(error)
    except Exception as error:
        return Finding(UNKNOWN, f"{type(error).__name__}: {error}")


def attempt_apart(probe: Probe, facts: dict[str, Any]) -> Finding:
    """Try it in a process of its own."""
    plan = Plan(facts, token(facts["run"], probe.name))
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(theirs, json.dumps(attempt(probe, plan)).encode())
        finally:
            os._exit(0)
    os.close(theirs)
    try:
        ready, _, _ = select.select([ours], [], [], BOUND)
        if not ready:
            os.kill(pid, signal.SIGKILL)
        data = os.read(ours, 65536) if ready else b""
    finally:
        os.close(ours)
        _, status = os.waitpid(pid, 0)
    if data:
        return Finding(*json.loads(data))
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGSYS:
        return Finding(STOPPED, "killed by the filter")
    if code == -signal.SIGSEGV:
        return Finding(ABSENT, "this kernel has no such calls")
    return Finding(UNKNOWN, "no answer in time" if code == -signal.SIGKILL else f"ended with {code}")


def _say(*words: Any) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


def _one(name: str, facts: str) -> None:
    given = json.loads(facts)
    attempt(load()[name], Plan(given, token(given["run"], name)))


def main() -> None:
    if len(sys.argv) > 2:
        _one(sys.argv[1], sys.argv[2])
        return
    counts = packets.sent_by()
    line = sys.stdin.readline()
    request = json.loads(line)
    facts = {**request["facts"], "sent_at_start": counts}
    probes = [load()[name] for name in request["probes"]]
    with open("/proc/self/uid_map") as file:
        _say("ready", file.read().split())
    for late in (False, True):
        if late:
            _say("late")
            sys.stdin.readline()
        for probe in probes:
            if probe.late is late:
                if probe.watched:
                    _say("watch")
                _say(probe.name, *attempt_apart(probe, facts))
    _say("done")


if __name__ == "__main__":
    main()
