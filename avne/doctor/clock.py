# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the clock can be right: Tor needs it to within the life of its network's consensus.

Nobody outside is asked.  Compared are: the consensus that Tor holds or has kept (dir-spec §3.4.1:
valid-after, valid-until), when it was written by this same clock, and what avne's own Tor has complained of.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from calendar import timegm
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final, NamedTuple

from avne.doctor.tor import ask_control
from avne.errors import AvneError
from avne.paths import state_dir
from avne.upstream.control import CONTROLS

STALE: Final = 24 * 3600  # Tor still uses a consensus that expired so long ago, reasonably live
SLACK: Final = 60  # seconds
_HEAD: Final = 4096  # bytes of a consensus that hold its times
_NAMES: Final = ("cached-microdesc-consensus", "cached-consensus")
_COMPLAINT: Final = re.compile(r"clock", re.IGNORECASE)
_CURE: Final = "Set it: sudo timedatectl set-ntp true, or date --set; look at the time zone, too."


class Consensus(NamedTuple):
    """Times since the epoch; `written`: when the file was, by this machine's clock, 0 where there is none."""

    where: str
    valid_after: float
    valid_until: float
    written: float = 0.0


def clock() -> str:
    """Raises `AvneError` where it is certainly wrong."""
    now = time.time()
    shown = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M UTC")
    kept = list(_consensuses())
    for consensus in kept:
        if wrong := judge(consensus, now):
            raise AvneError(f"the clock shows {shown}: {wrong}", _CURE)
    if said := _complaint(now):
        raise AvneError(f"the clock shows {shown}; avne's Tor has said: {said}", _CURE)
    installed = os.stat(__file__).st_mtime
    if now < installed - SLACK:
        raise AvneError(f"the clock shows {shown}, and was later when avne was installed", _CURE)
    live = [consensus for consensus in kept if now <= consensus.valid_until]
    if live:
        return f"{shown}, as {live[0].where} has it"
    return f"{shown}; no consensus of today to compare it with"


def judge(consensus: Consensus, now: float) -> str:
    """What is wrong with the clock by that; empty where nothing is."""
    if now < consensus.valid_after - SLACK:
        behind = _span(consensus.valid_after - now)
        return f"at least {behind} behind {consensus.where}"
    if consensus.written and now < consensus.written - SLACK:
        return f"it was {_span(consensus.written - now)} later when {consensus.where} was written"
    if consensus.written > consensus.valid_until + STALE:
        return f"some {_span(consensus.written - consensus.valid_until)} ahead of {consensus.where}"
    return ""


def _span(seconds: float) -> str:
    minutes = int(seconds) // 60
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 2880 else f"{minutes // 1440} days"


def _consensuses() -> Iterator[Consensus]:
    told = ask_control(dict.fromkeys(place for places in CONTROLS.values() for place in places))
    with contextlib.suppress(KeyError, ValueError):
        yield Consensus(
            "Tor's consensus", _time(told["consensus/valid-after"]), _time(told["consensus/valid-until"])
        )
    directories = ["/var/lib/tor"]
    with contextlib.suppress(AvneError):
        directories.insert(0, f"{state_dir()}/tor/data")
    for directory in directories:
        for name in _NAMES:
            with contextlib.suppress(OSError, KeyError, ValueError):
                yield _read(f"{directory}/{name}")


def _read(path: str) -> Consensus:
    with open(path, "rb") as file:
        head, written = file.read(_HEAD).decode("ascii", "replace"), os.fstat(file.fileno()).st_mtime
    times = dict(re.findall(r"^(valid-after|valid-until) (\S+ \S+)$", head, re.MULTILINE))
    return Consensus(path, _time(times["valid-after"]), _time(times["valid-until"]), written)


def _time(text: str) -> float:
    return float(timegm(time.strptime(text, "%Y-%m-%d %H:%M:%S")))


def _complaint(now: float) -> str:
    """The last line about the clock in the log of avne's own Tor, where that is of today."""
    with contextlib.suppress(OSError, AvneError):
        path = f"{state_dir()}/tor/keeper.log"
        if abs(now - os.stat(path).st_mtime) < STALE:
            with open(path, errors="replace") as file:
                lines = [line.strip() for line in file if _COMPLAINT.search(line)]
            return lines[-1].partition("] ")[2][:300] if lines else ""
    return ""
