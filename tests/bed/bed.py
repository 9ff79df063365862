# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts a world from outside, in the host's namespaces, and talks to it.

    with Bed() as bed:          # 0.5 s: web, echo, DNS … and the SOCKS server
        bed.socks               # "socks5://unix:…"
        bed.start_tor()         # 15 s
        bed.tor                 # "tor://unix:…"

Needs root.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

from tests.bed import places
from tests.bed.tornet.control import Control
from tests.bed.tornet.network import REPOSITORY

BASE = Path("/run")  # the environment of avne hides it from programs
PREFIX = "avne-bed-"


class BedError(Exception):
    """The world could not be made, or could not do what it was asked."""


def git_repository(directory: Path) -> Path:
    """A small bare repository, served at /git/NAME; always with the same commit."""
    who = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in _WHO.items()}
    environment = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": "/dev/null", **who}

    def git(*arguments: str) -> None:
        subprocess.run(["git", *arguments], env=environment, check=True, capture_output=True)

    work, bare = directory / "work", directory / "hello.git"
    git("init", "-q", "-b", "main", str(work))
    (work / "README").write_text("hello from the test bed\n")
    (work / "large.bin").write_bytes(places.stream(3 << 20))
    git("-C", str(work), "add", ".")
    git("-C", str(work), "commit", "-q", "-m", "One")
    git("clone", "-q", "--bare", str(work), str(bare))
    shutil.rmtree(work)
    return bare


_WHO = {"NAME": "Test Bed", "EMAIL": "bed@test.example", "DATE": "2026-01-01T00:00:00Z"}


def remove_stale() -> None:
    """Directories of runs that were killed; their worlds ended with them."""
    for path in BASE.glob(f"{PREFIX}*"):
        if not Path("/proc", path.name.removeprefix(PREFIX).split("-")[0]).exists():
            shutil.rmtree(path, ignore_errors=True)


class Bed:
    """One world.  Commands to it are methods; each returns when it has been done."""

    def __init__(self) -> None:
        if os.geteuid() != 0:
            raise BedError("the test bed needs root: run `make test`, which uses sudo, or become root")
        if not os.path.exists("/dev/net/tun"):
            raise BedError(
                "this machine has no /dev/net/tun: run `modprobe tun`, or start the container "
                "with --device /dev/net/tun"
            )
        remove_stale()
        self.dir = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=BASE))
        self.dir.chmod(0o755)
        (self.dir / "sockets").mkdir(mode=0o755)
        (self.dir / "git").mkdir()
        self.network: dict[str, Any] = {}  # the Tor network's description, once it has been started
        self._log = open(self.dir / "world.log", "ab")  # noqa: SIM115
        git_repository(self.dir / "git")
        self._start()

    def _start(self) -> None:
        host = os.open("/proc/self/ns/net", os.O_RDONLY)
        namespaces = ["--net", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--"]
        world = [sys.executable, "-m", "tests.bed.world", str(self.dir), str(host)]
        self._process = subprocess.Popen(
            ["unshare", *namespaces, *world],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            pass_fds=(host,),
            cwd=REPOSITORY,
            start_new_session=True,
        )
        os.close(host)
        try:
            answer = self._read()
        except BaseException:
            self.close()
            raise
        self.socks = f"socks5://unix:{self.dir}/sockets/socks"
        self.socks_path = f"{self.dir}/sockets/socks"
        self.socks_auth_path = f"{self.dir}/sockets/socks-auth"
        self.http = f"http://unix:{self.dir}/sockets/http"
        self.socks4a = f"socks4a://unix:{self.dir}/sockets/socks4"
        self.socks_credentials: list[str] = answer["credentials"]
        self.socks_tcp = ("127.0.0.1", int(answer["port"]))
        self.tor = f"tor://unix:{self.dir}/sockets/tor"
        self.tor_path = f"{self.dir}/sockets/tor"
        self.tor_path_extended = f"{self.dir}/sockets/tor-ext"

    @property
    def pid(self) -> int:
        """The world's first process, as the host counts."""
        parent = self._process.pid
        return int(Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0])

    def inside(self, *command: str) -> list[str]:
        """The argument vector that runs a command in the world's namespaces."""
        return ["nsenter", "-t", str(self.pid), "-n", "-p", "-m", "--", *command]

    def _read(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            log = (self.dir / "world.log").read_text(errors="replace")
            raise BedError(f"the world has ended:\n{log[-3000:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise BedError(answer["error"])
        return answer["ok"]

    def ask(self, verb: str, **arguments: Any) -> Any:
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": verb, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
        return self._read()

    # ---- the SOCKS server -------------------------------------------------------------------

    def kill_socks(self) -> None:
        self.ask("kill_socks")

    def start_socks(self) -> None:
        self.ask("start_socks")

    def socks_counters(self) -> dict[str, int]:
        """Connections `open` and in `total`; bytes `up` and `down` of those that have ended."""
        counters: dict[str, int] = self.ask("count_socks")
        return counters

    # ---- the Tor network --------------------------------------------------------------------

    def start_tor(self, torrc: tuple[tuple[str, str], ...] = (), latency: float = 0.0) -> dict[str, Any]:
        """Until it carries traffic.  `torrc`: (role, line); `latency`: seconds on the client's links."""
        self.network = self.ask("start_tor", torrc=torrc, latency=latency)
        return self.network

    def act_on_tor(self, name: str, action: str) -> None:
        """kill, stop, start, restart or newnym of a node: client, onion, relay0 …, auth0 …"""
        self.network = self.ask("act_on_tor", name=name, action=action)

    @property
    def onion(self) -> str:
        """The onion service; its port 80 is the web server, its port 7 an echo."""
        return str(self.network["onion_hostname"])

    def control(self) -> Control:
        """The control port of the Tor client."""
        return Control(self.network["control_unix"], Path(self.network["control_cookie_file"]))

    def queries(self) -> list[dict[str, Any]]:
        """Every DNS query that reached the world, from the exits and from SOCKS, in order."""
        rows: list[dict[str, Any]] = []
        for path in (self.dir / "dns-queries.jsonl", self.dir / "tor" / "helper" / "queries.jsonl"):
            with contextlib.suppress(FileNotFoundError):
                rows += [json.loads(line) for line in path.read_text().splitlines()]
        return sorted(rows, key=lambda row: row["time"])

    # ---- the end ----------------------------------------------------------------------------

    def close(self) -> None:
        """End of file ends the world; its directory goes."""
        assert self._process.stdin
        assert self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()  # and the world with it: --kill-child
            self._process.wait()
        self._process.stdout.close()
        self._log.close()
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()
