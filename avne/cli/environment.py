# SPDX-License-Identifier: GPL-3.0-or-later
"""The program's environment variables: an allow-list, what the user adds, and what avne itself sets.

A variable stays where programs would be broken or surprise without it, and where it tells nothing that
the program cannot read elsewhere anyway.  What names a way out of the environment (SSH_AUTH_SOCK, DISPLAY,
DBUS_SESSION_BUS_ADDRESS, *_proxy), tells of the network (SSH_CONNECTION has addresses), or loads code
(LD_PRELOAD) does not, nor does what nobody has thought of.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from avne.errors import AvneError
from avne.netstack.addresses import GATEWAY_V4

KEPT = frozenset((
    # Where programs are, and what is the user's: as /etc/passwd has it.
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "PWD",
    # The terminal, and what one likes to see on it.
    "TERM", "COLORTERM", "TERMINFO", "TERMINFO_DIRS", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "LS_COLORS",
    "COLUMNS", "LINES",
    # Language and time zone are in files of /etc, too.
    "LANG", "LANGUAGE", "TZ",
    # What programs start for the user, inside.
    "EDITOR", "VISUAL", "PAGER", "LESS", "MANPAGER",
    # Where files are: other values would have programs miss their own.
    "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME",
    "XDG_CONFIG_DIRS", "XDG_DATA_DIRS",
))  # fmt: skip
KEPT_PREFIX = "LC_"

# --proxy-env: for programs that look for a proxy, and then leave names to it.
_ALL_PROXY = f"socks5h://{GATEWAY_V4}:1080"
_NO_PROXY = f"localhost,.localhost,127.0.0.0/8,127.0.0.1,::1,{GATEWAY_V4}"
PROXY = {"ALL_PROXY": _ALL_PROXY, "all_proxy": _ALL_PROXY, "NO_PROXY": _NO_PROXY, "no_proxy": _NO_PROXY}

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def program_environment(
    environ: Mapping[str, str], passed: Iterable[str], settings: Iterable[str], ours: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """The program's variables, and the names of those that it does not get.

    `passed`: names of further ones; `settings`: ``NAME=VALUE``; `ours`: of avne itself, which win.
    Raises `AvneError` for what is no name and no setting.
    """
    more = set(passed)
    for name in more:
        check_name(name, "--env")
    kept = {
        name: value
        for name, value in environ.items()
        if name in KEPT or name.startswith(KEPT_PREFIX) or name in more
    }
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise AvneError(f"--setenv {setting} sets nothing", "It takes NAME=VALUE.")
        check_name(name, "--setenv")
        kept[name] = value
    kept.update(ours)
    return kept, sorted(name for name in environ if name not in kept)


def check_name(name: str, option: str) -> None:
    """Raises `AvneError` where `name` is no variable's name."""
    if not _NAME.fullmatch(name):
        raise AvneError(f"{option}: {name!r} is not the name of a variable", "Letters, digits and _ only.")
