# SPDX-License-Identifier: GPL-3.0-or-later
"""avne with so many workers, here and on another machine, side by side.

``python -m bench --workers 1,2,4,8``.  The other machine is the world's namespace, behind the veth pair: it
has a SOCKS5 server of its own there, and the run here has no worker but those.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from bench.lab import HOST_IP, SOCKS_IP, SOCKS_PORT, WORLD_IP, Lab
from bench.tools import Avne, Tool

METRICS = "throughput,connect"
_PORT = 740  # which no connection of the lab has for its own (ip_local_port_range)
_NAME = "bench-workers"
_PATIENCE = 30.0
# Begins when all have joined.
_WAIT = 'until [ -e "$0" ]; do sleep 0.05; done; exec "$@"'


def rows(counts: list[int]) -> list[Tool]:
    """Two for each number of workers."""
    return [
        row for count in counts for row in (Local(f"local {count}", count), Remote(f"remote {count}", count))
    ]


class Local(Avne):
    """On this machine: they open the connections, and the netstack moves the bytes."""

    def __init__(self, name: str, count: int) -> None:
        super().__init__(name)
        at = self.words.index("--share={tmp}")
        self.words[at:at] = ["--name", _NAME, "--workers", str(count)]


class Remote(Avne):
    """On the other one: the bytes go by ZeroMQ, encrypted."""

    def __init__(self, name: str, count: int) -> None:
        super().__init__(name)
        self._count = count
        self._avne = [*self.words[: self.words.index("run")]]
        at = self.words.index("--share={tmp}")
        self.words[at:at] = [
            "--name", _NAME, "--workers", "0", "--workers-at", f"tcp://{HOST_IP}:{_PORT}",
            "--workers-key", "{tmp}/run.key", "--workers-allowed", "{tmp}/allowed",
        ]  # fmt: skip

    @contextlib.contextmanager
    def environment(self, lab: Lab) -> Iterator[list[str]]:
        avne = [word.format(tmp=lab.tmp) for word in self._avne]
        public = self._key(avne, f"{lab.tmp}/run.key")
        lab.file("allowed", self._key(avne, f"{lab.tmp}/worker.key"))
        joined = lab.tmp / "joined"
        joined.unlink(missing_ok=True)
        worker = [
            *lab.world, *avne, "worker", "--connect", f"tcp://{HOST_IP}:{_PORT}",
            "--key", f"{lab.tmp}/worker.key", "--server-key", public, "--upstream", f"socks5://{SOCKS_IP}:{SOCKS_PORT}",
        ]  # fmt: skip
        relay = [*lab.world, str(lab.helper), "relay", SOCKS_IP, str(SOCKS_PORT), WORLD_IP]
        with contextlib.ExitStack() as stack:
            process = subprocess.Popen(relay, stdout=subprocess.PIPE, stderr=lab.log)
            lab.servers.append(process)  # the way that `Lab.relay_cpu` looks at
            stack.callback(lab.servers.remove, process)
            stack.callback(process.wait)
            stack.callback(process.kill)
            assert process.stdout
            stack.callback(process.stdout.close)
            process.stdout.readline()
            ended = threading.Event()
            thread = threading.Thread(target=self._join, args=(lab, avne, worker, joined, ended, stack))
            with super().environment(lab) as prefix:
                thread.start()
                try:
                    yield [*prefix, "sh", "-c", _WAIT, str(joined)]
                finally:
                    ended.set()
                    thread.join()

    @staticmethod
    def _key(avne: list[str], path: str) -> str:
        done = subprocess.run([*avne, "keys", path], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def _join(
        self, lab: Lab, avne: list[str], worker: list[str], joined: Any, ended: threading.Event,
        stack: contextlib.ExitStack,
    ) -> None:  # fmt: skip
        """Start the workers when the run listens, and say when all have joined."""
        until = time.monotonic() + _PATIENCE
        listed = -1
        while not ended.is_set() and time.monotonic() < until and listed < self._count:
            done = subprocess.run([*avne, "workers", "--json", _NAME], capture_output=True, text=True)
            if done.returncode == 0:
                if listed < 0:
                    for _ in range(self._count):
                        stack.enter_context(_running(worker, lab))
                listed = len(json.loads(done.stdout))
            ended.wait(0.05)
        if listed == self._count:
            joined.touch()
        else:
            print(f"bench: {listed} of {self._count} workers joined", file=sys.stderr)


@contextlib.contextmanager
def _running(argv: list[str], lab: Lab) -> Iterator[None]:
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=lab.log, stderr=lab.log)
    try:
        yield
    finally:
        process.kill()
        process.wait()
