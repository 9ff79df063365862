# SPDX-License-Identifier: GPL-3.0-or-later
"""``make chaos``: acts in all modes; writes docs/reliability.md's table; exit 1 where something broke.

python -m tests.chaos [--acts N] [--seed N] [--write]
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.bed import people
from tests.bed.bed import Bed
from tests.bed.installed import Installed
from tests.bed.tornet.network import REPOSITORY
from tests.chaos.storm import MODES, storm
from tests.chaos.table import page


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--acts", type=int, default=1002, help="in all modes together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="write docs/reliability.md")
    options = parser.parse_args()
    user, made = people.add_person(people.TEST_USER)
    began = time.monotonic()
    tallies = {}
    try:
        with Installed() as installed, Bed() as bed:
            for mode in MODES:
                with storm(mode, installed, user, bed.socks, str(options.seed)) as one:
                    one.rage(-(-options.acts // len(MODES)))
                tally = tallies[mode] = one.tally
                print(f"{mode}: {tally.acts.total()} acts, {len(tally.faults)} faults", flush=True)
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


if __name__ == "__main__":
    sys.exit(main())
