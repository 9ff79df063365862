# SPDX-License-Identifier: GPL-3.0-or-later
"""What a user is told when an upstream does not answer."""

from __future__ import annotations

from avne.ipc.messages import Code
from avne.upstream.base import OpenError
from avne.upstream.spec import UpstreamSpec


def explain(spec: UpstreamSpec, error: OpenError) -> tuple[str, str]:
    """``(problem, cure)``, as of `AvneError`."""
    place = spec.redacted()
    if error.code == Code.UPSTREAM_AUTH:
        return (
            f"the proxy {place} refuses our user name and password",
            "Name it with the right ones: --upstream socks5://USER:PASSWORD@HOST:PORT",
        )
    if error.code in (Code.UPSTREAM_PROTOCOL, Code.UPSTREAM_TIMEOUT):
        return (
            f"what listens at {place} is no SOCKS5 proxy: {error.detail}",
            "Check the port: Tor's SocksPort is 9050 or 9150 as a rule.",
        )
    if spec.kind == "tor":
        return (
            f"cannot reach Tor at {place}: {error.detail}",
            "Start it (sudo systemctl start tor), or name another one with --upstream.",
        )
    return f"cannot reach the proxy {place}: {error.detail}", "Check its address and that it runs."
