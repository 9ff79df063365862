# SPDX-License-Identifier: GPL-3.0-or-later
"""What tells who and where the user is: names of the machine, logs of logins, environment variables."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from avne.probes.probe import Absent, Finding, Plan, register, seen

probe = register("identity")

# Variables that name a way out, or a person: name → (row, sentence, the variables).
VARIABLES: Final = {
    "env-ssh": ("L54", "the address the user came from, by ssh", ["SSH_CONNECTION", "SSH_CLIENT", "SSH_TTY"]),
    "env-agents": ("L54", "the way to agents", ["SSH_AUTH_SOCK", "GPG_AGENT_INFO"]),
    "env-bus": ("L54", "the way to the session", [
        "DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR", "NOTIFY_SOCKET"]),
    "env-proxies": ("L54", "proxies of the host", ["http_proxy", "https_proxy", "ALL_PROXY"]),
    "env-display": ("L54", "the way to the display", ["WAYLAND_DISPLAY", "XAUTHORITY", "PULSE_SERVER"]),
    "env-multiplexers": ("L54", "the way to tmux and screen", ["TMUX", "STY"]),
    "env-secrets": ("L54", "whatever else is set", ["AWS_SECRET_ACCESS_KEY", "AVNETEST_SECRET"]),
}  # fmt: skip

# The variables, as the stage sets them; nothing of the user's own is overwritten outside of the probes.
SET: Final = {
    name: f"canary-{name.lower().replace('_', '-')}" for _, _, names in VARIABLES.values() for name in names
}


def _variables(names: list[str]) -> Callable[[Plan], Finding]:
    def attempt(plan: Plan) -> Finding:
        plan["variables"]
        found = [name for name in names if "canary-" in os.environ.get(name, "")]
        return seen(bool(found), ", ".join(found), "not passed on")

    return attempt


for _name, (_row, _sentence, _names) in VARIABLES.items():
    probe(_row, _sentence, _name)(_variables(_names))


def _file(plan: Plan, fact: str, *paths: str) -> Finding:
    wanted = plan["files"].get(fact)
    if not wanted:
        raise Absent(f"no {paths[0]} on this machine")
    last: OSError | None = None
    for path in paths:
        try:
            if wanted in Path(path).read_bytes().decode(errors="replace"):
                return seen(True, path)
            last = None
        except OSError as error:
            last = error
    if last:
        raise last
    return seen(False, otherwise="another text")


@probe("L53", "the machine's name (uname)")
def host_name(plan: Plan) -> Finding:
    return seen(socket.gethostname() == plan["hostname"], plan["hostname"], "another name")


@probe("L53", "the machine's name in /etc")
def etc_hostname(plan: Plan) -> Finding:
    return _file(plan, "hostname", "/etc/hostname", "/etc/mailname")


@probe("L53", "the machine's id in /etc")
def machine_id(plan: Plan) -> Finding:
    return _file(plan, "machine-id", "/etc/machine-id")


@probe("L53", "the machine's id in /var/lib/dbus")
def dbus_machine_id(plan: Plan) -> Finding:
    return _file(plan, "dbus-machine-id", "/var/lib/dbus/machine-id")


@probe("L53", "the names in /etc/hosts")
def etc_hosts(plan: Plan) -> Finding:
    return _file(plan, "hosts", "/etc/hosts")


@probe("L53", "who is logged in from where (utmp)")
def utmp(plan: Plan) -> Finding:
    return _file(plan, "utmp", "/run/utmp", "/var/run/utmp")


@probe("L53", "who was logged in from where (wtmp, lastlog)")
def wtmp(plan: Plan) -> Finding:
    return _file(plan, "wtmp", "/var/log/wtmp", "/var/log/lastlog")


@probe("L53", "the addresses that DHCP gave")
def dhcp_leases(plan: Plan) -> Finding:
    return _file(plan, "dhcp", *plan["lease_files"])


@probe("L53", "systemd's records of the network (/run/systemd/netif)")
def netif(plan: Plan) -> Finding:
    return _file(plan, "netif", "/run/systemd/netif/state")


def _own_address(plan: Plan, family: socket.AddressFamily, peer: str) -> Finding:
    """As a browser's WebRTC finds it: a UDP socket that is connected, by which nothing is sent."""
    plan["addresses"]
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect((peer, 9))
        own = str(sock.getsockname()[0])
    written = own if family == socket.AF_INET else socket.inet_pton(family, own).hex()
    return seen(written in plan["addresses"], own, f"{own}, which everybody has")


@probe("L65", "the host's address, as WebRTC tells it")
def own_address4(plan: Plan) -> Finding:
    return _own_address(plan, socket.AF_INET, "192.0.2.1")


@probe("L65", "the host's IPv6 address, as WebRTC tells it")
def own_address6(plan: Plan) -> Finding:
    return _own_address(plan, socket.AF_INET6, "2001:db8::1")
