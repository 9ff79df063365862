# SPDX-License-Identifier: GPL-3.0-or-later
"""Ways out through unix sockets, which know no network namespace, and named pipes."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Final

from avne.probes.descriptors import take_rights
from avne.probes.probe import Absent, Finding, Plan, leaked, register, sent

probe = register("unix sockets")

STREAM, DATAGRAM, PACKETS = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET

# The stage's own sockets: name → (row, directory, file, type, made late?, sentence).
OWN: Final = {
    "unix-run": ("L68", "run", "run.sock", STREAM, False, "a socket below /run"),
    "unix-tmp": ("L15", "tmp", "tmp.sock", STREAM, False, "a socket in /tmp"),
    "unix-tmp-late": ("L15", "tmp", "late.sock", STREAM, True, "a socket in /tmp, made meanwhile"),
    "unix-var-tmp": ("L15", "var", "var.sock", STREAM, False, "a socket in /var/tmp"),
    "unix-dev-shm": ("L15", "shm", "shm.sock", STREAM, False, "a socket in /dev/shm"),
    "unix-home": ("L17", "home", "home.sock", STREAM, False, "a socket in the home"),
    "unix-home-dgram": ("L17", "home", "dgram.sock", DATAGRAM, False, "a datagram socket in the home"),
    "unix-home-seqpacket": ("L17", "home", "packet.sock", PACKETS, False, "a SEQPACKET socket in the home"),
    "unix-home-late": ("L17", "home", "late.sock", STREAM, True, "a socket in the home, made meanwhile"),
    "unix-home-renamed": (
        "L17", "home", "renamed.sock", STREAM, True, "a socket in the home that is renamed meanwhile"),
    "unix-home-dgram-late": (
        "L17", "home", "dgram-late.sock", DATAGRAM, True, "a datagram socket in the home, made meanwhile"),
    "unix-cwd-late": ("L17", "cwd", "late.sock", STREAM, True,
        "a socket in the working directory, made meanwhile"),
}  # fmt: skip

# Before Linux 7.1 (Landlock ABI 9) nothing in the kernel tells such a socket from one that was made inside.
_KNOWN: Final = "Linux 7.1, --strict, or for the home --private-home"

# Daemons that act for whoever connects, and where they listen; `{home}` and `{uid}` are filled in.
DAEMONS: Final = {
    "nscd": ("L10", "the name service cache asks DNS for you", ["/var/run/nscd/socket"]),
    "resolved": ("L11", "systemd-resolved asks DNS for you", [
        "/run/systemd/resolve/io.systemd.Resolve", "/run/systemd/resolve/io.systemd.Resolve.Monitor"]),
    "userdb": ("L12", "systemd-userdbd asks directories for you", [
        "/run/systemd/userdb/io.systemd.Multiplexer"]),
    "avahi": ("L12", "avahi asks mDNS for you", ["/run/avahi-daemon/socket"]),
    "sssd": ("L12", "sssd asks directories for you", ["/var/lib/sss/pipes/nss"]),
    "nslcd": ("L12", "nslcd and winbind ask directories for you", [
        "/run/nslcd/socket", "/run/samba/winbindd/pipe"]),
    "session-bus": ("L13", "the session bus starts services and commands", ["/run/user/{uid}/bus"]),
    "system-bus": ("L14", "the system bus: NetworkManager, resolve1, GeoClue, PackageKit", [
        "/run/dbus/system_bus_socket"]),
    "systemd": ("L13", "systemd of the user starts units", ["/run/user/{uid}/systemd/private"]),
    "tmux": ("L15", "tmux runs commands", ["/tmp/tmux-{uid}/default"]),
    "screen": ("L15", "screen runs commands", ["/run/screen/S-*/*", "/tmp/screens/S-*/*"]),
    "emacs": ("L15", "emacs runs commands", ["/run/user/{uid}/emacs/server", "/tmp/emacs{uid}/server"]),
    "docker": ("L15", "docker, podman, libvirt run anything", [
        "/run/docker.sock", "/run/user/{uid}/docker.sock", "/run/user/{uid}/podman/podman.sock",
        "/run/libvirt/libvirt-sock"]),
    "snapd": ("L15", "snapd and lxd run anything", ["/run/snapd.socket", "/var/lib/lxd/unix.socket"]),
    "dirmngr": ("L16", "gpg's dirmngr fetches keys, with DNS", [
        "/run/user/{uid}/gnupg/S.dirmngr", "{home}/.gnupg/S.dirmngr"]),
    "gpg-agent": ("L17", "gpg-agent", [
        "/run/user/{uid}/gnupg/S.gpg-agent", "{home}/.gnupg/S.gpg-agent"]),
    "ssh-master": ("L17", "a shared ssh connection carries new sessions", [
        "{home}/.ssh/master-*", "{home}/.ssh/cm-*", "{home}/.ssh/control-*"]),
    "git-credential": ("L17", "git's credential cache gives passwords", [
        "{home}/.cache/git/credential/socket"]),
    "x11": ("L18", "the X server lets type into other windows", ["/tmp/.X11-unix/X*"]),
    "wayland": ("L18", "the Wayland compositor", ["/run/user/{uid}/wayland-*[0-9]"]),
    "audio": ("L18", "PulseAudio and PipeWire load modules that open the network", [
        "/run/user/{uid}/pulse/native", "/run/user/{uid}/pipewire-0"]),
    "cups": ("L18", "CUPS prints to the network", ["/run/cups/cups.sock"]),
    "syslog": ("L18", "the system's log, which may go to another machine", [
        "/run/systemd/journal/dev-log", "/run/systemd/journal/socket"]),
    "tor-control": ("L68", "Tor's control socket", ["/run/tor/control"]),
}  # fmt: skip


def _own(name: str) -> Callable[[Plan], Finding]:
    _, where, file, kind, _, _ = OWN[name]

    def attempt(plan: Plan) -> Finding:
        with socket.socket(socket.AF_UNIX, kind) as sock:
            sock.connect(f"{plan['directories'][where]}/{file}")
            sock.sendall(plan.token.encode())
        return sent()

    return attempt


def _daemon(name: str) -> Callable[[Plan], Finding]:
    """Only connect: that is enough to know, and nothing is asked of a daemon of the user's."""

    def attempt(plan: Plan) -> Finding:
        path = plan["daemons"].get(name)
        if not path:
            raise Absent("no such daemon on this machine")
        last: OSError | None = None
        for kind in (STREAM, DATAGRAM, PACKETS):
            with socket.socket(socket.AF_UNIX, kind) as sock:
                try:
                    sock.connect(path)
                    return leaked(f"connected to {path}")
                except OSError as error:
                    if error.errno != 91:  # EPROTOTYPE: another type
                        last = error
        assert last
        raise last

    return attempt


