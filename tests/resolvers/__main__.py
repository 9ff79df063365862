# SPDX-License-Identifier: GPL-3.0-or-later
"""Write docs/resolvers.md: ``python -m tests.resolvers``, as root, after ``scripts/deps resolvers``."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.bed import people
from tests.bed.bed import Bed
from tests.bed.installed import Installed
from tests.bed.runs import Avne, Place
from tests.resolvers import matrix
from tests.resolvers.clients import CLIENTS, build


def main() -> None:
    with tempfile.TemporaryDirectory(dir="/usr/local/lib", prefix="avne-resolvers-") as name:
        directory = Path(name)
        build(directory)
        with Bed() as bed, Installed() as installed:
            bed.start_tor()
            place = Place("0666", "", "root")
            try:
                avne = Avne("root", installed.avne, people.ROOT, place)
                found = {
                    mode: {
                        client.name: matrix.ask(avne, bed.tor, mode, client, directory) for client in CLIENTS
                    }
                    for mode in matrix.MODES
                }
            finally:
                place.close()
    matrix.PAGE.write_text(matrix.page(found))
    print(f"written: {matrix.PAGE}")


if __name__ == "__main__":
    main()
