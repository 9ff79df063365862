# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds, starts and stops the set of processes in one directory, and remembers it there."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.bed.tornet import ready
from tests.bed.tornet.helper import DNS_HOSTS
from tests.bed.tornet.node import PORTS, Node, Torrc, make_keys, verify_torrc
from tests.bed.tornet.ports import PortPool
from tests.bed.tornet.processes import (
    Progress,
    TornetError,
    find_program,
    is_alive,
    poll,
    process_start_time,
    tail,
    write_atomic,
)

STATE_FILE = "tornet.json"
STATE_VERSION = 1
REPOSITORY = Path(__file__).resolve().parents[3]
# Seconds from the authorities' start to the first consensus: the least that Tor accepts, then,
# should a slow machine miss the vote, larger divisors of 30 min.
FIRST_CONSENSUS_AFTER = (5, 10, 20)

DEFAULT_OPTIONS: dict[str, Any] = {
    "authorities": 3,
    "relays": 3,
    "onion_services": [],  # [virtual port, port on loopback]
    "zone": "test.example",
    "hosts": {},
    "addresses": [],
    "own_addresses": True,  # put `addresses` on lo and serve DNS and echo there
    "reject_ports": [25],
    "unconfined": False,
    "sockets": "",  # a directory for the client's unix sockets
    "voting_interval": 300,
    "verbose_logs": False,
    "owner_pid": 0,
    "latency": 0.0,
    "torrc": [],  # [role, line]
}


