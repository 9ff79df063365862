# SPDX-License-Identifier: GPL-3.0-or-later
"""Find the Tor that runs on this machine: where Debian and the Tor Browser put its SocksPort."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from avne.upstream.base import OpenError
from avne.upstream.proxy import connect
from avne.upstream.socks5 import greet
from avne.upstream.spec import Address, UpstreamSpec

# The unix socket first: then no process of ours owns an internet socket at all.
PLACES: Final[tuple[Address, ...]] = ("/run/tor/socks", ("127.0.0.1", 9050), ("127.0.0.1", 9150))
TIMEOUT: Final = 1.0  # per step and place; a port that is closed refuses at once


def find_tor(places: Sequence[Address] = PLACES, timeout: float = TIMEOUT) -> UpstreamSpec | None:
    """The first of `places` where something answers a SOCKS5 greeting, or None."""
    for address in places:
        spec = UpstreamSpec("tor", address)
        try:
            with connect(spec, timeout) as sock:
                greet(sock, spec)
        except OpenError:
            continue
        return spec
    return None
