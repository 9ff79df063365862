# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel's counters of a network namespace, seen by one of the processes in it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from bench.lab import AGENT, Lab
from bench.processes import BenchError


class Counters(NamedTuple):
    """What should not have happened in a namespace since it was made."""

    drops: int  # packets of any device but loopback: those of a tun whose reader was slow are here
    timeouts: int  # TcpExt TCPTimeouts: a segment was sent again only when a timer ran out
    retransmits: int  # Tcp RetransSegs, of any cause

    def since(self, before: Counters) -> Counters:
        return Counters(*(now - then for now, then in zip(self, before, strict=True)))


def parse_devices(text: str) -> int:
    """``/proc/PID/net/dev`` → packets dropped by devices but lo, both ways (proc_pid_net(5))."""
    drops = 0
    for line in text.splitlines()[2:]:
        name, _, values = line.partition(":")
        if name.strip() != "lo":
            fields = values.split()
            drops += int(fields[3]) + int(fields[11])
    return drops


def parse_protocols(text: str) -> dict[str, int]:
    """``/proc/PID/net/snmp`` or ``netstat`` → values by ``Protocol.Name``; lines come in pairs."""
    lines = text.splitlines()
    values: dict[str, int] = {}
    for names, numbers in zip(lines[::2], lines[1::2], strict=True):
        protocol, _, rest = names.partition(":")
        for name, number in zip(rest.split(), numbers.partition(":")[2].split(), strict=True):
            values[f"{protocol}.{name}"] = int(number)
    return values


def read_counters(pid: int) -> Counters:
    """The counters of the namespace that the process `pid` is in."""
    net = Path(f"/proc/{pid}/net")
    return Counters(
        parse_devices((net / "dev").read_text()),
        parse_protocols((net / "netstat").read_text())["TcpExt.TCPTimeouts"],
        parse_protocols((net / "snmp").read_text())["Tcp.RetransSegs"],
    )


def inside(lab: Lab) -> Counters:
    """The counters of the namespace that the agent is in."""
    agents = lab.roles()["agent"]
    if len(agents) != 1:
        raise BenchError(f"{len(agents)} processes are called {AGENT}")
    return read_counters(agents[0].pid)
