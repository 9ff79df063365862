# SPDX-License-Identifier: GPL-3.0-or-later
"""A browser in an environment, and beside it the process there that drives it (driver.py)."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.bed import driver
from tests.bed.runs import Avne, Run

ANSWERS = 60.0  # seconds
DRIVER = Path(driver.__file__).read_text()


class Browser:
    """`open` and `ask`, as driver.py has them; `run` is the process at the other end of the line."""

    def __init__(self, run: subprocess.Popen[str]) -> None:
        self.run = run
        self.pid = int(self.answer()["pid"])  # of the browser, as its own pid namespace counts

    def tell(self, **command: str) -> None:
        assert self.run.stdin
        self.run.stdin.write(json.dumps(command) + "\n")
        self.run.stdin.flush()

    def answer(self) -> Any:
        assert self.run.stdout
        if not select.select([self.run.stdout], [], [], ANSWERS)[0]:
            raise TimeoutError("the browser does not answer")
        line = self.run.stdout.readline()
        if not line:
            assert self.run.stderr
            raise EOFError(f"the browser has ended: {self.run.stderr.read()[-3000:]}")
        return json.loads(line)

    def open(self, url: str) -> Any:
        """What went wrong, or None."""
        self.tell(open=url)
        return self.answer()

    def ask(self, expression: str) -> Any:
        self.tell(ask=expression)
        return self.answer()

    def close(self) -> int:
        """The exit status of what was run."""
        assert self.run.stdin
        self.run.stdin.close()
        return self.run.wait(ANSWERS)


def words(program: str, *options: str) -> list[str]:
    return ["python3", "-c", DRIVER, program, *options]


@contextlib.contextmanager
def inside(
    avne: Avne, upstream: str, program: str, *browser_options: str, options: Sequence[str] = ()
) -> Iterator[Browser]:
    """`program`, run by avne."""
    command = words(program, *browser_options)
    with avne.start(*command, upstream=upstream, options=options, stdin=True) as run:
        yield Browser(run)


@contextlib.contextmanager
def outside(avne: Avne, program: str, *browser_options: str) -> Iterator[Browser]:
    """The same without avne, in the same place; killed at the end, with all that it started."""
    with subprocess.Popen(
        avne.as_person(words(program, *browser_options)), text=True, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            yield Browser(process)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)


# ---- what the kernel says of its processes --------------------------------------------------------


class Process(NamedTuple):
    """proc_pid_status(5) and namespaces(7)."""

    name: str
    words: list[str]
    no_new_privs: bool
    filters: int  # of seccomp(2) that it is under
    namespaces: dict[str, str]


def processes(run: Run) -> list[Process]:
    """Everything that runs below `run`; who ends meanwhile is left out."""
    found = []
    for pid in run.parts():
        with contextlib.suppress(OSError):
            there = Path("/proc", str(pid))
            rows = (line.split(":", 1) for line in (there / "status").read_text().splitlines())
            status = {name: value.strip() for name, value in rows}
            words = (there / "cmdline").read_text(errors="replace").replace("\0", " ").split()
            spaces = {name: os.readlink(there / "ns" / name) for name in ("user", "pid", "net", "mnt")}
            filters = int(status["Seccomp_filters"])
            found.append(Process(status["Name"], words, status["NoNewPrivs"] == "1", filters, spaces))
    return found
