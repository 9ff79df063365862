# SPDX-License-Identifier: GPL-3.0-or-later
"""As whom Tor is asked: streams with another user name or password never share a circuit (IsolateSOCKSAuth).

The worker sets `TOKEN` to what came with OPEN or RESOLVE before it asks an upstream for anything, and Tor's
negotiation, however many layers below, takes it from there: so no layer needs to know of it.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

from avne.upstream.spec import UpstreamSpec

TOKEN: Final[ContextVar[str]] = ContextVar("token", default="")


def isolated(spec: UpstreamSpec) -> UpstreamSpec:
    """`spec` with the credentials of this token; an empty one is the run's own."""
    token = TOKEN.get()
    return spec._replace(password=f"{spec.password}.{token}") if token else spec
