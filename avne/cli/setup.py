# SPDX-License-Identifier: GPL-3.0-or-later
"""``avne setup``: the front of avne/privileged/setup.py, which does the work."""

from __future__ import annotations

import sys

from avne.privileged import launch
from avne.privileged import setup as privileged


def setup(remove: bool, dry_run: bool) -> int:
    """Install or remove the setuid helper, or print the commands that do the same."""
    if dry_run:
        lines = privileged.plan(remove)
    elif remove:
        lines = [f"removed {thing}" for thing in privileged.remove()] or ["there was nothing to remove"]
    else:
        member = privileged.install()
        lines = [f"installed {launch.INSTALLED}"]
        if member:
            lines.append(f"{member} may run it after logging in again")
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return 0
