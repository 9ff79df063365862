# SPDX-License-Identifier: GPL-3.0-or-later
"""Where names are asked: the resolver's configuration, as it is and after the host has changed it."""

from __future__ import annotations

import os
from pathlib import Path

from avne.probes import facts
from avne.probes.probe import Absent, Finding, Plan, register, seen

probe = register("names")


@probe("L50", "the host's name servers in /etc/resolv.conf")
def resolv_conf(plan: Plan) -> Finding:
    found = sorted(set(facts.name_servers(Path("/etc/resolv.conf").read_text())) & set(plan["resolvers"]))
    return seen(bool(found), ", ".join(found), "others")


@probe("L50", "the same, after the host has replaced the file while the program runs", late=True)
def resolv_conf_replaced(plan: Plan) -> Finding:
    plan["replaced"]
    found = sorted(set(facts.name_servers(Path("/etc/resolv.conf").read_text())) & set(plan["resolvers"]))
    return seen(bool(found), ", ".join(found), "others")


@probe("L51", "the files behind /etc/resolv.conf in /run")
def resolv_run(plan: Plan) -> Finding:
    paths = ("/run/systemd/resolve/resolv.conf", "/run/systemd/resolve/stub-resolv.conf",
             "/run/resolvconf/resolv.conf", "/run/NetworkManager/resolv.conf")  # fmt: skip
    if not plan["files"].get("resolv-run"):
        raise Absent("no such file on this machine")
    found = [path for path in paths if os.path.exists(path)]
    return seen(bool(found), ", ".join(found), "not there")


@probe("L12", "modules of nsswitch.conf that ask daemons of the host")
def nsswitch(plan: Plan) -> Finding:
    foreign = facts.foreign_modules(Path("/etc/nsswitch.conf").read_text())
    plan["nsswitch"]
    return seen(bool(foreign), ", ".join(foreign), "none")


@probe("L38", "directories where an access makes the host speak (autofs, FUSE, network mounts)")
def network_mounts(plan: Plan) -> Finding:
    found = [path for path in plan["network_mounts"] if os.path.isdir(path) and os.listdir(path)]
    return seen(bool(found), ", ".join(found), "not there")
