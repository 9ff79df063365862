# SPDX-License-Identifier: GPL-3.0-or-later
"""``avne setup``: the front of avne/privileged/setup.py, which does the work."""

from __future__ import annotations

import sys

from avne.privileged import setup as privileged


def setup(remove: bool, dry_run: bool) -> int:
    """Install or remove the setuid helper, or print the commands that do the same."""
    if dry_run:
        sys.stdout.writelines(f"{command}\n" for command in privileged.plan(remove))
    elif remove:
        privileged.remove()
    else:
        privileged.install()
    return 0
