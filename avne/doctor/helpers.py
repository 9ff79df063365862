# SPDX-License-Identifier: GPL-3.0-or-later
"""The helpers, the tun, and an environment that is made in earnest, stage by stage."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import Final

from avne.config import load
from avne.doctor import FAILS, LIMITED, OK, Limited, Line
from avne.errors import AvneError
from avne.privileged import launch
from avne.privileged.explain import RESTRICTION, setting

# The stages of request.h by what a user knows of them, in their order; each ends with the one named.
GROUPS: Final = (
    ("who we are", "IDENTITY"),
    ("user namespace", "ID_MAP"),
    ("namespaces", "FIND"),
    ("tun", "VETH"),
    ("addresses, routes", "ROUTES"),
    ("/proc, /sys", "MOUNT_SYS"),
    ("files", "HOSTNAME"),
    ("privileges dropped", "DROP"),
    ("seccomp, Landlock", "SEAL"),
    ("a program", "EXEC"),
)
KINDS: Final = {launch.INSTALLED: "setuid", launch.USERNS: "AppArmor's"}
_GONE: Final = "GONE"
_NODE: Final = "/dev/net/tun"
_DEVICE: Final = os.makedev(10, 200)


def helper() -> str:
    """The package's own: the file that was built, and who may exchange it."""
    path = launch.find_helper()
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        status, data = os.fstat(fd), file.read()
        executable = not os.fstatvfs(fd).f_flag & os.ST_NOEXEC
    launch.layout()  # says what is missing where nothing was built
    from avne.privileged._build import HELPER_SHA256

    reinstall = "Reinstall avne: pip install --force-reinstall avne"
    if hashlib.sha256(data).hexdigest() != HELPER_SHA256:
        raise AvneError(f"{path} is not the helper that was built", reinstall)
    if not executable:
        raise AvneError(f"the file system of {path} is mounted noexec", "Install avne elsewhere.")
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
        raise AvneError(
            f"others may exchange {path} ({stat.filemode(status.st_mode)}, uid {status.st_uid})",
            f"chmod 0755 {path}, and look at who may write there: namei -l {path}",
        )
    return f"{path}, as it was built"


def setuid() -> str:
    """The installed one: hash, owner, mode, group, links, mount, and whether you may run it."""
    from avne.privileged import setup

    if not os.path.lexists(launch.INSTALLED):
        return "not installed (needed only where users may not make namespaces)"
    if problems := setup.verify_installed():
        problem = "; ".join(problems)
        if any("you may not run it" in one for one in problems) and load()["helper"] != "setuid":
            raise Limited(problem, "Ask an administrator: sudo usermod -aG avne USER; then log in again.")
        raise AvneError(problem, "Install it again: sudo avne setup")
    return f"{launch.INSTALLED}, as it was built, and yours to run"


def apparmor() -> str:
    """Ubuntu's restriction of user namespaces, and avne's profile."""
    from avne.privileged import apparmor

    restricted = setting(RESTRICTION) == "1"
    if not os.path.lexists(apparmor.PROFILE):
        if not restricted:
            return "does not restrict user namespaces"
        if os.geteuid() == 0:
            return "restricts user namespaces; root needs none"
        raise Limited("AppArmor restricts user namespaces; avne has no profile", "sudo avne setup --apparmor")
    if problems := apparmor.problems():
        raise Limited("; ".join(problems), "Install it again: sudo avne setup --apparmor")
    told = "restricts" if restricted else "does not restrict"
    return f"{told} user namespaces; avne's profile is for {apparmor.helper_path()}"


def tun() -> str:
    """The node; whether a tun can be made of it inside is what the environment shows."""
    try:
        status = os.stat(_NODE)
    except OSError as error:
        raise Limited(  # what comes of it the environment shows
            f"{_NODE}: {os.strerror(error.errno or 0)}",
            "Load the module: sudo modprobe tun; in a container, --device /dev/net/tun",
        ) from error
    seen = f"{stat.filemode(status.st_mode)}, uid {status.st_uid}"
    if not stat.S_ISCHR(status.st_mode) or status.st_rdev != _DEVICE:
        raise Limited(f"{_NODE} is not the tun device ({seen})", "sudo mknod -m 0666 /dev/net/tun c 10 200")
    try:
        os.close(os.open(_NODE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        found = launch.explain("TUN_OPEN", error.errno or 0, False)
        if isinstance(error, PermissionError):
            raise Limited(f"{found.problem}: {seen}", found.cure) from error
        raise found from error
    return f"may be opened ({seen})"


def environment() -> list[Line]:
    """One is made and a program started in it, with each helper in turn: a line for each group of stages."""
    try:
        helpers = launch.candidates(load()["helper"])
    except AvneError as error:
        return [Line("environment", FAILS, error.problem, error.cure)]
    lines: list[Line] = []
    while True:
        path = helpers.pop(0)
        kind = KINDS.get(path) or ("rootless" if os.geteuid() else "root")
        stage, error_number, instead = _try(path)
        goes_on = bool(stage and helpers and launch.another_may_work(stage))
        lines += _lines(kind, stage, error_number, goes_on, instead)
        if not goes_on:
            return lines


def _lines(kind: str, failed: str, number: int, goes_on: bool, instead: str) -> list[Line]:
    lines: list[Line] = []
    if failed == _GONE:
        return [
            Line(kind, FAILS, "the helper ended without a word", "Look at the kernel's log: dmesg | tail.")
        ]
    for name, last in GROUPS:
        title = f"{kind}: {name}"
        if not failed or launch.STAGES.index(failed) > launch.STAGES.index(last):
            if not (kind in ("root", "setuid") and name == "user namespace"):
                done = _DONE.get(name, "done")
                lines.append(Line(title, OK, (name == "tun" and instead) or done))
            continue
        found = launch.explain(failed, number, kind == "setuid", "true")
        told = f"{found.problem}; the next helper is tried" if goes_on else found.problem
        return [*lines, Line(title, LIMITED if goes_on else FAILS, told, found.cure)]
    return lines


_DONE: Final = {
    "user namespace": "made, with your own number in it",
    "tun": "opened and made in there",
    "privileges dropped": "for good; regaining them was tried",
    "a program": "was started, and has ended",
}


def _try(path: str) -> tuple[str, int, str]:
    """The stage that failed and its errno, an empty one where none did; what there is instead of a tun."""
    env = launch.Environment(path)
    instead = ""
    try:
        while True:
            event = env.receive()
            if isinstance(event, launch.Tun):
                event.close()
                instead = launch.instead_of_tun(event).removeprefix(", ")
                env.go(["true"], {"PATH": "/usr/bin:/bin"}, 0, 0)
            elif isinstance(event, launch.Exited):
                return ("", 0, instead) if event.status == 0 else ("EXEC", 0, instead)
            elif isinstance(event, launch.Failed):
                return event.stage, event.errno, instead
            elif isinstance(event, launch.Gone):
                return _GONE, 0, instead
    finally:
        env.close()
