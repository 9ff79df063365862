# SPDX-License-Identifier: GPL-3.0-or-later
"""The matrix of leaks: every probe in every kind of environment, and what left by the uplink meanwhile."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from typing import NamedTuple

from avne.probes.probe import ABSENT, LEAKED, STOPPED, Finding, Probe, load
from tests.bed import people
from tests.bed.installed import Installed
from tests.bed.people import Person
from tests.leaks.machine import FACTS, UNSHARE, Machine

HOST, HOST_ROOT, NETNS, USERNS = "host", "host, root", "netns (2015)", "unshare -Urn"
ROOTLESS, SETUID, ROOT, STRICT = "avne rootless", "avne setuid", "avne root", "avne --strict"
VETH = "avne, no tun"
AVNE = (ROOTLESS, SETUID, ROOT, STRICT, VETH)
ROWS = (HOST, HOST_ROOT, NETNS, USERNS, *AVNE)
CONTROL = {ROOT: HOST_ROOT}  # the control of every other row is HOST

# What cannot be made to leak on a machine that has not got it, and why the tests cannot make it.
UNSHOWN = {
    "sys-dmi": "needs a machine with a BIOS",
    "mount-servers": "needs a network file system",
    "network-mounts": "needs a network file system",
    "af-alg": "needs that module of the kernel loaded",
    "af-bluetooth": "needs that module of the kernel loaded",
    "af-xdp": "needs that module of the kernel loaded",
    "af-vsock": "needs that module of the kernel loaded",
    "af-high-bits": "needs that module of the kernel loaded",
    "socket-32": "needs that module of the kernel loaded",
    "dev-vsock": "needs that module of the kernel loaded",
    "cgroup-path": "needs a session with a cgroup of its own",
    "tiocsti": "needs a kernel that still allows it (dev.tty.legacy_tiocsti)",
    "tiocsti-high-bits": "needs a kernel that still allows it (dev.tty.legacy_tiocsti)",
    "tiocsti-32": "needs a kernel that still allows it, and 32-bit system calls",
    "socketcall-32": "needs a kernel with 32-bit system calls",
    "io-uring-32": "needs a kernel with 32-bit system calls",
    "io-uring": "needs a kernel that allows io_uring",
    "fd-io-uring": "needs a kernel that allows io_uring",
    "stdin-io-uring": "needs a kernel that allows io_uring",
    "nested-umount": "needs user namespaces for everybody",
    "nested-bind": "needs user namespaces for everybody",
}


class Row(NamedTuple):
    """One environment: what each probe found, and the packets on the uplink meanwhile."""

    findings: dict[str, Finding]
    packets: list[str]

    def count(self, kind: str) -> int:
        return sum(finding.kind == kind for finding in self.findings.values())

    def leaks(self) -> dict[str, str]:
        """What leaks that is not a documented hole."""
        return {name: how for name, how in self.named(LEAKED).items() if not load()[name].known}

    def named(self, kind: str) -> dict[str, str]:
        return {name: finding.how for name, finding in self.findings.items() if finding.kind == kind}


def run_words(installed: Installed, helper: str, *options: str) -> list[str]:
    """`avne run` with the stage's upstream, for `PROGRAM…`."""
    settings = ["--quiet", "--upstream", "{upstream}", "--resolver", "192.0.2.53:53", "--helper", helper]
    settings += options
    return [installed.avne, "run", *settings, "--"]


def row(machine: Machine, installed: Installed, name: str, only: Iterable[str] = ()) -> Row:
    """Run the probes in the environment of that name."""
    user = machine.user
    setuid = [UNSHARE, "-n", "-u", "--setgid", str(user.gid), "--setuid", str(user.uid), "--"]
    who: dict[str, tuple[Person, list[str]]] = {
        HOST: (user, []),
        HOST_ROOT: (people.ROOT, []),
        NETNS: (user, setuid),
        USERNS: (user, ["unshare", "-Urn", "--"]),
        ROOTLESS: (user, run_words(installed, "rootless")),
        SETUID: (user, run_words(installed, "setuid")),
        ROOT: (people.ROOT, run_words(installed, "auto")),
        STRICT: (user, run_words(installed, "rootless", "--strict")),
        VETH: (user, run_words(installed, "rootless")),
    }
    person, words = who[name]
    machine.close_tun(name == VETH)
    machine.packets()
    env = {"PROBE_FACTS": FACTS, "PROBE_ONLY": ",".join(only)}
    done = machine.run([installed.python, "-I", "-m", "avne.probes.runner", *words], person, env)
    assert done.returncode == 0, f"{name}: {done.stderr[-2000:]}"
    found = {probe: Finding(*words) for probe, words in json.loads(done.stdout).items()}
    return Row(found, machine.packets())


