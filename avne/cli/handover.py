# SPDX-License-Identifier: GPL-3.0-or-later
"""Why a program ended at once without a packet: it looked for an instance of itself that does its work.

Such an instance runs outside and is out of reach.  The program then finds the instance's lock on its
files, or nobody, and ends, often without a word: that looks like a failure of avne.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final, NamedTuple

AT_ONCE: Final = 15.0  # seconds; Firefox waits for its lock for 5
_OWN_FILES: Final = "avne run --profile NAME"
# The kernel's own packets are multicast.  What is malformed has been sent by somebody.
_BY_ITSELF: Final = "multicast"
# With these a program has nothing else to do.
_BRIEF: Final = ("--version", "-version", "--product-version", "-V", "-v", "--help", "-help", "-h")


class Kind(NamedTuple):
    """Programs that hand themselves over."""

    names: tuple[str, ...]  # of the files, in the patterns of fnmatch
    cure: str
    codes: tuple[int, ...] = (0,)  # that they end with then
    own_files: bool = True  # whether --profile helps as well; through it Chromium's lock is seen, a link


# 21: RESULT_CODE_PROFILE_IN_USE (chrome/common/chrome_result_codes.h).
_CHROMIUM: Final = Kind(
    ("chromium*", "chrome", "google-chrome*", "brave*", "vivaldi*", "opera*", "microsoft-edge*"),
    "its --user-data-dir=DIR",
    (0, 21),
    own_files=False,
)
# Made of Chromium, with its lock and its socket, and silent.
_ELECTRON: Final = Kind(
    ("element-desktop*", "signal-desktop*", "discord*", "slack*", "obsidian*"),
    "its --user-data-dir=DIR",
    own_files=False,
)
KINDS: Final = (
    Kind(("firefox*", "thunderbird*", "librewolf*", "waterfox*"), "its --profile DIR", (0, 1)),
    _CHROMIUM,
    _ELECTRON,
    Kind(("code", "code-*", "codium", "vscodium"), "its --wait --user-data-dir=DIR", own_files=False),
    Kind(("gnome-terminal*",), "dbus-run-session gnome-terminal --wait, or xterm", (0, 1), own_files=False),
    Kind(("emacsclient*",), "emacs", (0, 1), own_files=False),
    Kind(("xdg-open", "gio"), "the program that it opens, by its name", own_files=False),
)


def notice(
    argv: Sequence[str], environ: Mapping[str, str], code: int, lasted: float, account: Mapping[str, Any]
) -> str | None:
    """What to say of a program that ended with `code` after `lasted` seconds; None for all others.

    `environ`: the program's; one that has a display is taken for a graphical one.  `account`: the
    netstack's (netstack/account.py).
    """
    if lasted >= AT_ONCE or _spoke(account) or any(word in _BRIEF for word in argv[1:]):
        return None
    name = os.path.basename(argv[0])
    kind = next((kind for kind in KINDS if any(fnmatchcase(name, each) for each in kind.names)), None)
    if kind is None:
        graphical = bool(environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY"))
        kind = Kind((), "an option of its own for a new instance") if graphical else None
    if kind is None or code not in kind.codes:
        return None
    cures = f"{_OWN_FILES}, or {kind.cure}" if kind.own_files else kind.cure
    return (
        f"{name} ended at once, and spoke with nobody. It may have looked for an instance of itself to do "
        f"its work: one that runs outside is out of reach, and keeps its files locked; try {cures}"
    )


def _spoke(account: Mapping[str, Any]) -> bool:
    """Whether anything came out of the tun that the kernel does not send by itself."""
    return any(count for kind, count in account["packets"].items() if kind != _BY_ITSELF)
