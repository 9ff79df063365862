# SPDX-License-Identifier: GPL-3.0-or-later
"""What a failing step of the helper means, and what to do: (stage, errno) → problem and cure.

The helper has tried the real thing and said what failed.  The settings of the machine are read
here, afterwards, only to find the words.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from avne.errors import EXIT_AVNE, EXIT_CANNOT_EXECUTE, EXIT_NOT_FOUND, AvneError

SETUP = "Or let an administrator install the setuid helper: sudo avne setup"
_CONTAINER = (
    "Inside a container: start it with --security-opt seccomp=unconfined --security-opt apparmor=unconfined "
    "--security-opt systempaths=unconfined --device /dev/net/tun, or run avne on the host."
)
_UBUNTU = "kernel/apparmor_restrict_unprivileged_userns"

_PLAIN = {
    "IDENTITY": (
        "the helper was started with privileges that it does not know",
        "Start avne as an ordinary user or as root; the setuid helper is the one that sudo avne setup makes.",
    ),
    "DESCRIPTORS": (
        "what the caller has open cannot be closed, so nothing was started",
        f"avne needs Linux 5.11 or later. {_CONTAINER}",
    ),
    "STDIO": (
        "standard input, output or error is no file, terminal, pipe or stream, but a way around avne",
        "Put a pipe between: SOURCE | avne run … | TARGET",
    ),
    "FIND": (
        "a file or directory that was to be shown inside has gone, or was moved",
        "Do --share, the working directory and HOME name what is there? Then try again.",
    ),
    "SHARE": (
        "a file or directory cannot be shown inside",
        "Does --share name a file, directory or socket that no other option hides or makes read-only?",
    ),
    "MOUNT_HOME": (
        "the home directory cannot be covered by an overlay",
        "Is no other file system mounted below it? Else leave --private-home and --profile out.",
    ),
    "FORK": ("no more processes can be started", "Look at ulimit -u, and end some."),
    "TUN_CONFIGURE": (
        "the tun device cannot be set up",
        "avne needs Linux 5.11 or later with CONFIG_TUN; inside a container, CAP_NET_ADMIN.",
    ),
    "VETH": (
        "/dev/net/tun cannot be opened, and no veth pair can be made in its place",
        "sudo modprobe tun && sudo chmod 0666 /dev/net/tun; or sudo modprobe veth; or a container's --device",
    ),
    "ADDRESSES": ("the tun device takes no address", "Is the kernel's network complete? dmesg | tail"),
    "ROUTES": ("the tun device takes no route", "Is the kernel's network complete? dmesg | tail"),
    "HOSTNAME": ("the environment's name cannot be set", "Inside a container: run avne on the host."),
    "DROP": ("the privileges could not be dropped for good, so nothing was started", _CONTAINER),
    "SEAL": ("the seccomp filter could not be set", "avne needs a kernel with CONFIG_SECCOMP_FILTER."),
    "GO": ("the environment did not understand what to run", "Fewer arguments or a smaller environment?"),
    "TARGET": ("that process is not in the environment", "avne ps shows the environments, by name and id."),
}
_PLACES = {
    "MOUNT_PRIVATE": "the mounts cannot be made private",
    "MOUNT_PROC": "a new /proc cannot be mounted",
    "MOUNT_SYS": "a new /sys cannot be mounted",
    "MOUNT_RUN": "/run cannot be covered",
    "MOUNT_TMP": "/tmp and /var/tmp cannot be covered",
    "MASK": "what tells of the host in /proc, or a socket, cannot be covered",
    "MOUNT_DEV": "a new /dev cannot be made",
    "MOUNT_ETC": "/etc cannot be covered, by an overlay or otherwise",
}


def explain(stage: str, error: int, setuid: bool, program: str) -> AvneError:
    """The words for one of `launch.STAGES`; `program` is the name that EXEC could not start."""
    if stage == "EXEC":
        return _cannot_execute(error, program)
    if stage == "REQUEST":
        problem, cure = _another_version(setuid)
    elif stage == "USER_NAMESPACE":
        problem, cure = _no_user_namespace(error)
    elif stage == "TUN_OPEN":
        problem, cure = _no_tun(error)
    elif stage == "ATTACH":
        problem, cure = _not_attached(error)
    elif stage == "NAMESPACES":
        problem, cure = _no_namespaces(error)
    elif _apparmor_restricts() and not setuid and error in (errno.EPERM, errno.EACCES):
        problem = "AppArmor restricts user namespaces on this machine"
        cure = f"Ask an administrator: sudo sysctl {_UBUNTU.replace('/', '.')}=0. {SETUP}"
    elif stage == "ID_MAP":
        problem, cure = "the user namespace takes no user", f"Is it allowed for your user? {SETUP}"
    elif stage in _PLACES:
        problem, cure = _PLACES[stage], _mount_cure(stage, error)
    else:
        problem, cure = _PLAIN[stage]
    return AvneError(f"{problem} ({_name(error)})", cure, EXIT_AVNE)


def _cannot_execute(error: int, program: str) -> AvneError:
    if error == errno.ENOENT:
        return AvneError(
            f"{program}: not found",
            "Is its name right, and is it in PATH? A script needs the interpreter of its first line, too.",
            EXIT_NOT_FOUND,
        )
    cures = {
        errno.EACCES: "Is it a program that you may execute? ls -l, and chmod +x for one of yours.",
        errno.E2BIG: "Fewer or shorter arguments, or a smaller environment.",
    }
    cure = cures.get(error, "Is it a program for this machine? Try: file PROGRAM")
    return AvneError(f"{program}: {os.strerror(error)}", cure, EXIT_CANNOT_EXECUTE)


def _not_attached(error: int) -> tuple[str, str]:
    problem = "the environment does not take the program"
    cures = {
        errno.ESRCH: "It is ending; start another: avne run PROGRAM",
        errno.EUSERS: "It has as many attached programs as it can: end one of them.",
        errno.EPERM: "Only the user who started it can attach to it.",
        errno.EOPNOTSUPP: "--raw needs one in a user namespace: avne run --helper rootless, not as root.",
    }
    return problem, cures.get(error, "Fewer arguments or a smaller environment?")


def _another_version(setuid: bool) -> tuple[str, str]:
    cure = "sudo avne setup" if setuid else "pip install --force-reinstall avne, or python hatch_build.py"
    return "the helper is of another version than avne", f"Install it again: {cure}"


def _no_user_namespace(error: int) -> tuple[str, str]:
    if _setting("kernel/unprivileged_userns_clone") == "0":
        return (
            "user namespaces are for root only on this machine (kernel.unprivileged_userns_clone=0)",
            f"Ask an administrator: sudo sysctl kernel.unprivileged_userns_clone=1. {SETUP}",
        )
    if _setting("user/max_user_namespaces") == "0":
        return (
            "user namespaces are switched off on this machine (user.max_user_namespaces=0)",
            f"Ask an administrator: sudo sysctl user.max_user_namespaces=15000. {SETUP}",
        )
    if error in (errno.ENOSPC, errno.EUSERS):
        return "there are too many user namespaces", f"End some: lsns -t user. {SETUP}"
    if error == errno.EINVAL:
        return "this kernel has no user namespaces (CONFIG_USER_NS)", SETUP
    if _in_container():
        return "this container does not allow user namespaces", _CONTAINER
    if _apparmor_restricts():
        return (
            "AppArmor restricts user namespaces on this machine",
            f"Ask an administrator: sudo sysctl {_UBUNTU.replace('/', '.')}=0. {SETUP}",
        )
    return "user namespaces are not allowed here", f"Not possible inside a chroot. {SETUP}"


def _no_namespaces(error: int) -> tuple[str, str]:
    for kind in ("cgroup", "ipc", "mnt", "net", "pid", "uts"):
        if _setting(f"user/max_{kind}_namespaces") == "0":
            name = f"user.max_{kind}_namespaces"
            return (
                f"namespaces of a kind that avne needs are switched off on this machine ({name}=0)",
                f"Ask an administrator: sudo sysctl {name}=15000",
            )
    if error == errno.ENOSPC:
        return "there are too many namespaces", "End some: lsns; or raise the limits in /proc/sys/user."
    if error == errno.EPERM and _in_container():
        return "this container does not allow namespaces", _CONTAINER
    return "the namespaces cannot be made", "avne needs a kernel with CONFIG_NAMESPACES, and NET_NS, PID_NS…"


def _no_tun(error: int) -> tuple[str, str]:
    if error in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return "there is no /dev/net/tun", "sudo modprobe tun; in a container, --device /dev/net/tun"
    if error in (errno.EACCES, errno.EPERM):
        return (
            "/dev/net/tun may not be opened",
            f"Ask an administrator: sudo chmod 0666 /dev/net/tun, as most systems have it. {SETUP}",
        )
    return "/dev/net/tun cannot be opened", "sudo modprobe tun"


def _mount_cure(stage: str, error: int) -> str:
    if stage == "MOUNT_PRIVATE" and error == errno.EINVAL:
        return "Not possible inside a chroot."
    if stage == "MOUNT_ETC" and error in (errno.EINVAL, errno.ENODEV, errno.EPERM, errno.ENOSYS):
        return f"avne needs Linux 5.12 or later, or overlayfs: sudo modprobe overlay. {_CONTAINER}"
    if stage == "MOUNT_PROC" and error == errno.EPERM:
        where = "" if _in_container() else "What covers it: findmnt -R /proc. "
        return f"Parts of the old one are covered, and it would show the host. {where}{_CONTAINER}"
    return _CONTAINER if _in_container() else f"dmesg | tail may say more. {SETUP}"


def _setting(name: str) -> str:
    """A sysctl; empty where there is none."""
    try:
        return Path("/proc/sys", name).read_text().strip()
    except OSError:
        return ""


def _apparmor_restricts() -> bool:
    return _setting(_UBUNTU) == "1"


def _in_container() -> bool:
    """Docker, Podman and systemd-nspawn each leave one of these marks."""
    if any(map(os.path.exists, ("/.dockerenv", "/run/.containerenv", "/run/host/container-manager"))):
        return True
    return "\nSeccomp:\t2" in Path("/proc/self/status").read_text()


def _name(error: int) -> str:
    return f"{os.strerror(error)}, {errno.errorcode.get(error, str(error))}"
