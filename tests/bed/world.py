# SPDX-License-Identifier: GPL-3.0-or-later
"""The first process of the world: makes its network, starts what lives there, and obeys.

Started by `bed.py` in fresh network, pid and mount namespaces as ``python -m tests.bed.world DIR NETNS``
(NETNS: a descriptor of the host's network namespace).  It reads commands from standard input, an object
of JSON a line, and answers each with a line: ``{"ok": …}`` or ``{"error": "…"}``.  At end of file it ends,
and with it, as it is pid 1 here, everything in the world.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bed import places
from tests.bed.namespaces import open_tun
from tests.bed.tornet import lifecycle
from tests.bed.tornet.network import DEFAULT_OPTIONS, REPOSITORY, Network
from tests.bed.tornet.processes import TornetError, find_program
from tests.bed.tornet.report import describe, failure_report, status

SOCKS_CREDENTIALS = ["user", "secret word"]

NETWORK = f"""
link set lo up
link set nobody up
addr add {places.V4}/32 dev lo
addr add {places.V6}/128 dev lo nodad
route add 198.51.100.66 dev nobody
route add 2001:db8::66 dev nobody
route add unreachable 198.51.100.67
route add unreachable 2001:db8::67
route add prohibit 198.51.100.69
route add prohibit 2001:db8::69
route change table local local 127.0.0.1 dev lo proto kernel scope host src 127.0.0.1 quickack 1
"""


def make_network() -> int:
    """Addresses and routes; gives the tun that nobody reads, so that what goes there is lost."""
    tun = open_tun("nobody")
    for line in NETWORK.strip().splitlines():
        family = "-6" if "2001:" in line else "-4"
        subprocess.run([find_program("ip"), family, *line.split()], check=True)
    return tun


def start(module: str, *arguments: str, fds: tuple[int, ...] = ()) -> subprocess.Popen[str]:
    """One of our processes that talks in lines over its standard input and output."""
    return subprocess.Popen(
        [sys.executable, "-m", f"tests.bed.{module}", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        cwd=REPOSITORY,
        pass_fds=fds,
    )


class World:
    def __init__(self, directory: Path, host_network: int) -> None:
        self.dir = directory
        self._host_network = host_network
        self._tor: Network | None = None
        self._socks: subprocess.Popen[str] | None = None
        self._port = 0
        self._tun = make_network()
        self._servers = start("servers", str(directory))
        assert self._servers.stdout
        self._servers.stdout.readline()
        self.start_socks()

    # ---- the SOCKS server -------------------------------------------------------------------

    def start_socks(self) -> dict[str, Any]:
        """Start the SOCKS server, after the first time at the same port; where it listens."""
        sockets = self.dir / "sockets"
        listens = {"path": str(sockets / "socks"), "path_auth": str(sockets / "socks-auth")}
        settings = {**listens, "port": self._port, "credentials": SOCKS_CREDENTIALS, "timeout": 2.0}
        config = self.dir / "socks.json"
        config.write_text(json.dumps(settings))
        host = self._host_network
        self._socks = start("socks", str(config), str(host), fds=(host,))
        assert self._socks.stdout
        self._port = json.loads(self._socks.stdout.readline())["port"]
        return {**listens, "port": self._port, "credentials": SOCKS_CREDENTIALS}

    def kill_socks(self) -> None:
        assert self._socks
        self._socks.kill()
        self._socks.wait()

    def count_socks(self) -> dict[str, int]:
        assert self._socks
        assert self._socks.stdin
        assert self._socks.stdout
        self._socks.stdin.write("\n")
        counters: dict[str, int] = json.loads(self._socks.stdout.readline())
        return counters

    # ---- the Tor network --------------------------------------------------------------------

    def start_tor(self, torrc: list[list[str]], latency: float) -> dict[str, Any]:
        options = {
            **DEFAULT_OPTIONS,
            "onion_services": [[places.WEB, places.WEB]],
            "hosts": places.FAILING,
            "addresses": [places.V4, places.V6],
            "own_addresses": False,  # the world has them
            "unconfined": True,  # the world itself confines
            "sockets": str(self.dir / "sockets"),
            "torrc": torrc,
            "latency": latency,
        }
        self._tor = lifecycle.bring_up(options, self.dir / "tor", lifecycle.deadline_in(120))
        return describe(self._tor)

    def act_on_tor(self, name: str, action: str) -> dict[str, Any]:
        """One of lifecycle.ACTIONS on one node."""
        assert self._tor
        lifecycle.act(self._tor, name, action, lifecycle.deadline_in(60))
        return describe(self._tor)

    def tor_status(self) -> dict[str, Any]:
        assert self._tor
        return {**status(self._tor), "warnings": failure_report(self._tor)}

    def obey(self, verb: str, arguments: dict[str, Any]) -> Any:
        verbs: dict[str, Callable[..., Any]] = {
            "start_socks": self.start_socks,
            "kill_socks": self.kill_socks,
            "count_socks": self.count_socks,
            "start_tor": self.start_tor,
            "act_on_tor": self.act_on_tor,
            "tor_status": self.tor_status,
        }
        return verbs[verb](**arguments)

    def serve(self) -> None:
        self._answer({"ok": {"port": self._port, "credentials": SOCKS_CREDENTIALS}})
        for line in sys.stdin:
            command = json.loads(line)
            try:
                self._answer({"ok": self.obey(command.pop("do"), command)})
            except TornetError as error:
                self._answer({"error": str(error)})

    @staticmethod
    def _answer(value: dict[str, Any]) -> None:
        print(json.dumps(value), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's ^C is for the test run
    os.umask(0o022)
    World(Path(sys.argv[1]), int(sys.argv[2])).serve()
