# SPDX-License-Identifier: GPL-3.0-or-later
"""The error trees: what a user meets, and what a peer or a guest can cause.

Three meanings, never mixed:

* `AvneError`: a user reads it.  It says what happened (`problem`) and what to do
  about it (`cure`), and carries the exit code of the command.
* `Malformed`: the guest or a peer process sent something that breaks its protocol.
  The packet is dropped, or the peer is cut off, and it is counted by `reason`.
* any other exception: a fault of ours.  It ends the process, and so fails closed.
"""

from __future__ import annotations

EXIT_AVNE = 125  # avne itself failed (the convention of env(1), timeout(1), podman-run(1))
EXIT_CANNOT_EXECUTE = 126
EXIT_NOT_FOUND = 127
EXIT_USAGE = 2  # wrong usage of a command other than run and attach


class AvneError(Exception):
    """A failure with words for the user.

    `problem` is one clause without a full stop, `cure` one sentence or command;
    they are shown as ``avne: PROBLEM`` and, on a line of its own, ``  CURE``.
    """

    def __init__(self, problem: str, cure: str, exit_code: int = EXIT_AVNE) -> None:
        super().__init__(problem)
        self.problem = problem
        self.cure = cure
        self.exit_code = exit_code


class Malformed(Exception):
    """Bytes from a guest or a peer that break their protocol; `reason` is a counter's name."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
