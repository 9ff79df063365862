# SPDX-License-Identifier: GPL-3.0-or-later
"""One Tor process of the network, and its torrc."""

from __future__ import annotations

import concurrent.futures
import os
import re
import shlex
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bed.tornet.control import Control
from tests.bed.tornet.processes import LOOPBACK, TornetError, find_program, is_alive

ONION_ECHO_PORT = 7
# Unix socket paths are limited to 107 bytes; Tor fails obscurely beyond that.
MAX_UNIX_PATH = 107

PORTS = {
    "authority": ["or", "dir", "control"],
    "relay": ["or", "control"],
    "client": ["socks", "socks_ext", "http", "dns", "trans", "control"],
    "onion": ["control"],
}


@dataclass
class Node:
    name: str
    role: str  # authority | relay | client | onion
    dir: str
    ports: dict[str, int] = field(default_factory=dict)
    fingerprint: str = ""
    v3ident: str = ""
    pid: int = 0
    started: int = 0

    @property
    def path(self) -> Path:
        return Path(self.dir)

    @property
    def torrc(self) -> Path:
        return self.path / "torrc"

    @property
    def notice_log(self) -> Path:
        return self.path / "notice.log"

    @property
    def cookie(self) -> Path:
        return self.path / "control_auth_cookie"

    @property
    def is_relay(self) -> bool:
        return self.role in ("authority", "relay")

    def alive(self) -> bool:
        return is_alive(self.pid, self.started)

    def control(self) -> Control:
        return Control(self.ports["control"], self.cookie)


def client_sockets(options: dict[str, Any], client: Node) -> dict[str, str]:
    """Paths of the client's unix sockets: in its own directory, or where `--sockets` says."""
    if options["sockets"]:
        base = Path(options["sockets"])
        paths = {"socks": base / "tor", "socks_ext": base / "tor-ext", "control": base / "control"}
    else:
        paths = {"socks": client.path / "socks.sock"}
    return {key: str(path) for key, path in paths.items() if len(str(path)) <= MAX_UNIX_PATH}


class Torrc:
    """Writes the configuration of every node of one network."""

    def __init__(
        self, options: dict[str, Any], nodes: list[Node], helper: dict[str, Any], intervals: tuple[int, int]
    ) -> None:
        self._options = options
        self._nodes = nodes
        self._helper = helper
        self._first_interval, self._voting_offset = intervals

    def lines(self, node: Node) -> list[str]:
        lines = self._common(node)
        if node.is_relay:
            lines += [
                f"Address {LOOPBACK}",
                f"ORPort {LOOPBACK}:{node.ports['or']}",
                "SocksPort 0",
                "ContactInfo tornet@test.example",
                "ExitPolicyRejectPrivate 0",
                "AddressDisableIPv6 1",
            ]
        own = {
            "authority": self._authority,
            "relay": self._relay,
            "client": self._client,
            "onion": self._onion,
        }
        lines += own[node.role](node)
        extra = self._options["torrc"]
        return lines + [line for role, line in extra if role in (node.role, node.name, "all")]

    def _common(self, node: Node) -> list[str]:
        lines = [
            "TestingTorNetwork 1",
            f"DataDirectory {node.dir}",
            f"Nickname {node.name}",
            f"Log notice file {node.notice_log}",
            "SafeLogging 0",
            "ProtocolWarnings 1",
            "RunAsDaemon 0",
            "ShutdownWaitLength 0",
            "NumCPUs 1",
            "GeoIPFile",
            "GeoIPv6File",
            f"ControlPort {LOOPBACK}:{node.ports['control']}",
            "CookieAuthentication 1",
            f"CookieAuthFile {node.cookie}",
            "AssumeReachable 1",
            "PathsNeededToBuildCircuits 0.6",
            # On loopback the learned build timeout becomes so short that a busy machine makes
            # circuits expire; use a fixed, generous one.
            "LearnCircuitBuildTimeout 0",
            "CircuitBuildTimeout 30",
        ]
        if self._options["verbose_logs"]:
            lines.append(f"Log info file {node.path / 'info.log'}")
        if self._options["owner_pid"]:
            lines.append(f"__OwningControllerProcess {self._options['owner_pid']}")
        return lines + [
            f"DirAuthority {a.name} orport={a.ports['or']} no-v2 v3ident={a.v3ident} "
            f"{LOOPBACK}:{a.ports['dir']} {a.fingerprint}"
            for a in self._nodes
            if a.role == "authority"
        ]

    def _authority(self, node: Node) -> list[str]:
        return [
            f"DirPort {LOOPBACK}:{node.ports['dir']}",
            "AuthoritativeDirectory 1",
            "V3AuthoritativeDirectory 1",
            "ExitRelay 0",
            "ExitPolicy reject *:*",
            # The quickest schedule Tor accepts until the first consensus, then a calmer one.
            f"TestingV3AuthInitialVotingInterval {self._first_interval}",
            "TestingV3AuthInitialVoteDelay 2",
            "TestingV3AuthInitialDistDelay 2",
            f"TestingV3AuthVotingStartOffset {self._voting_offset}",
            f"V3AuthVotingInterval {self._options['voting_interval']}",
            "V3AuthVoteDelay 2",
            "V3AuthDistDelay 2",
            "V3AuthNIntervalsValid 3",
            "TestingDirAuthVoteGuard *",
            "TestingDirAuthVoteHSDir *",
            "TestingMinExitFlagThreshold 0",
        ]

    def _relay(self, node: Node) -> list[str]:
        lines = [
            "ExitRelay 1",
            "IPv6Exit 1",
            # By port only: after a refusal by address, which no summary shows, the client spins
            # for 120 s on the same few exits.
            *(f"ExitPolicy reject *:{port}" for port in self._options["reject_ports"]),
            # Clients see only a summary of the policy, by port, in which loopback and private
            # networks do not count: a relay that does not accept *:* is no exit to them.
            # OutboundBindAddressExit confines.
            "ExitPolicy accept *:*",
            f"ServerDNSResolvConfFile {node.path.parent / 'helper' / 'resolv.conf'}",
            "ServerDNSDetectHijacking 0",
            "ServerDNSTestAddresses",
            "ServerDNSAllowBrokenConfig 1",
            "ServerDNSSearchDomains 0",
        ]
        if not self._options["unconfined"]:
            lines += [f"OutboundBindAddressExit {LOOPBACK}", "OutboundBindAddressExit [::1]"]
        return lines

    def _client(self, node: Node) -> list[str]:
        ports = node.ports
        lines = [
            f"SocksPort {LOOPBACK}:{ports['socks']}",
            f"SocksPort {LOOPBACK}:{ports['socks_ext']} ExtendedErrors",
            f"HTTPTunnelPort {LOOPBACK}:{ports['http']}",
            f"DNSPort {LOOPBACK}:{ports['dns']}",
            f"TransPort {LOOPBACK}:{ports['trans']}",
            "ClientRejectInternalAddresses 0",
            "ClientDNSRejectInternalAddresses 0",
        ]
        # In a directory of its own a socket is for everybody, as Debian's /run/tor/socks is.
        public = " WorldWritable RelaxDirModeCheck" if self._options["sockets"] else ""
        options = {"socks": "SocksPort", "socks_ext": "SocksPort", "control": "ControlPort"}
        flags = {"socks": "", "socks_ext": " ExtendedErrors", "control": ""}
        for key, path in client_sockets(self._options, node).items():
            lines.append(f'{options[key]} unix:"{path}"{public}{flags[key]}')
        if self._options["latency"]:
            lines.append(f"Socks5Proxy {LOOPBACK}:{self._helper['latency_port']}")
        return lines

    def _onion(self, node: Node) -> list[str]:
        # Tor wants one HiddenServicePort line for each virtual port.
        return [
            f'SocksPort unix:"{node.path / "socks.sock"}"',
            f"HiddenServiceDir {node.path / 'service'}",
            "HiddenServiceVersion 3",
            f"HiddenServicePort {ONION_ECHO_PORT} {LOOPBACK}:{self._helper['echo_port']}",
            *(
                f"HiddenServicePort {virtual} {LOOPBACK}:{target}"
                for virtual, target in self._options["onion_services"]
            ),
        ]


