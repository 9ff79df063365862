# SPDX-License-Identifier: GPL-3.0-or-later
"""``avne doctor --sandbox``: what avne's own processes may do, and the proof.

The policy is printed as the modules declare it.  The proof has two halves.  A real netstack and a real worker
are started as ``avne run`` starts them, and what the kernel says of them is read from outside, in ``/proc``.
And each call of a list (confine/trials.py) is made, in a child under the same filter.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from avne.cli.children import LINGER, Part
from avne.cli.doctor import report
from avne.cli.start import NETSTACK, WORKER, start
from avne.cli.workers import Worker
from avne.confine import rules
from avne.confine.calls import this_machine
from avne.confine.rules import Policy
from avne.confine.trials import ALLOWED, KILLED, attempt, trials
from avne.doctor import FAILS, OK, Line
from avne.errors import AvneError
from avne.netstack import confinement as netstack_confinement
from avne.paths import Session, open_session
from avne.upstream import confinement, worker
from avne.upstream.router import table
from avne.upstream.spec import UpstreamSpec

PATIENCE = 20.0  # seconds for a part to lock itself in
_NO_CAPABILITY = "0" * 16


class Facts(NamedTuple):
    """What the kernel says of a process, to anybody."""

    status: dict[str, str]
    interfaces: list[str]
    mounts: list[str]  # file systems
    owner: int  # of its files in /proc: root, where it is not dumpable


def show(as_json: bool) -> int:
    """Print policies and proofs; gives 0 when all hold, else 1."""
    if this_machine() is None:
        raise AvneError(
            f"avne has no table of system calls for {os.uname().machine}",
            "It has them for x86_64, aarch64 and riscv64.",
        )
    proxy = UpstreamSpec("tor", "/")
    policies = {
        "netstack": netstack_confinement.policy(router=False, captures=False),
        "worker": worker.policy(confinement.plan([proxy])),
        "netstack with workers elsewhere": netstack_confinement.policy(router=True, captures=False),
    }
    proofs = [*_proofs(), *(_trial_proof(name, policy) for name, policy in policies.items())]
    # It connects to another machine and to its proxy: some of the list is its work.
    policies["worker of a netstack elsewhere"] = worker.policy(confinement.plan([proxy], remote=True))
    if as_json:
        import json

        shown = {name: {"allowed": rules.lines(policy), "refused": [*policy.refused]}
                 for name, policy in policies.items()}  # fmt: skip
        found = {
            "policies": shown,
            "proofs": [{**proof._asdict(), "ok": proof.state == OK} for proof in proofs],
        }
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        for policy in policies.values():
            sys.stdout.write(_policy_text(policy))
        sys.stdout.write(report(proofs))
    return 0 if all(proof.state == OK for proof in proofs) else 1


def _policy_text(policy: Policy) -> str:
    rows = [f"{policy.name}: {len(policy.allowed)} system calls; any other kills the process\n"]
    line = " "
    for word in rules.lines(policy):
        if len(line) + len(word) > 100:
            rows.append(line + "\n")
            line = " "
        line += f" {word}"
    return "".join([*rows, line, f"\n  refused, with an error: {' '.join(sorted(policy.refused))}\n\n"])


# ---- the processes ----------------------------------------------------------------------------------


def _proofs() -> Iterator[Line]:
    """Of a netstack and a worker that are started for it."""
    session = open_session()
    with contextlib.ExitStack() as stack:
        stack.callback(session.close)
        netstack = stack.enter_context(_running(Part("the network process", "net", start(NETSTACK))))
        config = {
            "session": session.id,
            "dns": "truthful",
            "resolver": None,
            "workers": 1,
            "log_names": False,
        }
        netstack.control.send("config", config)
        yield _proof("netstack", netstack)
        path = stack.enter_context(_silent_proxy(session))
        spec = UpstreamSpec("tor", path)
        yield _proof(
            "worker",
            stack.enter_context(
                _running(Worker(start(WORKER), 1, 1, _routing(spec, session), netstack.control))
            ),
        )


def _routing(spec: UpstreamSpec, session: Session) -> dict[str, Any]:
    about = {"upstream": spec.label(), "session": session.id, "version": "", "open": [], "log_names": False}
    return {"rules": table([], spec).to_config(), "resolver": None, "about": about}


@contextlib.contextmanager
def _running(part: Part) -> Iterator[Part]:
    try:
        yield part
    finally:
        part.close()
        part.reap(LINGER)


@contextlib.contextmanager
def _silent_proxy(session: Session) -> Iterator[str]:
    """The path of a unix socket where the worker waits for an answer, and meanwhile is looked at."""
    path = session.socket("proxy")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        os.chmod(path, 0o666)
        listener.listen(1)
        yield path


def _proof(name: str, part: Part) -> Line:
    """What is said of it once it says that it is confined."""
    said = _confined(part)
    if said is None:
        words = f": {part.last_words}" if part.last_words else ""
        return Line(name, FAILS, f"did not lock itself in{words}", "Please report it.")
    facts = look_at(part.pid)
    wrong = faults(facts, bool(said["namespaces"]), bool(said["empty_root"]))
    if wrong:
        return Line(name, FAILS, "; ".join(wrong), "Please report it.")
    uid = facts.status["Uid"].split()[0]
    space = "network: none but lo" if said["namespaces"] else "no namespaces, which users may not make here"
    files = "files: none but a read-only tmpfs" if said["empty_root"] else "the files are in sight of it"
    landlock = f"Landlock {said['landlock']}" if said["landlock"] else "no Landlock"
    detail = f"uid {uid}, {said['calls']} system calls, no capability, no new privileges, not traceable; "
    return Line(name, OK, f"{detail}{space}; {files}; {landlock}", "")


def _confined(part: Part) -> dict[str, Any] | None:
    """The fields of its message; None where it ends or is late."""
    until = time.monotonic() + PATIENCE
    while (left := until - time.monotonic()) > 0:
        select.select([part.control], [], [], left)
        while (received := part.control.receive()) is not None:
            match received[0]:
                case ["log", _, "confined", dict(fields)]:
                    return fields
                case []:
                    part.lines()
                    return None
    return None


def look_at(pid: int) -> Facts:
    """Raises OSError when it is gone."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    with open(f"/proc/{pid}/net/dev", encoding="utf-8") as file:
        interfaces = [line.split(":")[0].strip() for line in file if ":" in line]
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8") as file:
        mounts = [line.partition(" - ")[2].split()[0] for line in file]
    return Facts(status, interfaces, mounts, os.stat(f"/proc/{pid}/status").st_uid)


