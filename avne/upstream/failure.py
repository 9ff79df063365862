# SPDX-License-Identifier: GPL-3.0-or-later
"""What a user is told when an upstream does not answer."""

from __future__ import annotations

from avne.ipc.messages import Code
from avne.upstream.base import OpenError
from avne.upstream.spec import UpstreamSpec

_NAMES = {"tor": "SOCKS5", "socks5": "SOCKS5", "socks4a": "SOCKS4A", "http": "HTTP"}


def explain(spec: UpstreamSpec, error: OpenError) -> tuple[str, str]:
    """``(problem, cure)``, as of `AvneError`."""
    *_, reached = spec.layers()  # the one that is reached from here
    place = reached.redacted()
    if error.code == Code.UPSTREAM_AUTH:
        return (
            f"the proxy {place} refuses our user name and password",
            f"Name it with the right ones: --upstream {reached.kind}://USER:PASSWORD@HOST:PORT",
        )
    if error.code in (Code.UPSTREAM_PROTOCOL, Code.UPSTREAM_TIMEOUT):
        return (
            f"what listens at {place} is no {_NAMES.get(reached.kind, reached.kind)} proxy: {error.detail}",
            "Check the port: Tor's SocksPort is 9050 or 9150 as a rule.",
        )
    if reached.kind == "tor":
        return (
            f"cannot reach Tor at {place}: {error.detail}",
            "Start it (sudo systemctl start tor), or name another one with --upstream.",
        )
    return f"cannot reach the proxy {place}: {error.detail}", "Check its address and that it runs."
