# SPDX-License-Identifier: GPL-3.0-or-later
"""``make chaos``: acts in all modes; writes docs/reliability.md's table; exit 1 where something broke.

python -m tests.chaos [--acts N] [--seed N] [--write]
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from pathlib import Path
from random import Random

from tests.bed import people
from tests.bed.bed import Bed
from tests.bed.installed import Installed
from tests.bed.runs import Avne, Place
from tests.bed.tornet.network import REPOSITORY
from tests.chaos.clocks import Clocks
from tests.chaos.ground import Ground, serving
from tests.chaos.storm import Storm
from tests.chaos.table import page

LISTEN = "netstack --listen"
TUN = {"rootless": "0666", "setuid": "0600", "root": "0600", LISTEN: "0666"}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--acts", type=int, default=1004, help="in all modes together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--modes", nargs="*", default=list(TUN), choices=TUN, help="those alone")
    parser.add_argument("--write", action="store_true", help="write docs/reliability.md")
    options = parser.parse_args()
    user, made = people.add_person(people.TEST_USER)
    began = time.monotonic()
    tallies = {}
    try:
        with Installed() as installed, Bed() as bed, Clocks(installed.dir, Path(installed.python)) as clocks:
            for mode in options.modes:
                storm = _in_mode(mode, TUN[mode], installed, bed, clocks, user, options)
                tallies[mode] = storm.tally
                print(
                    f"{mode}: {storm.tally.acts.total()} acts, {len(storm.tally.faults)} faults", flush=True
                )
    finally:
        if made:
            people.remove_person(user)
    text = page(tallies, time.monotonic() - began, options.seed)
    if options.write:
        (REPOSITORY / "docs" / "reliability.md").write_text(text)
    faults = [fault for tally in tallies.values() for fault in tally.faults]
    print(text)
    print("\n".join(faults) or "nothing broke")
    return 1 if faults or any(tally.wrong or tally.early for tally in tallies.values()) else 0


def _in_mode(
    mode: str,
    tun: str,
    installed: Installed,
    bed: Bed,
    clocks: Clocks,
    user: people.Person,
    options: argparse.Namespace,
) -> Storm:
    """The mode of its own netstack service is an ordinary user's rootless one."""
    with contextlib.ExitStack() as stack:
        place = Place(tun, installed.avne if mode == "setuid" else "", user.name)
        stack.callback(place.close)
        service, path = stack.enter_context(serving(installed)) if mode == LISTEN else (0, "")
        person = people.ROOT if mode == "root" else user
        avne = Avne("rootless" if mode == LISTEN else mode, installed.avne, person, place)
        ground = Ground(clocks, place, service, path)
        storm = Storm(avne, bed.socks, Random(f"{options.seed} {mode}"), ground)
        storm.rage(options.acts // len(options.modes))
    return storm


if __name__ == "__main__":
    sys.exit(main())
