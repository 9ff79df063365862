# SPDX-License-Identifier: GPL-3.0-or-later
"""An example of an upstream from another package: ``fixed://HOST:PORT`` sends every connection there.

It is of use where a program wants to speak to many places and has to be shown one, a mock server for
instance.  What a kind is made of is told in avne/upstream/base.py; this one is a `Proxy` whose negotiation
has nothing to say.
"""

from __future__ import annotations

from avne.upstream.base import Negotiation
from avne.upstream.proxy import Proxy


class Nothing(Negotiation):
    """A negotiation that is over before it has begun."""

    output = b""
    done = True

    def receive(self, data: bytes) -> int:
        return 0


class Fixed(Proxy):
    kind = "fixed"
    title = "One place for all"
    form = "fixed://HOST:PORT or fixed://unix:PATH"

    def negotiation(self, host: str, port: int) -> Negotiation:
        return Nothing()
