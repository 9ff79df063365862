# SPDX-License-Identifier: GPL-3.0-or-later
"""What the host is called and where it is: the things that a program inside must not be able to see."""

from __future__ import annotations

import contextlib
import glob
import os
import socket
from pathlib import Path
from typing import Any, Final

from avne.probes.sockets import DAEMONS

_KEEP = 400  # characters of a file that tell it from another
_SETUID: Final = ("/usr/bin/su", "/bin/su", "/usr/bin/mount", "/bin/mount", "/usr/bin/passwd")
_NETWORK_TYPES: Final = (
    "nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "afs", "autofs",
    "fuse.sshfs", "fuse.gvfsd-fuse", "fuse.rclone",
)  # fmt: skip
_HARMLESS_MODULES: Final = frozenset(("files", "dns", "compat", "db", "myhostname"))


def _text(path: str) -> str:
    try:
        return Path(path).read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _interfaces() -> list[str]:
    with contextlib.suppress(OSError):
        return [name for _, name in socket.if_nameindex() if name not in ("lo", "tun0")]
    return []


def _macs() -> list[str]:
    found = {_text(f"/sys/class/net/{name}/address").strip() for name in _interfaces()}
    return sorted(mac for mac in found if mac and mac != "00:00:00:00:00:00")


def _addresses() -> list[str]:
    """As /proc/net shows them: IPv4 in dots, IPv6 in 32 digits."""
    lines = _text("/proc/self/net/fib_trie").splitlines()
    v4 = {
        lines[i].split()[-1] for i in range(len(lines) - 1)
        if "|--" in lines[i] and "/32 host LOCAL" in lines[i + 1]
    }  # fmt: skip
    v6 = {
        line.split()[0] for line in _text("/proc/self/net/if_inet6").splitlines() if not line.endswith(" lo")
    }
    return sorted(address for address in v4 if not address.startswith("127.")) + sorted(v6)


def _rows(path: str) -> str:
    """The last characters of a file of records that are text: a host's name or address in wtmp(5)."""
    data = _text(path)
    words = ["".join(c if c.isprintable() and c.isascii() else "\n" for c in data)]
    long = [word for word in words[0].split("\n") if len(word) > 6]
    return long[-1] if long else ""


def _dmi() -> list[str]:
    found = {_text(path).strip() for path in glob.glob("/sys/class/dmi/id/*")}
    return sorted(text for text in found if len(text) > 3)


def _mounts() -> tuple[list[str], list[str]]:
    """Servers, and directories, of network file systems."""
    servers, places = [], []
    for line in _text("/proc/self/mountinfo").splitlines():
        head, _, tail = line.partition(" - ")
        words = tail.split()
        if len(words) > 1 and words[0] in _NETWORK_TYPES:
            places.append(head.split()[4])
            if ":" in words[1] or words[1].startswith("//"):
                servers.append(words[1])
    return servers, places


def _daemons() -> dict[str, str]:
    """Where each daemon listens, of those that this user can reach."""
    found = {}
    words = {"uid": str(os.getuid()), "home": os.path.expanduser("~")}
    for name, (_, _, patterns) in DAEMONS.items():
        paths = [path for pattern in patterns for path in sorted(glob.glob(pattern.format(**words)))]
        if paths:
            found[name] = paths[0]
    return found


def _files() -> dict[str, str]:
    leases = lease_files()
    found = {
        "hostname": _text("/etc/hostname").strip(),
        "machine-id": _text("/etc/machine-id").strip(),
        "dbus-machine-id": _text("/var/lib/dbus/machine-id").strip(),
        "hosts": _own_hosts(),
        "utmp": _rows("/run/utmp"),
        "wtmp": _rows("/var/log/wtmp") or _rows("/var/log/lastlog"),
        "dhcp": next(filter(None, (_text(path)[:_KEEP] for path in leases)), ""),
        "netif": _text("/run/systemd/netif/state")[:_KEEP],
    }
    if any(map(os.path.exists, ("/run/systemd/resolve/resolv.conf", "/run/resolvconf/resolv.conf",
                                "/run/NetworkManager/resolv.conf"))):  # fmt: skip
        found["resolv-run"] = "there"
    return found


def lease_files() -> list[str]:
    patterns = ("/var/lib/dhcp/*.leases", "/var/lib/dhclient/*.lease*", "/var/lib/dhcpcd/*.lease",
                "/run/systemd/netif/leases/*", "/var/lib/NetworkManager/*.lease")  # fmt: skip
    return [path for pattern in patterns for path in glob.glob(pattern)]


def _own_hosts() -> str:
    """A line of /etc/hosts that is not on every machine."""
    for line in _text("/etc/hosts").splitlines():
        if line.strip() and not line.startswith("#") and not set(line.split()[1:]) <= {
            "localhost", "ip6-localhost", "ip6-loopback", "ip6-allnodes", "ip6-allrouters",
        }:  # fmt: skip
            return line.strip()
    return ""


def foreign_modules(text: str) -> list[str]:
    """The modules of an nsswitch.conf(5) that ask a daemon, or the network."""
    services = [line.partition("#")[0].partition(":")[2] for line in text.splitlines()]
    modules = {word for service in services for word in service.split() if not word.startswith("[")}
    return sorted(modules - _HARMLESS_MODULES)


def name_servers(text: str) -> list[str]:
    """The addresses in a resolv.conf(5)."""
    rows = [line.split() for line in text.splitlines()]
    return [row[1] for row in rows if len(row) > 1 and row[0] == "nameserver"]


def _is_setuid(path: str) -> bool:
    return os.path.exists(path) and bool(os.stat(path).st_mode & 0o4000)


def collect() -> dict[str, Any]:
    """The facts of this host that do not depend on the stage."""
    servers, places = _mounts()
    return {
        "interfaces": _interfaces(),
        "macs": _macs(),
        "addresses": _addresses(),
        "netns": os.stat("/proc/self/ns/net").st_ino,
        "hostname": "" if socket.gethostname() == "localhost" else socket.gethostname(),
        "boot_id": _text("/proc/sys/kernel/random/boot_id").strip(),
        "cmdline": _text("/proc/cmdline").strip(),
        "cgroups": [line.split(":", 2)[2] for line in _text("/proc/self/cgroup").splitlines()
                    if line.count(":") > 1 and line.split(":", 2)[2] != "/"],
        "dmi": _dmi(),
        "servers": servers,
        "network_mounts": places,
        "daemons": _daemons() or None,
        "files": _files(),
        "lease_files": lease_files() or ["/var/lib/dhcp/dhclient.leases"],
        "resolvers": name_servers(_text("/etc/resolv.conf")),
        "nsswitch": foreign_modules(_text("/etc/nsswitch.conf")),
        "protocols": [line.split()[0] for line in _text("/proc/self/net/protocols").splitlines()[1:]],
        "proc_keys": bool(_text("/proc/keys").strip()),
        "proc_key_users": bool(_text("/proc/key-users").strip()),
        "setuid": next(filter(_is_setuid, _SETUID), ""),
    }  # fmt: skip
