# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -I -m avne.probes.model COMMAND…``: run COMMAND in a model of a host with a network.

A network namespace with an interface that looks like an uplink (addresses, default routes) and leads
nowhere: the control of the probes that send packets, which must never be sent on a real wire.  /run is
empty, so that no daemon outside asks for anybody, and the resolver is one that is beyond the uplink.
For an ordinary user it is in a user namespace.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import sys
from pathlib import Path

from avne.probes import calls

UPLINK = "uplink0"
V4, V6 = "198.51.100.7", "2001:db8:7::7"
_RESOLVER = "nameserver 192.0.2.53\n"
_RTM_NEWLINK, _RTM_NEWADDR, _RTM_NEWROUTE = 16, 20, 24
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP, _IFF_NOARP = 0x8913, 0x8914, 0x1, 0x80
_REQUEST_ACK_CREATE = 0x605  # NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL


def _attribute(kind: int, data: bytes) -> bytes:
    return (struct.pack("=HH", 4 + len(data), kind) + data).ljust(-(-(4 + len(data)) // 4) * 4, b"\0")


def _ask(line: socket.socket, kind: int, body: bytes) -> None:
    line.send(struct.pack("=IHHII", 16 + len(body), kind, _REQUEST_ACK_CREATE, 1, 0) + body)
    error = -struct.unpack_from("=i", line.recv(4096), 16)[0]
    if error:
        raise OSError(error, os.strerror(error))


def make_uplink(name: str = UPLINK, silent: bool = True) -> None:
    """One end of a veth(4) with addresses and default routes; `silent`: the kernel sends nothing."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as line:
        before = dict(socket.if_nameindex())
        kind = _attribute(18, _attribute(1, b"veth"))
        link = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + _attribute(3, name.encode() + b"\0") + kind
        _ask(line, _RTM_NEWLINK, link)
        for index, made in socket.if_nameindex():
            if index not in before and silent:
                _silence(made)
            if index not in before or made == "lo":
                _up(made)
        index = socket.if_nametoindex(name)
        for family, text, length in ((socket.AF_INET, V4, 24), (socket.AF_INET6, V6, 64)):
            to = _attribute(1, socket.inet_pton(family, text)) + _attribute(2, socket.inet_pton(family, text))
            _ask(line, _RTM_NEWADDR, struct.pack("=BBBBI", family, length, 0x82, 0, index) + to)
            route = struct.pack("=BBBBBBBBI", family, 0, 0, 0, 254, 4, 0, 1, 0)
            _ask(line, _RTM_NEWROUTE, route + _attribute(4, struct.pack("=I", index)))


def _silence(name: str) -> None:
    for option, value in (("addr_gen_mode", "1"), ("accept_dad", "0"), ("router_solicitations", "0")):
        with contextlib.suppress(OSError):
            Path(f"/proc/sys/net/ipv6/conf/{name}/{option}").write_text(value)


def _up(name: str) -> None:
    """Up, and without ARP: a packet leaves at once."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        asked = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("=16sH22x", name.encode(), 0))
        (flags,) = struct.unpack_from("=H", asked, 16)
        wanted = flags | _IFF_UP | (0 if name == "lo" else _IFF_NOARP)
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("=16sH22x", name.encode(), wanted))


def _hide_daemons() -> None:
    """In a mount namespace of our own, nothing of which is seen outside."""
    resolver = os.path.realpath("/etc/resolv.conf")
    calls.mount("none", "/", "", calls.MS_REC | calls.MS_PRIVATE)
    for directory in ("/run", "/var/run"):
        if not os.path.islink(directory):
            calls.mount("tmpfs", directory, "tmpfs", 0)
    if resolver.startswith("/run/"):
        os.makedirs(os.path.dirname(resolver))
        Path(resolver).write_text(_RESOLVER)
    else:
        Path("/run/resolv.conf").write_text(_RESOLVER)
        calls.mount("/run/resolv.conf", resolver, "", calls.MS_BIND)


def enter() -> None:
    """Be in such a network.  OSError where this user may not make one."""
    uid, gid = os.getuid(), os.getgid()
    spaces = calls.CLONE_NEWNET | calls.CLONE_NEWNS
    if uid == 0:
        calls.unshare(spaces)
    else:
        calls.unshare(calls.CLONE_NEWUSER | spaces)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    _hide_daemons()
    make_uplink()
    Path("/proc/sys/net/ipv4/ping_group_range").write_text(f"{gid} {gid}")


def main() -> None:
    try:
        enter()
    except OSError as error:
        sys.stderr.write(f"avne: no model of a network: {error}\n")
        sys.exit(125)
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
