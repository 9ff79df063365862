# SPDX-License-Identifier: GPL-3.0-or-later
"""Tor's SocksPort: SOCKS5 with extensions (spec.torproject.org/socks-extensions).

RESOLVE (0xF0) and RESOLVE_PTR (0xF1) answer questions without a connection.  The user name and
password are no secret but a label: streams with different ones never share a circuit.
Bytes behind a request go out with it (tor-spec, "optimistic data").
Tor has no half-close, and everything ends as an orderly FIN, its own death included.
"""

from __future__ import annotations

import contextlib
from typing import ClassVar, Final

from avne.ipc.messages import Capability, Code, ResolveKind
from avne.ipc.verdict import Verdict
from avne.limits import MAX_HOST
from avne.upstream.base import Attempt, OpenError, Reply, Resolved
from avne.upstream.identity import isolated
from avne.upstream.socks5 import COMMAND_CONNECT, Dialogue, Socks5
from avne.upstream.spec import UpstreamSpec

COMMAND_RESOLVE: Final = 0xF0
COMMAND_RESOLVE_PTR: Final = 0xF1

TTL: Final = 60  # seconds; SOCKS carries none, and exits clip theirs to five minutes at least


class Tor(Socks5):
    """A Tor client's SocksPort."""

    kind = "tor"
    title = "Tor"
    form = "tor, tor://HOST:PORT or tor://unix:PATH"
    capabilities = Capability.RESOLVE | Capability.PROOF | Capability.EARLY
    # Tor says 01 for most failures, a refused port included, because the exit has lost the reason; the
    # program sees "connection refused" then, as with other transparent proxies.  05 and 06 come for onion
    # services only.
    replies: ClassVar = {
        **Socks5.replies,
        Code.NOT_ALLOWED: Reply("02", "not allowed", Verdict.NETWORK_UNREACHABLE),
        Code.CONNECTION_REFUSED: Reply("05", "the onion service has no such port", Verdict.REFUSED),
        Code.TTL_EXPIRED: Reply("06", "the onion service is gone", Verdict.REFUSED),
        Code.ONION_DESCRIPTOR_NOT_FOUND: Reply("F0", "onion descriptor not found", Verdict.REFUSED),
        Code.ONION_DESCRIPTOR_INVALID: Reply("F1", "onion descriptor invalid", Verdict.REFUSED),
        Code.ONION_INTRODUCTION_FAILED: Reply("F2", "onion introduction failed", Verdict.REFUSED),
        Code.ONION_RENDEZVOUS_FAILED: Reply("F3", "onion rendezvous failed", Verdict.REFUSED),
        Code.ONION_CLIENT_AUTH_MISSING: Reply("F4", "onion client key missing", Verdict.REFUSED),
        Code.ONION_CLIENT_AUTH_WRONG: Reply("F5", "onion client key wrong", Verdict.REFUSED),
        Code.ONION_BAD_ADDRESS: Reply("F6", "bad onion address", Verdict.REFUSED),
        Code.ONION_INTRODUCTION_TIMED_OUT: Reply("F7", "onion introduction timed out", Verdict.REFUSED),
    }

    @classmethod
    def parse(cls, text: str, inner: UpstreamSpec | None) -> UpstreamSpec:
        if not text and inner is None:
            return UpstreamSpec(cls.kind)  # the one that is found, or avne's own
        if "@" in text and not text.startswith("unix:"):
            raise cls.bad("avne chooses Tor's user name and password itself, to isolate each run")
        return super().parse(text, inner)

    def negotiation(self, host: str, port: int) -> Dialogue:
        return Dialogue(isolated(self.spec), COMMAND_CONNECT, host, port)

    def resolve(self, kind: ResolveKind, what: str, attempt: Attempt) -> Resolved:
        command = COMMAND_RESOLVE if kind is ResolveKind.ADDRESS else COMMAND_RESOLVE_PTR
        dialogue = Dialogue(isolated(self.spec), command, what, 0)
        self.converse(dialogue, attempt).close()
        answer = dialogue.bound
        if isinstance(answer, str) and kind is ResolveKind.ADDRESS:
            return Resolved([answer], TTL)
        if isinstance(answer, bytes) and kind is ResolveKind.NAME:
            with contextlib.suppress(UnicodeDecodeError):
                name = answer.decode("ascii")
                if 1 <= len(name) <= MAX_HOST:
                    return Resolved([name], TTL)
        raise OpenError(Code.UPSTREAM_PROTOCOL, "an answer of the wrong kind")
