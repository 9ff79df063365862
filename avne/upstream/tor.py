# SPDX-License-Identifier: GPL-3.0-or-later
"""Tor's SocksPort: SOCKS5 with extensions (spec.torproject.org/socks-extensions).

RESOLVE (0xF0) and RESOLVE_PTR (0xF1) answer questions without a connection.  The user name and
password are no secret but a label: streams with different ones never share a circuit.
Tor has no half-close, and everything ends as an orderly FIN, its own death included.
"""

from __future__ import annotations

import contextlib
from typing import Final

from avne.ipc.messages import Capability, Code, ResolveKind
from avne.limits import MAX_HOST
from avne.upstream.base import Attempt, OpenError, Resolved
from avne.upstream.socks5 import Socks5

COMMAND_RESOLVE: Final = 0xF0
COMMAND_RESOLVE_PTR: Final = 0xF1

TTL: Final = 60  # seconds; SOCKS carries none, and exits clip theirs to five minutes at least


class Tor(Socks5):
    """A Tor client's SocksPort."""

    kind = "tor"
    capabilities = Capability.RESOLVE | Capability.PROOF

    def resolve(self, kind: ResolveKind, what: str, attempt: Attempt) -> Resolved:
        command = COMMAND_RESOLVE if kind is ResolveKind.ADDRESS else COMMAND_RESOLVE_PTR
        sock, answer = self._request(command, what, 0, attempt)
        sock.close()
        if isinstance(answer, str) and kind is ResolveKind.ADDRESS:
            return Resolved([answer], TTL)
        if isinstance(answer, bytes) and kind is ResolveKind.NAME:
            with contextlib.suppress(UnicodeDecodeError):
                name = answer.decode("ascii")
                if 1 <= len(name) <= MAX_HOST:
                    return Resolved([name], TTL)
        raise OpenError(Code.UPSTREAM_PROTOCOL, "an answer of the wrong kind")