def faults(facts: Facts, namespaces: bool, empty_root: bool) -> list[str]:
    """What is not as it must be."""
    status = facts.status
    uid = int(status["Uid"].split()[0])
    wrong = []
    if status["Seccomp"] != "2":
        wrong.append("no filter is in force")
    if status["NoNewPrivs"] != "1":
        wrong.append("it could gain privileges")
    held = [name for name in ("CapInh", "CapPrm", "CapEff", "CapAmb") if status[name] != _NO_CAPABILITY]
    if held:
        wrong.append(f"it has capabilities ({' '.join(held)})")
    if uid == 0 or (facts.owner == uid and uid == os.geteuid()):
        wrong.append("it is root" if uid == 0 else "it can be traced")
    if namespaces and facts.interfaces != ["lo"]:
        wrong.append(f"it has a network: {' '.join(facts.interfaces)}")
    if empty_root and set(facts.mounts) - {"tmpfs", "proc"}:
        wrong.append(f"it sees files: {' '.join(facts.mounts)}")
    return wrong


# ---- the calls --------------------------------------------------------------------------------------


def _trial_proof(name: str, policy: Policy) -> Line:
    """All of the list, under the policy."""
    accepts = "accept4" in policy.allowed  # what ZeroMQ does at the listening socket that it was given
    found = {
        trial.what: attempt(policy, trial) for trial in trials() if not (accepts and trial.name == "accept4")
    }
    went = [what for what, how in found.items() if how == ALLOWED]
    killed = sum(how == KILLED for how in found.values())
    if went:
        return Line(f"calls of the {name}", FAILS, f"allowed: {', '.join(went)}", "Please report it.")
    rest = len(found) - killed
    return Line(f"calls of the {name}", OK, f"{len(found)} tried: {killed} killed, {rest} refused", "")
