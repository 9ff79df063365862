# SPDX-License-Identifier: GPL-3.0-or-later
"""The measured world: the host and world namespaces, their servers, and what tools need of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from bench.processes import BenchError, Process, command, cpu_seconds, descendants, end_strays, stop

WORLD_IP, HOST_IP, LINK_BITS = "10.66.0.1", "10.66.0.2", 24
GATEWAY_IP = "10.66.0.254"  # the world's too; pasta takes a gateway for the host
SOCKS_IP, SOCKS_PORT = "127.0.0.1", 1080
DATA_PORT, ECHO_PORT = 7001, 7002
AGENT = "pb-agent"  # what the agent calls its process

_HOST_NS, _WORLD_NS, _ENV_NS = "host", "world", "environment"  # no one else sees our /run/netns
_PRIVATE_MARK = "BENCH_PRIVATE_MOUNTS"
_TUN = os.makedev(10, 200)


def in_private_mounts() -> None:
    """Go on in a mount namespace of our own, as root."""
    if os.environ.pop(_PRIVATE_MARK, None):
        return
    if os.geteuid():
        raise SystemExit("bench: it needs root")
    os.environ[_PRIVATE_MARK] = "1"
    argv = ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", "bench", *sys.argv[1:]]
    os.execvp(argv[0], argv)


class Lab:
    """The two namespaces with their servers; a context manager."""

    def __init__(self) -> None:
        self.tmp = Path(tempfile.mkdtemp(prefix="avne-bench-"))
        self.tmp.chmod(0o755)  # some tools drop to an unprivileged user
        self.helper = self.tmp / "pb"
        self.servers: list[subprocess.Popen[bytes]] = []
        self.log = (self.tmp / "log").open("w+")
        self.host_ns = _HOST_NS

    def __enter__(self) -> Self:
        try:
            self._private_files()
            self._build_helper()
            self._make_world()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for server in self.servers:
            stop(server)
        end_strays(set())
        self.log.close()
        shutil.rmtree(self.tmp, ignore_errors=True)

    def _private_files(self) -> None:
        """In our mount namespace: the world's resolver, a tun that all may open, our namespaces."""
        resolv = self.tmp / "resolv.conf"
        resolv.write_text(f"nameserver {WORLD_IP}\n")
        tun = self.tmp / "tun"
        os.mknod(tun, stat.S_IFCHR | 0o666, _TUN)
        tun.chmod(0o666)
        for ours, theirs in ((resolv, "/etc/resolv.conf"), (tun, "/dev/net/tun")):
            command("mount", "--bind", ours, theirs)
        Path("/run/netns").mkdir(exist_ok=True)
        command("mount", "-t", "tmpfs", "tmpfs", "/run/netns")

    def _build_helper(self) -> None:
        ports = (f"-DDATA_PORT={DATA_PORT}", f"-DECHO_PORT={ECHO_PORT}")
        sources = sorted((Path(__file__).parent / "pb").glob("*.c"))
        command("cc", "-O2", "-Wall", "-Wextra", "-pthread", *ports, "-o", self.helper, *sources)

    def _make_world(self) -> None:
        for name in (_HOST_NS, _WORLD_NS):
            command("ip", "netns", "add", name)
            # Ports for tens of thousands of connections; and the one congestion control that
            # any namespace may choose (the default paces, on some machines), which loses
            # nothing here, as no packet is lost.
            self.shell(
                name,
                "ip link set lo up; cd /proc/sys/net/ipv4;"
                " echo 1024 65535 >ip_local_port_range; echo 1 >tcp_tw_reuse;"
                " echo reno >tcp_congestion_control; echo 0 >ip_forward",
            )
        self.ip(
            _HOST_NS,
            f"link add up0 type veth peer name up0 netns {_WORLD_NS}",
            f"addr add {HOST_IP}/{LINK_BITS} dev up0",
            "link set up0 up",
        )
        self.ip(
            _WORLD_NS,
            f"addr add {WORLD_IP}/{LINK_BITS} dev up0",
            f"addr add {GATEWAY_IP}/{LINK_BITS} dev up0",
            "link set up0 up",
        )
        # pasta copies the addresses of the interface with the default route
        self.ip(_HOST_NS, f"route add default via {GATEWAY_IP}")
        self._server(self.world, "serve", WORLD_IP)
        self._server(self.host, "relay", SOCKS_IP, str(SOCKS_PORT), WORLD_IP)

    def _server(self, prefix: list[str], *args: str) -> None:
        server = subprocess.Popen([*prefix, str(self.helper), *args], stdout=subprocess.PIPE, stderr=self.log)
        self.servers.append(server)
        assert server.stdout
        if server.stdout.readline() != b"ready\n":
            raise BenchError(f"pb {args[0]} did not start: {self.log_tail()}")

    # What tools use:

    @property
    def host(self) -> list[str]:
        """What to put before a command to run it where the tools run."""
        return self.inside(_HOST_NS)

    @property
    def world(self) -> list[str]:
        return self.inside(_WORLD_NS)

    @staticmethod
    def inside(namespace: str) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{namespace}", "--"]

    def shell(self, namespace: str, script: str) -> None:
        command(*self.inside(namespace), "sh", "-ec", script)

    @staticmethod
    def ip(namespace: str, *lines: str) -> None:
        """ip(8) commands in a namespace."""
        command("ip", "-n", namespace, "-batch", "-", stdin="\n".join(lines) + "\n")

    @contextlib.contextmanager
    def empty_namespace(self) -> Iterator[str]:
        """A namespace with no more than its loopback, for one environment."""
        command("ip", "netns", "add", _ENV_NS)
        try:
            self.ip(_ENV_NS, "link set lo up")
            yield _ENV_NS
        finally:
            command("ip", "netns", "del", _ENV_NS)

    @contextlib.contextmanager
    def daemon(self, argv: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
        """A process of the tool in the host namespace; `options` are Popen's."""
        process = subprocess.Popen(
            [*self.host, *argv], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, **options
        )
        try:
            yield process
        finally:
            stop(process)

    def wait_for(self, what: str, ready: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
        """Ask `ready` until it is so; others' daemons say nothing that we could wait for."""
        deadline = time.monotonic() + 5
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchError(f"no {what}: {self.log_tail()}")
            time.sleep(0.001)

    def file(self, name: str, text: str) -> str:
        path = self.tmp / name
        path.write_text(text)
        return str(path)

    def log_tail(self) -> str:
        return Path(self.log.name).read_text(errors="replace")[-400:].strip()

    # What the measurements use:

    def roles(self) -> dict[str, list[Process]]:
        """Our processes by what they are to the measurement."""
        servers = {server.pid for server in self.servers}
        found: dict[str, list[Process]] = {"tool": [], "agent": [], "servers": []}
        for process in descendants(os.getpid()):
            if process.pid in servers:
                found["servers"].append(process)
            elif process.name == AGENT:
                found["agent"].append(process)
            else:
                found["tool"].append(process)
        return found

    def relay_cpu(self) -> float:
        """The CPU time of the SOCKS5 server, which tells if anything went through it."""
        return cpu_seconds(Process(self.servers[-1].pid, 0, "", 0))