def verify_torrc(tor: str, node: Node) -> None:
    """Catch a mistake in --torrc before anything is started."""
    done = subprocess.run(
        [tor, "--verify-config", "--defaults-torrc", "/dev/null", "-f", str(node.torrc)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    if done.returncode:
        rows = done.stdout.splitlines() + done.stderr.splitlines()
        reason = [row for row in rows if "[warn]" in row or "[err]" in row]
        raise TornetError(f"{node.name}: bad torrc:\n" + "\n".join(reason[-3:]))


def make_keys(tor: str, nodes: list[Node]) -> None:
    """Authority certificates and relay identities, a few at a time."""
    gencert = find_program("tor-gencert")

    def one(node: Node) -> None:
        if node.role == "authority":
            node.v3ident = _authority_certificate(gencert, node)
        # A throw-away configuration: the real one needs all the authorities' fingerprints,
        # which are what is made here.
        _run(
            [
                *(tor, "--list-fingerprint", "--ignore-missing-torrc"),
                *("--defaults-torrc", "/dev/null", "-f", "/dev/null", "--DataDirectory", node.dir),
                *("--ORPort", "1", "--Nickname", node.name, "--Log", "err stderr"),
            ]
        )
        node.fingerprint = (node.path / "fingerprint").read_text().split()[-1]

    with concurrent.futures.ThreadPoolExecutor(max(2, min(8, os.cpu_count() or 2))) as pool:
        list(pool.map(one, [node for node in nodes if node.is_relay]))


def _authority_certificate(gencert: str, node: Node) -> str:
    """Make an authority's keys; gives the fingerprint of its identity key."""
    keys = node.path / "keys"
    keys.mkdir(mode=0o700)
    read_end, write_end = os.pipe()
    try:
        os.write(write_end, b"tornet test network\n")
        os.close(write_end)
        command = [
            *(gencert, "--create-identity-key", "--passphrase-fd", str(read_end), "-m", "12"),
            *("-a", f"{LOOPBACK}:{node.ports['dir']}", "-i", str(keys / "authority_identity_key")),
            *("-s", str(keys / "authority_signing_key"), "-c", str(keys / "authority_certificate")),
        ]
        _run(command, pass_fds=(read_end,))
    finally:
        os.close(read_end)
    text = (keys / "authority_certificate").read_text()
    match = re.search(r"^fingerprint ([0-9A-F]{40})$", text, re.MULTILINE)
    if not match:
        raise TornetError(f"{node.name}: no fingerprint in certificate")
    return match.group(1)


def _run(command: list[str], pass_fds: tuple[int, ...] = ()) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, pass_fds=pass_fds)
    if done.returncode:
        detail = (done.stderr or done.stdout).strip()[-600:]
        raise TornetError(f"{shlex.join(command[:2])} failed: {detail}")
