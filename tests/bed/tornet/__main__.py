# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line of the private Tor network; the package's docstring describes it."""

from __future__ import annotations

import argparse
import ipaddress
import json
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bed.tornet import lifecycle
from tests.bed.tornet.network import DEFAULT_OPTIONS, STATE_FILE, Network
from tests.bed.tornet.node import ONION_ECHO_PORT
from tests.bed.tornet.processes import Progress, TornetError, process_start_time
from tests.bed.tornet.report import describe, status


def show(value: dict[str, Any]) -> None:
    json.dump(value, sys.stdout, indent=1)
    print()


def command_up(args: argparse.Namespace) -> int:
    if args.owner_pid and process_start_time(args.owner_pid) is None:
        raise TornetError(f"--owner-pid {args.owner_pid}: no such process")
    options = {key: getattr(args, key, default) for key, default in DEFAULT_OPTIONS.items()}
    options["hosts"] = dict(args.hosts)
    options["reject_ports"] = args.reject_ports or DEFAULT_OPTIONS["reject_ports"]
    options["latency"] = args.latency / 1000

    def interrupted(*_args: object) -> None:
        raise KeyboardInterrupt

    # SIGINT too: a shell's background job starts with it ignored.
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sig, interrupted)
    deadline = lifecycle.deadline_in(args.timeout)
    show(describe(lifecycle.bring_up(options, Path(args.dir).absolute(), deadline, args.keep)))
    return 0


def command_down(args: argparse.Namespace) -> int:
    directory = Path(args.dir).absolute()
    if not (directory / STATE_FILE).exists():
        Progress.say(f"no network in {directory}")
        return 0
    with lifecycle.locked(directory):
        net = Network.load(directory)
        if net.addresses:
            net.require_same_namespace()
        killed = net.down()
        net.save()
        if killed:
            Progress.say(f"had to kill: {', '.join(killed)}")
    if args.purge:
        shutil.rmtree(directory)
    return 0


def command_status(args: argparse.Namespace) -> int:
    net = Network.load(Path(args.dir).absolute())
    net.require_same_namespace()
    report = status(net)
    show(report)
    return 0 if report["state"] == "up" else 3


def command_node(args: argparse.Namespace) -> int:
    directory = Path(args.dir).absolute()
    with lifecycle.locked(directory):
        net = Network.load(directory)
        net.require_same_namespace()
        lifecycle.act(net, args.name, args.action, lifecycle.deadline_in(args.timeout))
    return 0


def command_torrc(args: argparse.Namespace) -> int:
    net = Network.load(Path(args.dir).absolute())
    print(net.node(args.name).torrc.read_text(), end="")
    return 0


def bounded(low: int, high: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text}: {low} to {high}")
        return value

    return number


port_number = bounded(1, 65535)


def onion_pair(text: str) -> list[int]:
    virtual, _, target = text.partition(":")
    pair = [port_number(virtual), port_number(target or virtual)]
    if pair[0] == ONION_ECHO_PORT:
        raise argparse.ArgumentTypeError(f"onion port {ONION_ECHO_PORT} is the echo service")
    return pair


def host_entry(text: str) -> tuple[str, list[str]]:
    name, _, addresses = text.partition("=")
    values = [str(ipaddress.ip_address(a)) for a in addresses.split(",") if a]
    if not name or not values:
        raise argparse.ArgumentTypeError(f"{text}: want NAME=ADDR[,ADDR...]")
    return name, values


def lo_address(text: str) -> str:
    interface = ipaddress.ip_interface(text)
    full = interface.network.prefixlen == interface.max_prefixlen
    return str(interface.ip) if full else str(interface.network)


def torrc_entry(text: str) -> list[str]:
    role, colon, line = text.partition(":")
    if not colon or not line.strip() or "\n" in line:
        raise argparse.ArgumentTypeError(f"{text}: want ROLE:OPTION VALUE")
    return [role.strip(), line.strip()]


