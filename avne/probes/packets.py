# SPDX-License-Identifier: GPL-3.0-or-later
"""Packets of every kind, and what happens to them: the only interface they may leave by is the tun.

The kernel's own counters decide (/proc/net/dev): a packet that leaves by another interface than
the tun or lo is a leak.  The addresses are those of documentation (RFC 5737, RFC 3849) and of
groups that no router forwards; a control is never sent on a real wire (model.py).
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from avne.probes.probe import STOPPED, Finding, Plan, leaked, register, seen, sent, stopped

probe = register("packets")

V4, V6 = "192.0.2.80", "2001:db8::2:80"  # nobody's
TUN: Final = "tun0"
_IP_FREEBIND = 15
_WAIT = 0.2  # s for an answer, or for a packet to be counted

Send = Callable[[Plan], socket.socket]


def sent_by() -> dict[str, int]:
    """Packets sent by each interface but lo."""
    rows = [line.split() for line in Path("/proc/self/net/dev").read_text().splitlines()[2:]]
    return {row[0].rstrip(":"): int(row[10]) for row in rows if row[0] != "lo:"}


def moved(before: dict[str, int]) -> set[str]:
    """The interfaces that have sent something since `before`."""
    return {name for name, count in sent_by().items() if count > before.get(name, 0)}


def watched(send: Send) -> Callable[[Plan], Finding]:
    """An attempt that sends, and looks at where it went.  The socket that `send` gives is waited on for
    the error that answers; it is over as soon as something has left by another interface than the tun."""

    def attempt(plan: Plan) -> Finding:
        before = sent_by()
        failed: OSError | None = None
        try:
            with send(plan) as sock:
                _await_error(sock, before)
        except OSError as error:
            failed = error
        by = moved(before)
        if by - {TUN}:
            return leaked(f"by {', '.join(sorted(by - {TUN}))}")
        if failed:
            return stopped(failed, "answered in the tun" if by else "")
        return Finding(STOPPED, "swallowed by the tun" if by else "not sent")

    return attempt


def _await_error(sock: socket.socket, before: dict[str, int]) -> None:
    """Raises the error that comes as an answer."""
    until = time.monotonic() + _WAIT
    while not moved(before) - {TUN} and time.monotonic() < until:
        if select.select([sock], [sock] if sock.type == socket.SOCK_STREAM else [], [], 0.01)[1]:
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, os.strerror(error))
            return
        if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(error, os.strerror(error))


def _socket(address: str, kind: int, protocol: int = 0) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind, protocol)


def _udp(address: str, port: int, data: bytes = b"", broadcast: bool = False) -> Send:
    def send(plan: Plan) -> socket.socket:
        sock = _socket(address, socket.SOCK_DGRAM)
        if broadcast:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.connect((address, port, 0, _index()) if address.startswith("ff02") else (address, port))
        sock.send(data or plan.token.encode())
        return sock

    return send


def _index() -> int:
    """Of an interface that leads out, with an address of its own (proc_pid_net(5), if_inet6)."""
    rows = [line.split() for line in Path("/proc/self/net/if_inet6").read_text().splitlines()]
    return next((int(row[1], 16) for row in rows if row[-1] != "lo" and not row[0].startswith("fe80")), 1)


def _tcp(address: str, port: int, protocol: int = 0) -> Send:
    def send(plan: Plan) -> socket.socket:
        sock = _socket(address, socket.SOCK_STREAM, protocol)
        sock.setblocking(False)
        error = sock.connect_ex((address, port))
        if error != errno.EINPROGRESS:
            raise OSError(error, os.strerror(error))
        return sock

    return send


def _echo(address: str) -> Send:
    def send(plan: Plan) -> socket.socket:
        six = ":" in address
        sock = _socket(address, socket.SOCK_DGRAM, 58 if six else 1)
        sock.connect((address, 0))
        sock.send(struct.pack("!BBHHH", 128 if six else 8, 0, 0, 0, 1) + plan.token.encode())
        return sock

    return send


def _question(name: str) -> bytes:
    """A DNS question for the A record of `name`."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!6H", 0x6176, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", 1, 1)


def _raw(protocol: int, address: str, data: bytes) -> Send:
    def send(plan: Plan) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol)
        sock.sendto(data, (address, 0))
        return sock

    return send


_QUESTION = _question("leak.avne.invalid")

