# SPDX-License-Identifier: GPL-3.0-or-later
"""What all filters share: they wrap an upstream, and do what that does but for what they refuse or note.

A filter sees names and ports, and no byte: the connection's socket goes to the netstack.
"""

from __future__ import annotations

import socket

from avne.ipc.messages import ResolveKind
from avne.ipc.verdict import Verdict
from avne.upstream.base import Attempt, Negotiation, OpenError, Resolved, Service, Upstream
from avne.upstream.spec import UpstreamSpec


class Filter(Upstream):
    """Subclasses override `parse` and one or two others, and call the inner upstream's there."""

    inner: Upstream

    def __init__(self, spec: UpstreamSpec, inner: Upstream | None = None) -> None:
        assert inner is not None
        super().__init__(spec, inner)
        self.capabilities = inner.capabilities
        self.judges_names = inner.judges_names
        self.rate = inner.rate

    @classmethod
    def wrap(cls, inner: UpstreamSpec | None, argument: str = "") -> UpstreamSpec:
        """The spec of this filter around `inner`."""
        assert inner is not None
        return UpstreamSpec(cls.kind, argument=argument, inner=inner)

    def admit(self, host: str, port: int) -> None:
        """Raises `OpenError` for a connection that is not to be."""

    def check(self) -> None:
        self.inner.check()

    def verdict(self, code: int) -> Verdict:
        return self.inner.verdict(code)

    @property
    def prover(self) -> Upstream | None:
        return self.inner.prover

    def open(self, host: str, port: int, attempt: Attempt) -> socket.socket:
        self.admit(host, port)
        return self.inner.open(host, port, attempt)

    def dialogue(self, host: str, port: int) -> Negotiation | None:
        self.admit(host, port)
        return self.inner.dialogue(host, port)

    def service(self, host: str, port: int) -> Service | None:
        self.admit(host, port)
        return self.inner.service(host, port)

    def admit_name(self, name: str) -> None:
        self.inner.admit_name(name)

    def opened(self, host: str, port: int, error: OpenError | None) -> None:
        self.inner.opened(host, port, error)

    def resolve(self, kind: ResolveKind, what: str, attempt: Attempt) -> Resolved:
        return self.inner.resolve(kind, what, attempt)

    def knock(self) -> socket.socket:
        return self.inner.knock()
