# SPDX-License-Identifier: GPL-3.0-or-later
"""The policies that avne has."""

from __future__ import annotations

from avne.netstack import confinement as netstack_confinement
from avne.upstream import confinement, worker
from avne.upstream.kinds import parse

_PROXIES = {
    "unix": "tor://unix:/x", "v4": "tor://127.0.0.1:9050", "v6": "tor://[::1]:9050", "name": "socks5://proxy:1",
}  # fmt: skip


def of_worker(proxy: str, remote: bool = False):
    return worker.policy(confinement.plan([parse(_PROXIES[proxy])], remote))


NETSTACK = netstack_confinement.policy(router=False, captures=True)
POLICIES = {
    "netstack": netstack_confinement.policy(router=False, captures=False),
    "netstack with a capture": NETSTACK,
    "netstack with remote workers": netstack_confinement.policy(router=True, captures=True),
    **{f"worker {proxy}": of_worker(proxy) for proxy in _PROXIES},
    "remote worker": of_worker("v4", remote=True),
}
