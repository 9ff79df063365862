# SPDX-License-Identifier: GPL-3.0-or-later
"""The load generator inside an environment: `pb agent`, asked over its pipes."""

from __future__ import annotations

import json
import select
import subprocess
import time
from typing import Any

from bench.lab import SOCKS_IP, SOCKS_PORT, Lab
from bench.processes import BenchError, cpu_seconds, stop
from bench.tools import Tool


class Agent:
    """One agent; `cpu` has the CPU seconds of the last request by role (tool, agent, servers)."""

    def __init__(self, lab: Lab, tool: Tool, prefix: list[str]) -> None:
        self.lab = lab
        self.cpu: dict[str, float] = {}
        self._buffer = b""
        self._process = subprocess.Popen(
            [*prefix, str(lab.helper), "agent"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=lab.log, bufsize=0,
        )  # fmt: skip
        assert self._process.stdin
        assert self._process.stdout
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        try:
            self._answer(10, "start")
            if tool.via_socks:
                self.ask(f"via {SOCKS_IP} {SOCKS_PORT}")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._stdin.close()
        try:
            self._process.wait(5)  # the tool may have its own clearing up to do
        except subprocess.TimeoutExpired:
            stop(self._process)
        self._stdout.close()

    def ask(self, request: str, patience: float = 30) -> dict[str, Any]:
        """The answer to one command (see pb/agent.c), waited for `patience` seconds."""
        before = self._cpu()
        self._stdin.write(request.encode() + b"\n")
        answer = self._answer(patience, request)
        after = self._cpu()
        self.cpu = {role: after[role] - before[role] for role in after}
        return answer

    def _cpu(self) -> dict[str, float]:
        return {role: sum(map(cpu_seconds, processes)) for role, processes in self.lab.roles().items()}

    def _answer(self, patience: float, request: str) -> dict[str, Any]:
        deadline = time.monotonic() + patience
        while True:
            line, newline, rest = self._buffer.partition(b"\n")
            if not newline:
                self._buffer += self._more(deadline, request)
                continue
            self._buffer = rest
            try:
                answer: dict[str, Any] = json.loads(line)
            except ValueError:
                continue  # something the tool printed
            return answer

    def _more(self, deadline: float, request: str) -> bytes:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([self._stdout], [], [], left)[0]:
            raise BenchError(f"no answer to {request!r}: {self.lab.log_tail()}")
        more: bytes = self._stdout.read(65536)
        if not more:
            raise BenchError(f"ended at {request!r}: {self.lab.log_tail()}")
        return more
