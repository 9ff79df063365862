# SPDX-License-Identifier: GPL-3.0-or-later
"""Ordinary users, and how to run a program as one: as after a login, in a session of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

TEST_USER = "avnetest"

# A tun that everybody may open, as udev makes it on a desktop; only for this program and what it starts.
_OPEN_TUN = (
    "mount -t tmpfs -o mode=0755,size=4k tmpfs /dev/net && mknod -m 0666 /dev/net/tun c 10 200"
    ' || { echo "cannot make a private /dev/net/tun" >&2; exit 99; }; exec "$@"'
)
_NO_TUN = 'mount -t tmpfs -o mode=0755,size=4k tmpfs /dev/net || exit 99; exec "$@"'


class Person(NamedTuple):
    name: str
    uid: int
    gid: int
    home: Path


ROOT = Person("root", 0, 0, Path("/root"))


def find_person(name: str) -> Person:
    entry = pwd.getpwnam(name)
    return Person(entry.pw_name, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir))


def add_person(name: str) -> tuple[Person, bool]:
    """The user of that name with a home; made if there is none (then true)."""
    try:
        return find_person(name), False
    except KeyError:
        subprocess.run(["useradd", "--create-home", "--shell", "/bin/bash", name], check=True)
        return find_person(name), True


def remove_person(person: Person) -> None:
    """The user, the home, and the directory for sessions that avne made."""
    subprocess.run(["userdel", "--remove", person.name], check=True, capture_output=True)
    shutil.rmtree(f"/dev/shm/avne-{person.uid}", ignore_errors=True)


def command_as(
    person: Person, command: Sequence[str], env: Mapping[str, str] | None = None, tun: str = "open"
) -> list[str]:
    """The argument vector that runs `command` as `person`.

    Every step execs the next, so the process that is started is, in the end, the command itself.
    The environment is that of a login (HOME, SHELL, USER, LOGNAME, PATH, TERM, LANG) and `env`.
    `tun`: "open" gives it a private /dev/net/tun that everybody may open, "none" a /dev/net without,
    "host" the host's.
    """
    identity = [f"--reuid={person.uid}", f"--regid={person.gid}", "--init-groups", "--reset-env"]
    settings = [f"{key}={value}" for key, value in {"LANG": "C.UTF-8", **(env or {})}.items()]
    login = ["setpriv", *identity, "--", "env", *settings, *command]
    if tun == "host":
        return login
    script = {"open": _OPEN_TUN, "none": _NO_TUN}[tun]
    return ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", script, "sh", *login]


def start_as(
    person: Person,
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    tun: str = "open",
    **settings: Any,
) -> subprocess.Popen[str]:
    """Start `command` as `person`; `settings` are those of Popen, which reads and writes text here."""
    settings.setdefault("cwd", person.home)
    settings.setdefault("start_new_session", True)
    settings.setdefault("text", True)
    settings.setdefault("umask", 0o022)
    return subprocess.Popen(command_as(person, command, env, tun), **settings)


def run_as(
    person: Person,
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    tun: str = "open",
    timeout: float = 60,
    input: str | bytes | None = None,  # noqa: A002 (as subprocess.run calls it)
    **settings: Any,
) -> subprocess.CompletedProcess[Any]:
    """Run `command` as `person` to its end; its standard output and error are captured.

    When the time is over it is killed, and subprocess.TimeoutExpired is raised.
    """
    settings.setdefault("stdin", subprocess.DEVNULL if input is None else subprocess.PIPE)
    settings.setdefault("stdout", subprocess.PIPE)
    settings.setdefault("stderr", subprocess.PIPE)
    with start_as(person, command, env=env, tun=tun, **settings) as process:
        try:
            out, error = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(list(command), process.returncode, out, error)


def caller() -> Person:
    """Who asked for this run: the user behind sudo(8), else root."""
    name = os.environ.get("SUDO_USER") or "root"
    return ROOT if name == "root" else find_person(name)
