# SPDX-License-Identifier: GPL-3.0-or-later
"""Write docs/resolvers.md: ``python -m tests.resolvers [CLIENT…]``, as root.

`scripts/deps resolvers` has to be run before.  With names of clients only those are asked, and what the page
says of the others stays.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.bed import people
from tests.bed.bed import Bed
from tests.bed.installed import Installed
from tests.bed.people import Person
from tests.bed.runs import Avne, Place
from tests.resolvers import matrix
from tests.resolvers.clients import CLIENTS, build


def main() -> None:
    wanted = tuple(client for client in CLIENTS if client.name in (sys.argv[1:] or [client.name]))
    person, made = people.add_person(people.TEST_USER)
    try:
        found = matrix.columns(matrix.PAGE.read_text()) if sys.argv[1:] else {}
        _ask(wanted, person, found)
    finally:
        if made:
            people.remove_person(person)
    matrix.PAGE.write_text(matrix.page(found))
    print(f"written: {matrix.PAGE}")


def _ask(
    wanted: tuple[matrix.Client, ...], person: Person, found: dict[str, dict[str, matrix.Cells]]
) -> None:
    with tempfile.TemporaryDirectory(dir="/usr/local/lib", prefix="avne-resolvers-") as name:
        directory = Path(name)
        build(directory, wanted)
        with Bed() as bed, Installed() as installed:
            bed.start_tor()
            place = Place("0666", "", person.name)
            try:
                as_root = Avne("root", installed.avne, people.ROOT, place)
                as_user = Avne("rootless", installed.avne, person, place)
                for mode in matrix.MODES:
                    for client in wanted:
                        avne = as_user if client.by_user else as_root
                        found.setdefault(mode, {})[client.name] = matrix.ask(
                            avne, bed.tor, mode, client, directory
                        )
            finally:
                place.close()


if __name__ == "__main__":
    main()