for _name, (_row, _where, _file, _kind, _late, _sentence) in OWN.items():
    _hole = _KNOWN if "late" in _file and _where != "tmp" else ""
    probe(_row, _sentence, _name, ear=True, late=_late, known=_hole)(_own(_name))
for _name, (_row, _sentence, _paths) in DAEMONS.items():
    probe(_row, _sentence, f"daemon-{_name}")(_daemon(_name))


@probe("L19", "an abstract stream socket", ear=True)
def abstract_stream(plan: Plan) -> Finding:
    return _abstract(plan, STREAM)


@probe("L19", "an abstract datagram socket", ear=True)
def abstract_dgram(plan: Plan) -> Finding:
    return _abstract(plan, DATAGRAM)


def _abstract(plan: Plan, kind: int) -> Finding:
    with socket.socket(socket.AF_UNIX, kind) as sock:
        sock.connect("\0" + plan["abstract"] + ("" if kind == STREAM else "-dgram"))
        sock.sendall(plan.token.encode())
    return sent()


@probe("L06", "a socket in the home by which a TCP connection is handed in", ear=True)
def unix_home_rights(plan: Plan) -> Finding:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(2)
        sock.connect(f"{plan['directories']['home']}/rights.sock")
        take_rights(plan, sock)
    return sent()


@probe("L15", "a named pipe in /tmp with a reader outside", ear=True)
def fifo_tmp(plan: Plan) -> Finding:
    fd = os.open(f"{plan['directories']['tmp']}/pipe", os.O_WRONLY | os.O_NONBLOCK)
    os.write(fd, plan.token.encode())
    return sent()
