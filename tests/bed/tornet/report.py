# SPDX-License-Identifier: GPL-3.0-or-later
"""What a network looks like from outside: the JSON of `up` and `status`, and why a start failed."""

from __future__ import annotations

import re
from typing import Any

from tests.bed.tornet.network import Network
from tests.bed.tornet.node import ONION_ECHO_PORT, Node, client_sockets
from tests.bed.tornet.processes import LOOPBACK, TornetError, is_alive, pss_kib, tail

# Warnings that every network this small gives, and that mean nothing.
USUAL_WARNINGS = re.compile(
    r"Bw Weight Failure|TestingTorNetwork is set|very low|Received http status code 404"
    r"|No available nodes when trying|giving Tor only an IP address"
    r"|extend back to the previous hop|connection_edge_process_relay_cell"
    r"|sr-state|SR state file|SafeLogging|running Tor as root"
    r"|alternate directory authorities|approved-routers|not recommended"
)


def failure_report(net: Network) -> str:
    """The last unusual warnings of each node."""
    rows = []
    for node in net.nodes:
        text = tail(node.notice_log, 400, r"\[(warn|err)\]")
        lines = [line for line in text.splitlines() if not USUAL_WARNINGS.search(line)]
        rows += [f"{node.name}: {line[:240]}" for line in lines[-2:]]
    return "\n".join(rows)


def describe(net: Network) -> dict[str, Any]:
    """The JSON that `up` prints."""
    client, options = net.client, net.options
    sockets = client_sockets(options, client)
    onion = {}
    if net.onion_hostname:
        onion = {str(ONION_ECHO_PORT): f"{LOOPBACK}:{net.helper['echo_port']}"}
        onion |= {str(v): f"{LOOPBACK}:{t}" for v, t in options["onion_services"]}
    return {
        "dir": str(net.dir),
        "socks_host": LOOPBACK,
        "socks_port": client.ports["socks"],
        "socks_port_ext": client.ports["socks_ext"],
        "socks_unix": sockets.get("socks"),
        "socks_unix_ext": sockets.get("socks_ext"),
        "control_unix": sockets.get("control"),
        "http_tunnel_port": client.ports["http"],
        "dns_port": client.ports["dns"],
        "trans_port": client.ports["trans"],
        "control_port": client.ports["control"],
        "control_cookie_file": str(client.cookie),
        "onion_hostname": net.onion_hostname or None,
        "onion_ports": onion,
        "echo_port": net.helper["echo_port"],
        "resolver_port": net.helper["dns_port"],
        "resolver_log": net.helper["query_log"],
        "zone": options["zone"],
        "addresses": options["addresses"],
        "latency_ms": options["latency"] * 1000,
        "exit_reject_ports": options["reject_ports"],
        "pids": {n.name: n.pid for n in net.nodes} | {"helper": net.helper["pid"]},
        "nodes": {n.name: _node(n) for n in net.nodes},
        "timings": net.timings,
    }


def _node(node: Node) -> dict[str, Any]:
    return {
        "role": node.role,
        "pid": node.pid,
        "ports": node.ports,
        "fingerprint": node.fingerprint or None,
        "control_cookie_file": str(node.cookie),
        "log": str(node.notice_log),
    }


def _health(node: Node) -> dict[str, Any]:
    row: dict[str, Any] = {"alive": node.alive()}
    if row["alive"]:
        row["pss_kib"] = pss_kib(node.pid)
        try:
            with node.control() as control:
                phase = control.getinfo("status/bootstrap-phase")
            match = re.search(r"PROGRESS=(\d+)", phase)
            row["bootstrapped"] = int(match.group(1)) if match else None
        except (OSError, TornetError) as error:
            row["bootstrapped"], row["error"] = None, str(error)
    return row


def status(net: Network) -> dict[str, Any]:
    """What is alive now, its memory, and each node's bootstrap state."""
    out = describe(net)
    health = {node.name: _health(node) for node in net.nodes}
    health["helper"] = {"alive": is_alive(net.helper["pid"], net.helper["started"])}
    if health["helper"]["alive"]:
        health["helper"]["pss_kib"] = pss_kib(net.helper["pid"])
    # Relays of a three-node network never reach 100 %: each lacks a third node for a circuit of
    # its own.  They serve the client all the same.
    ready = all(row["alive"] for row in health.values()) and all(
        health[node.name]["bootstrapped"] == 100 for node in net.by_role("client", "onion")
    )
    alive = any(row["alive"] for row in health.values())
    out["state"] = "up" if ready else "degraded" if alive else "down"
    out["health"] = health
    out["pss_total_kib"] = sum(r.get("pss_kib", 0) for r in health.values())
    return out
