# SPDX-License-Identifier: GPL-3.0-or-later
"""``--receipt FILE``: what the program tried and what became of it, as JSON, written when all is over.

The file is opened before anything is started, so that a run which cannot give one does not begin, and
written through that descriptor, so that the program inside cannot put another in its place.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from avne import __version__
from avne.cli.console import Console
from avne.errors import AvneError

if TYPE_CHECKING:
    from avne.cli.openings import Options
    from avne.cli.published import Opening
    from avne.privileged.launch import Environment
    from avne.upstream.spec import UpstreamSpec


class Receipt:
    """One receipt; what it does not come to know stays null."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._facts: dict[str, Any] = {
            "avne": __version__, "python": sys.version.split()[0], "kernel": os.uname().release,
            "session": None, "mode": None, "layers": None, "upstream": None, "opened": [],
            "start": _now(), "started": None, "end": None, "exit": None,
            "tried": None, "network": None, "network_restarts": 0,
        }  # fmt: skip

    @classmethod
    @contextlib.contextmanager
    def at(cls, path: str) -> Iterator[Receipt | None]:
        """The receipt at `path`, written at the end whatever happened; None without a path.

        Raises `AvneError` where the file cannot be written.
        """
        if not path:
            yield None
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
        try:
            fd = os.open(path, flags, 0o600)
            if stat.S_ISREG(os.fstat(fd).st_mode):
                os.fchmod(fd, 0o600)
                os.ftruncate(fd, 0)
        except OSError as error:
            raise AvneError(
                f"cannot write the receipt to {path}: {os.strerror(error.errno or 0)}",
                "Name a file in a directory of yours.",
            ) from error
        receipt = cls(fd)
        try:
            yield receipt
        except AvneError as error:
            receipt.end(error.exit_code)
            raise
        finally:
            receipt.write()
            os.close(fd)

    def begin(
        self,
        session: str,
        upstream: UpstreamSpec,
        options: Options,
        direct: Sequence[str] = (),
        inlets: Sequence[Opening] = (),
    ) -> None:
        """`direct`: the patterns of rules that lead past every proxy; `inlets`: what leads inside."""
        opened = [f"share {path}" for path in options.share] + (["gui"] if options.gui else [])
        opened += [f"direct {pattern}" for pattern in direct]
        opened += [f"inside {inlet.text}" for inlet in inlets]
        self._facts |= {"session": session, "upstream": upstream.label(), "opened": opened}

    def started(self, environment: Environment) -> None:
        """The program has been exec'd: what surrounds it now."""
        self._facts["started"] = _now()
        self._facts["mode"] = _mode(environment.setuid)
        self._facts["layers"] = layers(environment.pid)

    def network(self, counters: Mapping[str, int], account: Mapping[str, Any]) -> None:
        """The netstack's own account, once everything has been handed on."""
        self._facts["network"] = dict(account)
        self._facts["tried"] = tried(counters, account)

    def interrupted(self) -> None:
        """The netstack was replaced: `network` and `tried` will be of the last one only."""
        self._facts["network_restarts"] += 1

    def end(self, code: int) -> None:
        """The run's exit code; negative where a signal ended the program."""
        self._facts["exit"] = code

    def write(self) -> None:
        """A full disk fails no run: it is told, and no half receipt stays."""
        import json  # not for a run without a receipt

        self._facts["end"] = _now()
        text = json.dumps(self._facts, indent=2).encode() + b"\n"
        try:
            written = os.write(self._fd, text)
            reason = "" if written == len(text) else os.strerror(errno.ENOSPC)
        except OSError as error:
            reason = os.strerror(error.errno or 0)
        if reason:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)
            Console().notice(f"the receipt could not be written: {reason}")


def tried(counters: Mapping[str, int], account: Mapping[str, Any]) -> dict[str, Any]:
    """What the program tried, in counts."""

    def of(prefix: str) -> dict[str, int]:
        return {
            name.removeprefix(prefix): n for name, n in sorted(counters.items()) if name.startswith(prefix)
        }

    return {
        "connections": counters.get("tcp-syn", 0),
        "opened": counters.get("opened", 0),
        "refused": of("refused-"),  # by code: docs/connect-truth.md
        "reset": of("reset-"),
        "names": counters.get("dns-query", 0),
        "udp": {"other": counters.get("udp", 0), **of("udp-")},  # by port where it is known for something
        "icmp": {kind: n for kind, n in of("icmp-").items() if kind != "limited"},  # that is of ours
        "fragments": counters.get("fragment", 0),
        "multicast": sum(of("multicast-").values()),
        "other_protocols": of("protocol-"),
        "foreign_source": counters.get("source-foreign", 0),
        "malformed": of("malformed-"),
        "inbound": counters.get("inbound", 0),  # connections to the program, that -p and --onion let in
        "asked": account.get("names"),
    }


def layers(helper: int) -> dict[str, Any] | None:
    """What the kernel says of the environment's init (proc_pid_status(5)); None where it does not."""
    try:
        init = int(_read(f"/proc/{helper}/task/{helper}/children").split()[0])
        rows = [line.split(":", 1) for line in _read(f"/proc/{init}/status").splitlines()]
    except (OSError, IndexError, ValueError):
        return None
    status = {row[0]: row[1].split() for row in rows if len(row) == 2}
    return {
        "pid_namespace": len(status.get("NSpid", [])) > 1,
        "no_new_privs": status.get("NoNewPrivs") == ["1"],
        "seccomp_filter": status.get("Seccomp") == ["2"],
    }


def _mode(setuid: bool) -> str:
    if os.geteuid() == 0:
        return "root"
    return "setuid" if setuid else "rootless"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()