class Network:
    """One network; `options` has the keys of `DEFAULT_OPTIONS`."""

    def __init__(self, options: dict[str, Any], directory: Path) -> None:
        self.options = options
        self.dir = directory
        self.pool = PortPool()
        self.nodes: list[Node] = []
        self.helper: dict[str, Any] = {}
        self.addresses: list[list[str]] = []  # `ip` commands that undo ours
        self.onion_hostname = ""
        self.timings: dict[str, float] = {}
        self.first_interval = FIRST_CONSENSUS_AFTER[0]
        self.tor = ""
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    # ---- plan -------------------------------------------------------------------------------

    def plan(self) -> None:
        """Names, directories and ports for every node."""
        options = self.options
        roster = [(f"auth{i}", "authority") for i in range(options["authorities"])]
        roster += [(f"relay{i}", "relay") for i in range(options["relays"])]
        roster.append(("client", "client"))
        if options["onion_services"]:
            roster.append(("onion", "onion"))
        for name, role in roster:
            node = Node(name, role, str(self.dir / name))
            node.ports = {key: self.pool.take() for key in PORTS[role]}
            node.path.mkdir(mode=0o700)
            self.nodes.append(node)
        directory = self.dir / "helper"
        directory.mkdir(mode=0o755)
        owner = options["owner_pid"]
        self.helper = {
            "pid": 0,
            "started": 0,
            **{key: self.pool.take() for key in ("dns_port", "echo_port", "latency_port")},
            **{key: options[key] for key in ("latency", "zone", "addresses", "hosts", "owner_pid")},
            # A prefix (AnyIP) has no one address to listen on.
            "listen": [a for a in options["addresses"] if "/" not in a and options["own_addresses"]],
            "query_log": str(directory / "queries.jsonl"),
            "ready_file": str(directory / "ready"),
            "owner_started": (process_start_time(owner) or 0) if owner else 0,
        }

    def by_role(self, *roles: str) -> list[Node]:
        return [node for node in self.nodes if node.role in roles]

    def node(self, name: str) -> Node:
        for node in self.nodes:
            if node.name == name:
                return node
        known = ", ".join(n.name for n in self.nodes)
        raise TornetError(f"no node called {name!r}; there are: {known}")

    @property
    def client(self) -> Node:
        return self.node("client")

    def write_configuration(self) -> None:
        resolv = self.dir / "helper" / "resolv.conf"
        resolv.write_text("".join(f"nameserver {h}:{self.helper['dns_port']}\n" for h in DNS_HOSTS))
        # Shift the authorities' clock-aligned voting schedule to fit us: Tor publishes at multiples
        # of the interval plus this offset and votes two seconds earlier.  Relays upload their
        # descriptors 1 to 2 s after they start: a vote before that misses them, and costs a round.
        publish = math.ceil(time.time() + self.first_interval - 0.8)
        intervals = (self.first_interval, publish % self.first_interval)
        torrc = Torrc(self.options, self.nodes, self.helper, intervals)
        for node in self.nodes:
            node.torrc.write_text("\n".join(torrc.lines(node)) + "\n")
        if self.options["torrc"]:
            for node in {node.role: node for node in self.nodes}.values():
                verify_torrc(self.tor, node)

    # ---- processes --------------------------------------------------------------------------

    def _spawn(self, command: list[str], output: Path, cwd: Path) -> tuple[int, int]:
        with open(output, "ab") as sink:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                cwd=cwd,
                start_new_session=True,
            )
        self._children[child.pid] = child
        return child.pid, process_start_time(child.pid) or 0

    def start_node(self, node: Node) -> None:
        self.pool.release(*node.ports.values())
        # --defaults-torrc keeps Debian's /usr/share/tor settings out.
        command = [self.tor, "--defaults-torrc", "/dev/null", "-f", str(node.torrc)]
        node.pid, node.started = self._spawn(command, node.path / "stdout.log", node.path)
        self.save()

    def start_helper(self, deadline: float) -> None:
        config = self.dir / "helper" / "config.json"
        ready_file = Path(self.helper["ready_file"])
        ready_file.unlink(missing_ok=True)
        config.write_text(json.dumps(self.helper))
        self.pool.release(*(self.helper[k] for k in ("dns_port", "echo_port", "latency_port")))
        output = self.dir / "helper" / "stdout.log"
        command = [sys.executable, "-m", "tests.bed.tornet.helper", str(config)]
        pid, started = self._spawn(command, output, REPOSITORY)
        self.helper.update(pid=pid, started=started)
        self.save()

        def check() -> bool:
            if not is_alive(pid, started):
                raise TornetError(f"the DNS helper died: {tail(output)}")
            return ready_file.exists()

        poll("the DNS helper did not start", check, min(deadline, time.monotonic() + 15))

    def stop_node(self, node: Node, sig: int, deadline: float) -> None:
        if node.alive():
            os.kill(node.pid, sig)
            self._await_end(node, deadline)

    def _await_end(self, node: Node, deadline: float) -> None:
        poll(f"{node.name} does not end", lambda: not node.alive(), deadline)
        self._reap()

    def check_alive(self) -> None:
        """Raise, with the reason from its log, if a started node has died."""
        for node in self.nodes:
            if node.pid and not node.alive():
                reason = tail(node.notice_log, 4, r"\[(warn|err)\]")
                reason = reason or tail(node.path / "stdout.log", 4)
                raise TornetError(f"{node.name} (pid {node.pid}) died:\n{reason}")

    # ---- addresses on lo --------------------------------------------------------------------

    def add_addresses(self) -> None:
        for text in self.options["addresses"] if self.options["own_addresses"] else []:
            network = ipaddress.ip_interface(text)
            extra: list[str] = []
            if "/" in text:
                change = ["route", "{}", "local", str(network.network), "dev", "lo"]
            else:
                change = ["addr", "{}", str(network), "dev", "lo"]
                extra = ["nodad"] if network.version == 6 else []
            command = [find_program("ip"), f"-{network.version}", *change]
            add = [w.replace("{}", "add") for w in command] + extra
            done = subprocess.run(add, capture_output=True, text=True)
            if done.returncode == 0:
                self.addresses.append([w.replace("{}", "del") for w in command])
                self.save()
            elif "File exists" not in done.stderr and "already assigned" not in done.stderr:
                raise TornetError(f"cannot add {text} to lo: {done.stderr.strip()}")

    def remove_addresses(self) -> None:
        for command in self.addresses:
            subprocess.run(command, capture_output=True)
        self.addresses = []

    # ---- up and down ------------------------------------------------------------------------

    def up(self, deadline: float) -> None:
        begin = time.monotonic()

        def mark(stage: str) -> None:
            self.timings[stage] = round(time.monotonic() - begin, 2)
            Progress.say(stage.replace("_", " "))

        self.tor = find_program("tor")
        self.plan()
        self.save()
        self.add_addresses()
        self.start_helper(deadline)
        make_keys(self.tor, self.nodes)
        mark("keys_made")
        self.write_configuration()
        for node in self.by_role("authority", "relay"):
            self.start_node(node)
        ready.wait_consensus(self, deadline)
        mark("consensus_everywhere")
        for node in [self.client, *self.by_role("onion")]:
            self.start_node(node)
        with contextlib.ExitStack() as stack:
            watches = [stack.enter_context(ready.OnionWatch(self, node)) for node in self.by_role("onion")]
            for watch in watches:
                watch.subscribe(deadline)
            ready.wait_client(self, deadline)
            mark("client_bootstrapped")
            ready.wait_exits(self, deadline)
            mark("exits_usable")
            for watch in watches:
                self.onion_hostname = watch.wait(deadline)
                mark("onion_usable")
        self.timings["total"] = round(time.monotonic() - begin, 2)
        self.save()

    def down(self, grace: float = 5.0) -> list[str]:
        """Stop everything: clients first, SIGTERM, then SIGKILL.

        Returns the names of what was still alive and had to be killed.
        """
        order = [*self.by_role("client", "onion"), *self.by_role("authority", "relay")]
        targets = [(n.name, n.pid, n.started) for n in order]
        targets.append(("helper", self.helper.get("pid", 0), self.helper.get("started", 0)))
        self._signal(targets, signal.SIGTERM, grace)
        killed = self._signal(targets, signal.SIGKILL, 5)
        self._reap()
        self.remove_addresses()
        return killed

    def _signal(self, targets: list[tuple[str, int, int]], sig: int, grace: float) -> list[str]:
        """Signal those of `targets` that live, and wait for their end; gives their names."""
        living = [name for name, pid, started in targets if is_alive(pid, started)]
        for _name, pid, started in targets:
            if is_alive(pid, started):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, sig)
        end = time.monotonic() + grace
        while time.monotonic() < end and any(is_alive(p, s) for _n, p, s in targets):
            self._reap()
            time.sleep(0.02)
        return living

    def _reap(self) -> None:
        for child in self._children.values():
            child.poll()

    # ---- state ------------------------------------------------------------------------------

    def save(self) -> None:
        state = {
            "version": STATE_VERSION,
            "tor": self.tor,
            "options": self.options,
            "nodes": [asdict(node) for node in self.nodes],
            "helper": self.helper,
            "addresses": self.addresses,
            "onion_hostname": self.onion_hostname,
            "timings": self.timings,
        }
        write_atomic(self.dir / STATE_FILE, json.dumps(state, indent=1) + "\n")

    @classmethod
    def load(cls, directory: Path) -> Network:
        path = directory / STATE_FILE
        try:
            state = json.loads(path.read_text())
        except FileNotFoundError:
            raise TornetError(f"no network in {directory} (no {STATE_FILE})") from None
        except (OSError, ValueError) as error:
            raise TornetError(f"cannot read {path}: {error}") from None
        if state.get("version") != STATE_VERSION:
            raise TornetError(f"{path} is of another version of the test bed")
        net = cls(state["options"], directory)
        net.nodes = [Node(**row) for row in state["nodes"]]
        for name in ("tor", "helper", "addresses", "onion_hostname", "timings"):
            setattr(net, name, state[name])
        return net

    def require_same_namespace(self) -> None:
        """Loopback is per network namespace: refuse to look in another one."""
        for node in self.nodes:
            if node.alive():
                with contextlib.suppress(OSError):
                    theirs = os.readlink(f"/proc/{node.pid}/ns/net")
                    if theirs != os.readlink("/proc/self/ns/net"):
                        raise TornetError(
                            "this network lives in another network namespace: use "
                            f"nsenter -t {node.pid} -n {shlex.join(sys.argv)}"
                        )
