# SPDX-License-Identifier: GPL-3.0-or-later
"""``make leaktest``: make the matrix, write docs/leaks.md, print it in short; exit 1 where avne leaks."""

from __future__ import annotations

import sys

from avne.probes.probe import LEAKED, UNKNOWN
from tests.bed import people
from tests.bed.installed import Installed
from tests.bed.tornet.network import REPOSITORY
from tests.leaks.machine import Machine
from tests.leaks.matrix import AVNE, matrix, table, unshown


def main() -> int:
    user, made = people.add_person(people.TEST_USER)
    try:
        with Installed() as installed, Machine(installed.avne, user) as machine:
            rows = matrix(machine, installed)
    finally:
        if made:
            people.remove_person(user)
    (REPOSITORY / "docs" / "leaks.md").write_text(table(rows))
    print(f"{'':16}{'tried':>7}{'leaks':>7}{'packets':>9}")
    for name, row in rows.items():
        print(f"{name:16}{len(row.findings):7}{row.count(LEAKED):7}{len(row.packets):9}")
    print(f"\nproves nothing on this machine: {', '.join(unshown(rows)) or 'none'}")
    bad = [f"{name}: {probe}: {how}" for name in AVNE
           for probe, how in (rows[name].leaks() | rows[name].named(UNKNOWN)).items()]  # fmt: skip
    known = sum(rows[name].count(LEAKED) for name in AVNE)
    said = f"no leak of avne but {known} in known holes, in its five environments together: docs/leaks.md"
    print("\n".join(bad) or said)
    return 1 if bad or any(rows[name].packets for name in AVNE) else 0


if __name__ == "__main__":
    sys.exit(main())
