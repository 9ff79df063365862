# SPDX-License-Identifier: GPL-3.0-or-later
"""The tools that are a command's prefix, and the rows without a tool.

To measure another tool, ``--add NAME=COMMAND`` is enough for one that is a command prefix;
the others are a subclass of `Tool` whose `environment` yields what to put before a command
to run it inside (bench/daemons.py has those with a daemon), and a line in bench/rows.py.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.lab import SOCKS_IP, SOCKS_PORT, WORLD_IP, Lab


class Tool:
    """One tool, or one way to set it up."""

    kind = "base"  # or "nat", "socks", "preload"
    program: str | None = None  # what must be on the path
    dns: str | None = WORLD_IP  # its resolver: an address, "resolv.conf", "libc"
    relays_udp = False  # do datagrams reach the world's own DNS server?
    via_socks = False  # the agent itself speaks SOCKS5
    target = WORLD_IP  # where it finds the world's servers

    def __init__(self, name: str) -> None:
        self.name = name

    def missing(self) -> str | None:
        """Why it cannot be measured here; None if it can."""
        if self.program and not shutil.which(self.program):
            return f"no {self.program}"
        return None

    @contextlib.contextmanager
    def environment(self, lab: Lab) -> Iterator[list[str]]:
        """Yields what to put before a command to run it in the environment."""
        yield lab.host


class Native(Tool):
    """No tool: the host namespace, and so the veth to the world."""

    relays_udp = True


class Socks5(Tool):
    """No tool: a client that knows of the SOCKS5 server."""

    dns = None
    via_socks = True


class Loopback(Tool):
    """No tool: client and server in one namespace."""

    target = "127.0.0.1"

    @contextlib.contextmanager
    def environment(self, lab: Lab) -> Iterator[list[str]]:
        yield lab.world


class Prefix(Tool):
    """A tool that is a command to put before the program's.

    Its words may hold {socks}, {socks_ip}, {socks_port} and {tmp}.
    """

    kind = "socks"
    dns: str | None = "resolv.conf"

    def __init__(self, name: str, words: list[str]) -> None:
        super().__init__(name)
        self.words = words
        self.program = words[0]

    @contextlib.contextmanager
    def environment(self, lab: Lab) -> Iterator[list[str]]:
        values = {"socks_ip": SOCKS_IP, "socks_port": SOCKS_PORT, "tmp": lab.tmp}
        yield lab.host + [word.format(socks=f"{SOCKS_IP}:{SOCKS_PORT}", **values) for word in self.words]


class Avne(Prefix):
    """The one beside this Python, or else the path's; its log goes with the lab."""

    def __init__(self, name: str) -> None:
        beside = Path(sys.executable).with_name("avne")
        program = str(beside) if beside.exists() else "avne"
        settings = ["env", "XDG_STATE_HOME={tmp}", "XDG_CONFIG_HOME={tmp}"]
        options = ["run", "-q", "--share={tmp}", "--upstream", "socks5://{socks}", "--resolver", "none", "--"]
        super().__init__(name, [*settings, program, *options])
        self.program = program


class Pasta(Prefix):
    """As it is meant to be run: by an unprivileged user, in a namespace of hers."""

    kind, dns, relays_udp = "nat", WORLD_IP, True

    def __init__(self, name: str, program: str = "pasta", mtu: int = 65520) -> None:
        nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        super().__init__(name, [*nobody, program, "--config-net", "--quiet", f"--mtu={mtu}", "--"])
        self.program = program


class Torsocks(Tool):
    kind, program, dns = "preload", "torsocks", "libc"

    @contextlib.contextmanager
    def environment(self, lab: Lab) -> Iterator[list[str]]:
        conf = lab.file("torsocks.conf", f"TorAddress {SOCKS_IP}\nTorPort {SOCKS_PORT}\n")
        yield [*lab.host, "env", f"TORSOCKS_CONF_FILE={conf}", "torsocks"]


class Proxychains(Tool):
    kind, program, dns = "preload", "proxychains4", "libc"

    @contextlib.contextmanager
    def environment(self, lab: Lab) -> Iterator[list[str]]:
        conf = lab.file(
            "proxychains.conf",
            "strict_chain\nproxy_dns\nremote_dns_subnet 224\ntcp_read_time_out 15000\n"
            f"tcp_connect_time_out 8000\n[ProxyList]\nsocks5 {SOCKS_IP} {SOCKS_PORT}\n",
        )
        yield [*lab.host, "proxychains4", "-q", "-f", conf]
