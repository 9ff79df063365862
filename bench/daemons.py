# SPDX-License-Identifier: GPL-3.0-or-later
"""The tools that are a daemon beside a network namespace."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import shutil
import subprocess
from collections.abc import Iterator

from bench.lab import SOCKS_IP, SOCKS_PORT, Lab
from bench.processes import command
from bench.tools import Tool


class Slirp4netns(Tool):
    """It opens its tap inside the namespace and makes connections itself."""

    kind, dns, relays_udp = "nat", "10.0.2.3", True

    def __init__(self, name: str, program: str = "slirp4netns", mtu: int = 1500) -> None:
        super().__init__(name)
        self.program = program
        self.options = ["--configure", f"--mtu={mtu}", "--disable-host-loopback", "--netns-type=path"]

    @contextlib.contextmanager
    def environment(self, lab: Lab) -> Iterator[list[str]]:
        assert self.program
        ready, signal_ready = os.pipe()
        with os.fdopen(ready) as reading, os.fdopen(signal_ready) as writing, lab.empty_namespace() as name:
            fd = writing.fileno()
            argv = [self.program, *self.options, f"--ready-fd={fd}", f"/run/netns/{name}", "tap0"]
            with lab.daemon(argv, pass_fds=(fd,)) as process:
                lab.wait_for("tap0", lambda: bool(select.select([reading], [], [], 0)[0]), process)
                yield lab.inside(name)


class TunToSocks(Tool):
    """A daemon on the host that turns the packets of a tun into SOCKS connections.

    Its tun is moved to the environment's namespace, and is the only way out of it.
    """

    kind = "socks"
    tun = "pbtun0"
    flags = ""  # of the tun when the daemon has done what it does to it: "up"

    def argv(self, lab: Lab) -> list[str]:
        raise NotImplementedError

    @contextlib.contextmanager
    def environment(self, lab: Lab) -> Iterator[list[str]]:
        with lab.empty_namespace() as namespace, lab.daemon(self.argv(lab)) as process:
            lab.wait_for(self.tun, lambda: self._has_tun(lab), process)
            lab.ip(lab.host_ns, f"link set {self.tun} netns {namespace}")
            lab.ip(
                namespace,
                f"addr add 198.18.0.1/15 dev {self.tun}",
                f"link set {self.tun} up",
                f"route add default dev {self.tun}",
            )
            yield lab.inside(namespace)

    def _has_tun(self, lab: Lab) -> bool:
        argv = ["ip", "-n", lab.host_ns, "-o", "link", "show", "dev", self.tun, *self.flags.split()]
        return bool(subprocess.run(argv, capture_output=True).stdout)


class HevSocks5Tunnel(TunToSocks):
    """It answers DNS itself, with addresses that stand for the names."""

    program, dns, relays_udp, flags = "hev-socks5-tunnel", "198.18.0.2", True, "up"

    def __init__(self, name: str, mtu: int = 8500) -> None:
        super().__init__(name)
        self.mtu = mtu

    def argv(self, lab: Lab) -> list[str]:
        conf = lab.file(
            "hev.yml",
            f"tunnel:\n  name: {self.tun}\n  mtu: {self.mtu}\n  ipv4: 198.18.0.1\n"
            f"socks5:\n  address: {SOCKS_IP}\n  port: {SOCKS_PORT}\n  udp: 'udp'\n"
            f"mapdns:\n  address: {self.dns}\n  port: 53\n  network: 100.64.0.0\n"
            "  netmask: 255.192.0.0\n  cache-size: 10000\n"
            "misc:\n  log-level: error\n"
            f"  limit-nofile: {resource.getrlimit(resource.RLIMIT_NOFILE)[0]}\n",
        )
        return ["hev-socks5-tunnel", conf]


class Badvpn(TunToSocks):
    program, dns = "badvpn-tun2socks", None

    def argv(self, lab: Lab) -> list[str]:
        return [
            "badvpn-tun2socks", "--loglevel", "error", "--tundev", self.tun,
            "--netif-ipaddr", "198.18.0.2", "--netif-netmask", "255.254.0.0",
            "--socks-server-addr", f"{SOCKS_IP}:{SOCKS_PORT}",
        ]  # fmt: skip


class Redsocks(Tool):
    """A namespace whose TCP a firewall on the host hands to redsocks (as orjail does with
    Tor's TransPort); UDP lookups are answered "ask again by TCP"."""

    kind, program = "socks", "redsocks"

    def missing(self) -> str | None:
        return super().missing() or (None if shutil.which("nft") else "no nft")

    @contextlib.contextmanager
    def environment(self, lab: Lab) -> Iterator[list[str]]:
        conf = lab.file(
            "redsocks.conf",
            'base { log_info = off; log = "stderr"; daemon = off; redirector = iptables;'
            " redsocks_conn_max = 20000; }\n"
            "redsocks { local_ip = 10.67.0.1; local_port = 12345; listenq = 4096;"
            f" ip = {SOCKS_IP}; port = {SOCKS_PORT}; type = socks5; }}\n"
            "dnstc { local_ip = 10.67.0.1; local_port = 5300; }\n",
        )
        with lab.empty_namespace() as namespace, contextlib.ExitStack() as undo:
            undo.callback(lab.shell, lab.host_ns, "nft delete table ip pb || true; ip link del pb0")
            self._firewall(lab, namespace)
            process = undo.enter_context(lab.daemon(["redsocks", "-c", conf]))
            listening = [*lab.host, "sh", "-c", "grep -q :3039 /proc/net/tcp"]  # 12345, in hex
            lab.wait_for("redsocks", lambda: not subprocess.run(listening).returncode, process)
            yield lab.inside(namespace)

    @staticmethod
    def _firewall(lab: Lab, namespace: str) -> None:
        lab.ip(
            lab.host_ns,
            f"link add pb0 type veth peer name pb0 netns {namespace}",
            "addr add 10.67.0.1/24 dev pb0",
            "link set pb0 up",
        )
        lab.ip(
            namespace, "addr add 10.67.0.2/24 dev pb0", "link set pb0 up", "route add default via 10.67.0.1"
        )
        command(
            *lab.host, "nft", "-f", "-",
            stdin="table ip pb {\nchain in {\n type nat hook prerouting priority -100;\n"
            ' iifname "pb0" ip protocol tcp redirect to :12345\n'
            ' iifname "pb0" udp dport 53 redirect to :5300\n}\n}\n',
        )  # fmt: skip
