# SPDX-License-Identifier: GPL-3.0-or-later
"""A harness under atheris, which mutates what reaches new code (``pip install -e '.[fuzz]'``).

``python -m tests.fuzz.guided HARNESS INPUTS``; nothing of avne may have been imported before.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["avne"]):
    from . import engine


def main(harness: str, inputs: str) -> None:
    """Until `inputs` have been run.  A finding ends the process, and its input is in a file."""
    kept = engine.CORPUS / harness
    found = engine.CORPUS.parent / "found" / harness  # new inputs go here, not to those that are kept
    found.mkdir(parents=True, exist_ok=True)
    options = [
        f"-runs={inputs}",
        f"-max_len={engine.LONGEST}",
        "-timeout=20",
        f"-artifact_prefix={found}/crash-",
    ]
    run = engine.HARNESSES[harness]
    atheris.Setup([sys.argv[0], *options, str(found), str(kept)], lambda data: run(data) and None)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
