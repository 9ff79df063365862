# SPDX-License-Identifier: GPL-3.0-or-later
"""Real runs of the installed avne: where they happen, and what a test can ask of one."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.bed import people, places
from tests.bed.people import Person

# What a machine of the test's own looks like: /etc and /usr/local/libexec may be changed, the
# tun may be opened as on a desktop, or not.  All of it ends with the process that holds it.
PLACE = """
set -e
mkdir "$1"/etc-upper "$1"/etc-work
mount -t overlay overlay -o lowerdir=/etc,upperdir="$1"/etc-upper,workdir="$1"/etc-work /etc
mkdir -p /usr/local/libexec
mount -t tmpfs -o mode=0755 tmpfs /usr/local/libexec
mount -t tmpfs -o mode=0755,size=4k tmpfs /dev/net
mknod -m "$2" /dev/net/tun c 10 200
if [ -n "$3" ]; then SUDO_USER="$4" "$3" setup; fi
eval "$5"
shift 5
exec "$@" sh -c "echo ready; exec cat"
"""

# A user namespace with every user of the machine in it, where no further one can be made.
NO_USER_NAMESPACES = [sys.executable, "-m", "tests.bed.no_userns"]


class Place:
    """A mount namespace, held by a process; `extra` is what else its shell does there before
    it becomes that process, and `wrap` a command that does so in a user namespace of its own."""

    def __init__(
        self, tun_mode: str, setup: str, user: str, wrap: Sequence[str] = (), extra: str = ""
    ) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="avne-place-")
        scratch = Path(self._scratch.name)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", scratch], check=True)
        words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", PLACE, "sh"]
        self._user_namespace = ["-U"] if wrap else []
        self._holder = subprocess.Popen(
            [*words, str(scratch), tun_mode, setup, user, extra, *wrap],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        subprocess.run(["umount", "-l", scratch], check=True)
        said = []
        assert self._holder.stdout
        while (line := self._holder.stdout.readline()) and line != "ready\n":
            said.append(line)
        assert line, "".join(said)

    @property
    def pid(self) -> int:
        """Of who holds it."""
        return self._holder.pid

    @property
    def prefix(self) -> list[str]:
        return ["nsenter", "-t", str(self.pid), *self._user_namespace, "-m", "--"]

    def close(self) -> None:
        assert self._holder.stdin
        assert self._holder.stdout
        self._holder.stdin.close()
        self._holder.wait(10)
        self._holder.stdout.close()
        self._scratch.cleanup()


class Run(subprocess.Popen[str]):
    """One `avne run`; the process is the supervisor itself."""

    supervisor: int

    def _children(self, pid: int) -> list[int]:
        """Of every thread: browsers start theirs from others than the first."""
        found: list[int] = []
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                found += [int(word) for word in (task / "children").read_text().split()]
        return found

    def parts(self) -> list[int]:
        """Every process of the run: the supervisor, what it started, and the program."""
        found, waiting = [], [self.pid]
        while waiting:
            pid = waiting.pop()
            found.append(pid)
            waiting += self._children(pid)
        return found

    def part(self, name: str) -> int:
        """The pid of `avne [NAME]`."""
        for pid in self._children(self.pid):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().strip() == f"avne [{name}]":
                    return pid
        raise AssertionError(f"no avne [{name}]: {self.parts()}")

    @property
    def init(self) -> int:
        """The host's pid of the environment's pid 1."""
        for pid in self.parts():
            with contextlib.suppress(OSError):
                text = Path(f"/proc/{pid}/status").read_text()
                words = next(line for line in text.splitlines() if line.startswith("NSpid:")).split()
                if len(words) == 3 and words[2] == "1":
                    return pid
        raise AssertionError("no init")

    def __exit__(self, *exc: Any) -> None:  # noqa: PYI036 (as Popen has it)
        if self.poll() is None:
            self.send_signal(signal.SIGKILL)
        super().__exit__(*exc)


class Avne:
    """How to call avne in one mode."""

    def __init__(self, mode: str, command: str, person: Person, place: Place) -> None:
        self.mode = mode
        self.command = command
        self.person = person
        self.place = place

    def argv(self, words: Sequence[str], upstream: str | None, options: Sequence[str]) -> list[str]:
        settings = ["--resolver", places.RESOLVER, *options]
        if upstream is not None:
            settings = ["--upstream", upstream, *settings]
        return [self.command, "run", *settings, "--", *words]

    def as_person(
        self, words: Sequence[str], env: dict[str, str] | None = None, cwd: Path | None = None
    ) -> list[str]:
        """The argument vector that runs `words` where avne is called, without avne.

        `cwd` is entered after the mount namespace, which puts every process at its root.
        """
        helper = {"setuid": "setuid", "rootless": "rootless", "root": "auto", "veth": "rootless"}[self.mode]
        settings = {"AVNE_HELPER": helper, **(env or {})}
        there = ["env", "-C", str(cwd or self.person.home)]
        return [*self.place.prefix, *there, *people.command_as(self.person, words, settings, "host")]

    def run(
        self,
        *words: str,
        upstream: str | None = None,
        options: Sequence[str] = (),
        timeout: float = 60,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        **settings: Any,
    ) -> subprocess.CompletedProcess[str]:
        """`avne run WORDS`, to its end."""
        if "input" not in settings:
            settings.setdefault("stdin", subprocess.DEVNULL)
        argv = self.as_person(self.argv(words, upstream, options), env, cwd)
        return subprocess.run(
            argv, capture_output=True, text=True, timeout=timeout, start_new_session=True, **settings
        )

    @contextlib.contextmanager
    def start(
        self,
        *words: str,
        upstream: str | None = None,
        options: Sequence[str] = (),
        stdin: bool = False,
        env: dict[str, str] | None = None,
    ) -> Iterator[Run]:
        """`avne run WORDS`, while it runs."""
        with Run(
            self.as_person(self.argv(words, upstream, options), env),
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            process.supervisor = process.pid
            yield process
