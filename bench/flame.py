# SPDX-License-Identifier: GPL-3.0-or-later
"""Flame graphs of avne's netstack and worker under load, by py-spy (the extra ``bench``).

py-spy stops the process for each sample, so that the speeds meanwhile are no measurements.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from bench.agent import Agent
from bench.lab import DATA_PORT, ECHO_PORT, WORLD_IP, Lab
from bench.processes import BenchError, stop
from bench.tools import Tool

SECONDS = 6  # of samples
_LOAD_SECONDS = SECONDS + 4  # py-spy takes a moment to begin
_RATE = 200  # samples a second
_NEVER_ENDS = 64 << 30
# A process of avne by its name (prctl(2)) → what its picture is called.
_ROLES = {"netstack": re.compile(r"avne \[net\]"), "worker": re.compile(r"avne \[\w+ 1\]")}
LOADS = {
    "down": f"down {WORLD_IP} {DATA_PORT} {_NEVER_ENDS} 8",
    "up": f"up {WORLD_IP} {DATA_PORT} {_NEVER_ENDS} 8",
    "connect": f"connect {WORLD_IP} {ECHO_PORT} 1000000 8",
}


def py_spy() -> str:
    """The path of py-spy: that beside this Python, or else the path's."""
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if not found:
        raise SystemExit("bench: no py-spy: pip install 'avne[bench]'")
    return found


def record_flames(tool: Tool, directory: Path) -> list[Path]:
    """A picture of each role under each load, in `directory`: ``LOAD-ROLE.svg``."""
    program = py_spy()
    directory.mkdir(parents=True, exist_ok=True)
    pictures: list[Path] = []
    with Lab() as lab, tool.environment(lab) as prefix:
        agent = Agent(lab, tool, prefix)
        try:
            for load, request in LOADS.items():
                pids = processes_by_role({process.pid: process.name for process in lab.roles()["tool"]})
                paths = {role: directory / f"{load}-{role}.svg" for role in pids}
                _record_load(agent, request, [_argv(program, pids[role], paths[role]) for role in pids])
                pictures += paths.values()
        finally:
            agent.close()
    return pictures


def processes_by_role(names: dict[int, str]) -> dict[str, int]:
    """Names of processes by id → the id of each role.  `BenchError` if a role has not one."""
    roles = {}
    for role, name in _ROLES.items():
        pids = [pid for pid, found in names.items() if name.fullmatch(found)]
        if len(pids) != 1:
            raise BenchError(f"{len(pids)} processes are the {role}, among {sorted(names.values())}")
        roles[role] = pids[0]
    return roles


def _argv(program: str, pid: int, path: Path) -> list[str]:
    return [program, "record", "--pid", str(pid), "--duration", str(SECONDS), "--rate", str(_RATE),
            "--format", "flamegraph", "--function", "--output", str(path)]  # fmt: skip


def _record_load(agent: Agent, request: str, spies: list[list[str]]) -> None:
    running = [subprocess.Popen(argv, stdout=agent.lab.log, stderr=agent.lab.log) for argv in spies]
    try:
        answer = agent.ask(f"{request} {_LOAD_SECONDS * 1000}", _LOAD_SECONDS + 30)
        if answer["bad"]:
            raise BenchError(f"{request}: {answer['trouble']}")
        for process in running:
            if process.wait(30):
                raise BenchError(f"py-spy: {agent.lab.log_tail()}")
    finally:
        for process in running:
            stop(process)
    for argv in spies:
        _untitle(Path(argv[-1]), argv)


def _untitle(path: Path, argv: list[str]) -> None:
    """py-spy writes its command line above the graph: without the directories of this machine."""
    words = ["py-spy", *argv[1:-1], path.name]
    path.write_text(path.read_text().replace(" ".join(argv), " ".join(words)))