KINDS: Final[dict[str, tuple[str, str, Send]]] = {
    "tcp4": ("L64", "TCP over IPv4", _tcp(V4, 80)),
    "tcp6": ("L64", "TCP over IPv6", _tcp(V6, 80)),
    "tcp-mptcp": ("L64", "Multipath TCP", _tcp(V4, 80, 262)),
    "udp4": ("L64", "UDP over IPv4", _udp(V4, 9)),
    "udp6": ("L64", "UDP over IPv6", _udp(V6, 9)),
    "quic": ("L64", "QUIC (UDP port 443)", _udp(V4, 443)),
    "ntp": ("L64", "NTP (UDP port 123)", _udp(V4, 123, b"\x1b" + bytes(47))),
    "dns-udp4": ("L52", "DNS to a server of the program's choice", _udp(V4, 53, _QUESTION)),
    "dns-udp6": ("L52", "the same over IPv6", _udp(V6, 53, _QUESTION)),
    "dns-tcp": ("L52", "DNS over TCP", _tcp(V4, 53)),
    "dns-tls": ("L52", "DNS over TLS (port 853)", _tcp(V4, 853)),
    "mdns4": ("L52", "mDNS", _udp("224.0.0.251", 5353, _QUESTION)),
    "mdns6": ("L52", "mDNS over IPv6", _udp("ff02::fb", 5353, _QUESTION)),
    "llmnr": ("L52", "LLMNR", _udp("224.0.0.252", 5355, _QUESTION)),
    "ssdp": ("L52", "SSDP", _udp("239.255.255.250", 1900)),
    "broadcast": ("L64", "a broadcast", _udp("255.255.255.255", 9, broadcast=True)),
    "fragments": ("L64", "a datagram that the wire would fragment", _udp(V4, 9, bytes(60000))),
    "ping4": ("L64", "ICMP echo", _echo(V4)),
    "ping6": ("L64", "ICMPv6 echo", _echo(V6)),
    "udplite": ("L64", "UDP-Lite", _raw(136, V4, bytes(8))),
    "raw-ip": ("L64", "raw IP of an unknown protocol", _raw(253, V4, b"raw")),
}  # fmt: skip

_NEEDS_ROOT: Final = ("udplite", "raw-ip")

for _name, (_row, _sentence, _send) in KINDS.items():
    probe(_row, _sentence, _name, packets=True, root=_name in _NEEDS_ROOT)(watched(_send))


def _join_v4(plan: Plan) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    group = socket.inet_aton("239.192.7.7") + socket.inet_aton("0.0.0.0")
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
    return sock


def _join_v6(plan: Plan) -> socket.socket:
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    group = socket.inet_pton(socket.AF_INET6, "ff05::7777") + struct.pack("=I", _index())
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
    return sock


def _resolve(plan: Plan) -> socket.socket:
    """libc's resolver, in a process that is not waited for longer than for any other packet."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    if os.fork() == 0:
        ours.close()
        signal.alarm(1)
        with contextlib.suppress(OSError):
            socket.getaddrinfo(f"{plan.token}avne.invalid", 80)
        os._exit(0)
    theirs.close()
    return ours


def _bind_device(plan: Plan) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, plan["interfaces"][0].encode())
    sock.sendto(plan.token.encode(), (V4, 9))
    return sock


def _frame(plan: Plan) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    sock.bind((plan["interfaces"][0], 0x88B5))
    sock.send(b"\xff" * 6 + bytes(6) + b"\x88\xb5" + plan.token.encode().ljust(46, b"\0"))
    return sock


def _host_source(plan: Plan) -> socket.socket:
    """Where the host has that address it sends; elsewhere it is a forgery, which the netstack drops."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
    sock.bind((next(address for address in plan["addresses"] if "." in address), 0))
    sock.sendto(plan.token.encode(), (V4, 9))
    return sock


for _name, _row, _sentence, _root, _send in (
    ("igmp", "L64", "an IGMP report by joining a group", False, _join_v4),
    ("mld", "L63", "an MLD report by joining a group", False, _join_v6),
    ("getaddrinfo", "L52", "libc's own resolver (getaddrinfo)", False, _resolve),
    ("bind-device", "L64", "UDP bound to the host's interface (SO_BINDTODEVICE)", False, _bind_device),
    ("packet-socket", "L64", "a frame on the host's interface (AF_PACKET)", True, _frame),
    ("host-source", "L64", "the source address of the host (IP_FREEBIND)", False, _host_source),
):
    probe(_row, _sentence, _name, packets=True, root=_root)(watched(_send))


# The host's loopback: what listens there is the stage's own.


@probe("L67", "a TCP service on the host's 127.0.0.1", ear=True)
def loopback_tcp4(plan: Plan) -> Finding:
    return _loopback(plan, "tcp4", "127.0.0.1", socket.SOCK_STREAM)


@probe("L67", "a TCP service on the host's ::1", ear=True)
def loopback_tcp6(plan: Plan) -> Finding:
    return _loopback(plan, "tcp6", "::1", socket.SOCK_STREAM)


@probe("L67", "a UDP service on the host's 127.0.0.1", ear=True)
def loopback_udp4(plan: Plan) -> Finding:
    return _loopback(plan, "udp4", "127.0.0.1", socket.SOCK_DGRAM)


@probe("L67", "a UDP service on the host's ::1", ear=True)
def loopback_udp6(plan: Plan) -> Finding:
    return _loopback(plan, "udp6", "::1", socket.SOCK_DGRAM)


@probe("L67", "a TCP service on an address of the host", ear=True)
def host_address(plan: Plan) -> Finding:
    """The listener is bound to lo: nobody from outside could reach it."""
    return _loopback(plan, "host", plan["host_address"], socket.SOCK_STREAM)


def _loopback(plan: Plan, port: str, address: str, kind: int) -> Finding:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, kind) as sock:
        sock.settimeout(1)
        sock.connect((address, plan["ports"][port]))
        sock.sendall(plan.token.encode())
    return sent()


@probe(
    "L63",
    "packets that the kernel sends by itself when the network comes up",
    start="the network is up, and has been used",
)
def quiet(plan: Plan) -> Finding:
    """Router solicitations, neighbour discovery, multicast reports: what was sent before any program."""
    counts = plan["sent_at_start"]
    others = {name: count for name, count in counts.items() if name != TUN and count}
    return seen(bool(others or counts.get(TUN)), str(counts), "silent")