def matrix(machine: Machine, installed: Installed) -> dict[str, Row]:
    """All rows.  What is refused at the start is the same in the last two, and not tried again."""
    plain = [name for name, probe in load().items() if not probe.entrance]
    return {name: row(machine, installed, name, plain if name in (STRICT, VETH) else ()) for name in ROWS}


# ---- the table ------------------------------------------------------------------------------------

_WORDS = {LEAKED: "**leaks**", STOPPED: "stopped", ABSENT: "–"}


def table(rows: dict[str, Row]) -> str:
    """docs/leaks.md."""
    probes = load()
    lines = [
        "# The matrix of leaks",
        "",
        "<!-- Made by `make leaktest`. Do not edit. -->",
        "",
        f"{len(probes)} ways out, tried by the same code in {len(rows)} kinds of environment, on a machine",
        "of the test's own that is full of what a leak would find. The two columns of the host are the",
        "positive control: a probe that leaks in neither proves nothing.",
        f"Linux {os.uname().release}, {platform.machine()}.",
        "",
        f"| | {' | '.join(rows)} |",
        f"|---|{'---|' * len(rows)}",
        _sum("**leaks**", [str(row.count(LEAKED)) for row in rows.values()]),
        _sum("stopped", [str(row.count(STOPPED)) for row in rows.values()]),
        _sum("packets on the uplink", [str(len(row.packets)) for row in rows.values()]),
        "",
        "`netns (2015)`: a network and a uts namespace made by a setuid program, as avne 0.5 did.",
        "“–”: only root could tell, or this machine has nothing to try it on (see below).",
        "Where avne leaks it is the documented hole: before Linux 7.1 a unix socket that is made in sight",
        "while the program runs can be reached; `--strict` closes that, and in the home directory",
        "`--private-home` does.",
        "",
    ]
    for group in dict.fromkeys(probe.group for probe in probes.values()):
        lines += [
            f"## {group[0].upper()}{group[1:]}",
            "",
            f"| row | probe | tries | {' | '.join(rows)} | by |",
        ]
        lines.append(f"|---|---|---|{'---|' * len(rows)}---|")
        lines += [_line(probe, rows) for probe in probes.values() if probe.group == group]
        lines.append("")
    return "\n".join(lines + _unshown(rows)) + "\n"


def _sum(title: str, cells: list[str]) -> str:
    return f"| {title} | {' | '.join(cells)} |"


def _line(probe: Probe, rows: dict[str, Row]) -> str:
    cells = []
    by = ""
    for name, one in rows.items():
        finding = one.findings.get(probe.name)
        cells.append(_WORDS.get(finding.kind, finding.kind) if finding else "–")
        if finding and name in AVNE and finding.kind == STOPPED:
            by = by or finding.how
    return f"| {probe.row} | `{probe.name}` | {probe.sentence} | {' | '.join(cells)} | {by} |"


def _unshown(rows: dict[str, Row]) -> list[str]:
    names = unshown(rows)
    if not names:
        return []
    lines = ["## Not shown here", "", "These leak nowhere on the machine of this table:", ""]
    return lines + [f"* `{name}`: {UNSHOWN.get(name, 'no reason is known')}" for name in names]


def unshown(rows: dict[str, Row]) -> list[str]:
    """The probes whose control shows no leak."""
    hosts = [rows[HOST].findings, rows[HOST_ROOT].findings]
    return [
        name for name in load()
        if not any(name in host and host[name].kind == LEAKED for host in hosts)
    ]  # fmt: skip
