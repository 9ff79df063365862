# SPDX-License-Identifier: GPL-3.0-or-later
"""What a probe is, what it may find, and the list of all of them."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

LEAKED: Final = "leaked"  # it got out, or saw what it must not see
STOPPED: Final = "stopped"
SENT: Final = "sent"  # it believes so: the stage's listeners decide
ABSENT: Final = "absent"  # this machine has nothing to try it on
UNKNOWN: Final = "unknown"  # it could not be tried; never a pass

GROUPS: Final = (
    "descriptors", "unix sockets", "proc and sys", "kernel", "devices", "terminal", "names", "packets",
    "identity", "life cycle",
)  # fmt: skip


class Finding(NamedTuple):
    """What came of an attempt: one of the words above, by what (or what was seen), and the errno."""

    kind: str
    how: str = ""
    errno: int = 0


class Plan:
    """What the stage tells those inside: `facts`, and a token that is this probe's and this run's."""

    def __init__(self, facts: Mapping[str, Any], token: str = "") -> None:
        self.facts = facts
        self.token = token

    def __getitem__(self, name: str) -> Any:
        """A fact; `Absent` where the stage has none."""
        value = self.facts.get(name)
        if value is None or value in ("", [], {}):
            raise Absent(f"no {name} on this machine")
        return value


class Absent(Exception):
    """There is nothing here to try this on; the message says what is missing."""


class Probe(NamedTuple):
    """One way out.  `attempt` gives a `Finding` or raises: OSError is `stopped`, `Absent` is `absent`."""

    name: str
    row: str  # of the catalogue of leaks
    group: str
    sentence: str  # what is tried
    attempt: Callable[[Plan], Finding]
    ear: bool = False  # a listener of the stage decides
    late: bool = False  # tried after the stage has changed things under a running environment
    packets: bool = False  # sends to documentation addresses: its control is the model host
    root: bool = False  # shows a leak to root only
    known: str = ""  # what stops it where the default does not: a documented hole
    limit: str = ""  # what stops it where avne does not mean to: a documented limit
    watched: bool = False  # the stage looks at the processes of the run meanwhile
    start: str = ""  # why it cannot be tried in an environment that runs already
    entrance: str = ""  # what the program gets as standard input, output or error; a start of its own


PROBES: Final[dict[str, Probe]] = {}

_HOW: Final = {
    errno.ENOENT: "not there",
    errno.ENOTDIR: "not there",
    errno.ENXIO: "not there",
    errno.ENODEV: "not there",
    errno.ESRCH: "no such process",
    errno.EBADF: "closed",
    errno.ECONNREFUSED: "nobody listens",
    errno.ENOTSOCK: "covered",
    errno.EAFNOSUPPORT: "family refused",
    errno.ENOSYS: "call refused",
    errno.ENETUNREACH: "no network",
    errno.EADDRNOTAVAIL: "no such address",
    errno.EHOSTUNREACH: "refused in the tun",
    errno.EPERM: "not permitted",
    errno.EACCES: "not permitted",
    errno.EROFS: "read-only",
}


def how(number: int) -> str:
    """The words for an errno."""
    return _HOW.get(number, errno.errorcode.get(number, str(number)))


def stopped(error: OSError | int, by: str = "") -> Finding:
    number = error if isinstance(error, int) else error.errno or 0
    return Finding(STOPPED, by or how(number), number)


def leaked(what: str = "") -> Finding:
    return Finding(LEAKED, what)


def sent() -> Finding:
    return Finding(SENT)


def seen(found: bool, what: str = "", otherwise: str = "not seen") -> Finding:
    """Leaked if `found`, else stopped."""
    return leaked(what) if found else Finding(STOPPED, otherwise)


def register(group: str) -> Callable[..., Callable[[Callable[[Plan], Finding]], Callable[[Plan], Finding]]]:
    """A decorator for the probes of `group`: ``@probe("L01", "…")``; the function's name is the probe's."""

    def probe(row: str, sentence: str, name: str = "", **flags: Any) -> Any:
        def add(attempt: Callable[[Plan], Finding]) -> Callable[[Plan], Finding]:
            label = name or attempt.__name__.strip("_").replace("_", "-")
            assert group in GROUPS
            assert label not in PROBES, label
            PROBES[label] = Probe(label, row, group, sentence, attempt, **flags)
            return attempt

        return add

    return probe


def load() -> dict[str, Probe]:
    """All probes, by name, in the order of their groups."""
    from avne.probes import (  # noqa: F401 (each registers its own)
        descriptors,
        devices,
        identity,
        kernel,
        life,
        names,
        packets,
        processes,
        sockets,
        system,
        terminal,
    )

    PROBES.update(sorted(PROBES.items(), key=lambda item: GROUPS.index(item[1].group)))
    ordered = dict(sorted(PROBES.items(), key=lambda item: GROUPS.index(item[1].group)))
    PROBES.clear()
    PROBES.update(ordered)
    return PROBES
