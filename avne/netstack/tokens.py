# SPDX-License-Identifier: GPL-3.0-or-later
"""Which connections may share circuits: equal tokens may, different ones never do (--isolate).

A token goes with OPEN and RESOLVE; the worker makes it a part of what Tor takes for a user's password, and
compares (upstream/identity.py).  ``[EPOCH][.SUFFIX]``: the epoch is another one after each `avne newnym`, the
suffix is the destination's or the program's.  Names are found out under the run's own token, as the answer is
for all; where destinations are kept apart, Tor is asked about a name under the token of that name.
"""

from __future__ import annotations

from typing import Final

try:  # as in tcp/isn.py
    from _blake2 import blake2s
except ImportError:
    from hashlib import blake2s

RUN, PROGRAM, DESTINATION = "run", "program", "destination"
_SIZE: Final = 12  # bytes: no two hosts of a run have the same


def keyed(text: str, key: bytes, size: int) -> str:
    """`size` bytes as hex digits, which tell nothing of `text`; equal for equal ones."""
    return blake2s(text.encode(), digest_size=size, key=key).hexdigest()


class Tokens:
    """`key` makes a host's part, so that it tells nothing of the host."""

    __slots__ = ("_key", "_mode", "epoch")

    def __init__(self, mode: str = RUN, epoch: str = "", key: bytes = b"") -> None:
        self._mode = mode
        self._key = key
        self.epoch = epoch

    def token(self, host: str, owner: str = "") -> str:
        """For a connection to `host`, or a question about it; `owner` is the program's, if that matters."""
        if self._mode == DESTINATION:
            return f"{self.epoch}.{keyed(host.lower().rstrip('.'), self._key, _SIZE)}"
        return f"{self.epoch}.{owner}" if owner else self.epoch
