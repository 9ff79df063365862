# SPDX-License-Identifier: GPL-3.0-or-later
"""Nothing: what is sent here is refused, with the reason in the log and the receipt."""

from __future__ import annotations

from avne.ipc.messages import Code
from avne.upstream.base import Negotiation, OpenError, Upstream
from avne.upstream.spec import UpstreamSpec

REASON = "blocked by a rule"


class Block(Upstream):
    """The end of a rule: ``*:25=block``.  An argument is the reason: ``block:no mail``."""

    kind = "block"
    title = "A rule (`block`)"
    form = "block or block:REASON"
    carries = False
    judges_names = True

    @classmethod
    def parse(cls, text: str, inner: UpstreamSpec | None) -> UpstreamSpec:
        if len(text) > 100 or not text.isprintable():
            raise cls.bad("the reason of a block is too long, or no text")
        return UpstreamSpec(cls.kind, argument=text)

    def _refusal(self) -> OpenError:
        return OpenError(Code.BLOCKED, f"{REASON}: {self.spec.argument}" if self.spec.argument else REASON)

    def dialogue(self, host: str, port: int) -> Negotiation | None:
        raise self._refusal()

    def admit_name(self, name: str) -> None:
        raise self._refusal()