def voting_interval(text: str) -> int:
    value = int(text)
    if not 10 <= value <= 86400 or 86400 % value:
        raise argparse.ArgumentTypeError("10 to 86400 seconds, dividing a day")
    return value


def add_up_options(up: argparse.ArgumentParser) -> None:
    def option(flag: str, **settings: Any) -> None:
        up.add_argument(flag, **settings)

    def several(flag: str, kind: Any, key: str, metavar: str, text: str) -> None:
        up.add_argument(flag, type=kind, action="append", default=[], dest=key, metavar=metavar, help=text)

    option(
        "--authorities", type=bounded(1, 9), default=3, metavar="N", help="directory authorities (default 3)"
    )
    option("--relays", type=bounded(1, 50), default=3, metavar="N", help="exit relays (default 3)")
    several(
        "--onion-service",
        onion_pair,
        "onion_services",
        "[VPORT:]PORT",
        "host a v3 onion service forwarding VPORT to 127.0.0.1:PORT",
    )
    several("--address", lo_address, "addresses", "ADDR[/LEN]", "extra address on lo (root)")
    option("--zone", default=DEFAULT_OPTIONS["zone"], help="DNS zone (%(default)s)")
    several("--host", host_entry, "hosts", "NAME=ADDR,...", "extra DNS name")
    several(
        "--reject-port", port_number, "reject_ports", "PORT", "port the exits' policy rejects (default 25)"
    )
    option("--unconfined", action="store_true", help="let exits connect beyond this machine's own addresses")
    several(
        "--torrc",
        torrc_entry,
        "torrc",
        "ROLE:LINE",
        "extra torrc line for authority, relay, client, onion, all or one node's name, "
        "e.g. 'client:MaxCircuitDirtiness 30'",
    )
    option("--sockets", default="", metavar="DIR", help="put the client's unix sockets there, for everybody")
    option("--latency", type=float, default=0, metavar="MS", help="delay the client's links by MS each way")
    option(
        "--voting-interval",
        type=voting_interval,
        default=300,
        metavar="S",
        help="seconds between consensuses once running (default 300)",
    )
    option("--timeout", type=float, default=120, metavar="S", help="give up after this long (default 120)")
    option("--owner-pid", type=int, default=0, metavar="PID", help="end by itself once this process is gone")
    option("--verbose-logs", action="store_true", help="info-level Tor logs")
    option("--keep", action="store_true", help="leave a failed network running")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bed.tornet",
        description="A private, disposable Tor network on loopback.",
        epilog="`pydoc tests.bed.tornet` shows the whole description.",
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("--dir", required=True, help="the network's directory")
        sub.add_argument("-q", "--quiet", action="store_true", help="no progress")
        sub.set_defaults(run=run)
        return sub

    add_up_options(add("up", command_up, "build and start a network, print JSON when usable"))
    down = add("down", command_down, "stop a network; no error if there is none")
    down.add_argument("--purge", action="store_true", help="delete DIR as well")
    add("status", command_status, "JSON: what is alive, memory, bootstrap state")
    node = add("node", command_node, "act on one node")
    node.add_argument("name", help="auth0, relay0, client, onion, ...")
    node.add_argument("action", choices=lifecycle.ACTIONS)
    node.add_argument("--timeout", type=float, default=60, metavar="S")
    torrc = add("torrc", command_torrc, "print a node's torrc")
    torrc.add_argument("name")
    return parser


def main(argv: list[str] | None = None) -> int:
    parser = build_parser()
    args = parser.parse_args(argv)
    Progress.quiet = args.quiet
    if args.command == "up":
        least = 4 if args.onion_services else 3
        if args.authorities + args.relays < least:
            parser.error(f"circuits need {least} nodes: --authorities plus --relays is too small")
    try:
        return int(args.run(args))
    except TornetError as error:
        print(f"tornet: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("tornet: interrupted", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
