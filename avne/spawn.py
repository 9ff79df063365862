# SPDX-License-Identifier: GPL-3.0-or-later
"""Start avne's own processes: cheaply, with exactly the descriptors that they are given."""

from __future__ import annotations

import fcntl
import os
import signal
import site
import sys

# Buffers of 256 KiB come and go by the thousand per second: keep malloc from asking the
# kernel for each of them (mallopt(3)).
_MALLOC = {
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
}


# ARGV: the directories of packages, the module, its arguments.
_BOOT = """\
import gc, os, sys
gc.disable()
sys.path += sys.argv[1].split(os.pathsep)
name = sys.argv[2]
del sys.argv[1:3]
__import__(name)
gc.enable()
sys.modules[name].main()
"""


def spawn(argv: list[str], fds: dict[int, int], env: dict[str, str], session: bool) -> int:
    """posix_spawn(3) `argv`, with descriptor numbers `fds` = {child's: ours}; gives the pid.

    Standard input, output and error are inherited unless `fds` names them; everything else
    of ours is close-on-exec.  `session`: setsid(2), so that a terminal's ^C and ^Z pass it by.
    Signals start at their defaults and unblocked.
    """
    # Move the sources out of the way of the targets first, then into place.
    above = max(fds, default=0) + 1
    spare = {ours: fcntl.fcntl(ours, fcntl.F_DUPFD_CLOEXEC, above) for ours in set(fds.values())}
    try:
        actions = [(os.POSIX_SPAWN_DUP2, spare[ours], target) for target, ours in fds.items()]
        return os.posix_spawn(
            argv[0],
            argv,
            env,
            file_actions=actions,
            setsid=session,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
        )
    finally:
        for fd in spare.values():
            os.close(fd)


def python(module: str, *arguments: str) -> list[str]:
    """The argument vector that runs the `main` of one of our modules, without the user's Python settings.

    As ``-I -m`` would, in 15 ms less: site, runpy and the collector do nothing that our modules need.
    """
    return [sys.executable, "-I", "-S", "-c", _BOOT, os.pathsep.join(_packages()), module, *arguments]


def _packages() -> list[str]:
    """Where the modules of others are, and ours behind them: nothing of $PYTHONPATH or of the directory."""
    ours = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return [*dict.fromkeys((*site.getsitepackages(), ours))]


def child_environment() -> dict[str, str]:
    """What our own Python processes get: nothing of the user's but the locale's encoding."""
    return {"PATH": os.defpath, "LC_ALL": "C.UTF-8", **_MALLOC}
