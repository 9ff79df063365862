# SPDX-License-Identifier: GPL-3.0-or-later
"""``avne setup``: the front of avne/privileged/setup.py and apparmor.py, which do the work."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from avne.privileged import apparmor, launch
from avne.privileged import setup as privileged


def setup(remove: bool, dry_run: bool, wanted: Sequence[str] = ()) -> int:
    """Install, or remove, or print the commands that do the same.

    `wanted`: of "setuid" and "apparmor"; by default the setuid helper is installed, and everything removed.
    """
    kinds = wanted or (("apparmor", "setuid") if remove else ("setuid",))
    lines: list[str] = []
    for kind in kinds:
        module = apparmor if kind == "apparmor" else privileged
        if dry_run:
            lines += module.plan(remove)
        elif remove:
            lines += [f"removed {thing}" for thing in module.remove()]
        else:
            lines += apparmor.install() if kind == "apparmor" else _install_setuid()
    if remove and not lines and not dry_run:
        lines = ["there was nothing to remove"]
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return 0


def _install_setuid() -> list[str]:
    member = privileged.install()
    return [f"installed {launch.INSTALLED}"] + (
        [f"{member} may run it after logging in again"] if member else []
    )
