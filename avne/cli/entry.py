# SPDX-License-Identifier: GPL-3.0-or-later
"""The entry point of the command ``avne``.

``avne run`` starts its netstack and its worker before anything else: they take as long to import what they
need as the supervisor does, and there is more than one processor.
"""

from __future__ import annotations

import sys


def main() -> int:
    """The exit code."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["run"] and not {"-h", "--help"} & set(arguments):
        from avne.cli.early import Early
        from avne.errors import AvneError

        try:
            early = Early()
        except AvneError:
            pass  # the command tries it again, and tells
        else:
            with early:
                from avne.cli.main import main as command

                return command(early=early)
    from avne.cli.main import main as command

    return command()
