# SPDX-License-Identifier: GPL-3.0-or-later
"""The four modes of names, and the ways to an answer that each takes, in order.

==========  =======================================  ==========================  =====================
mode        A, AAAA                                  PTR of an address           any other type
==========  =======================================  ==========================  =====================
truthful    ASK, then RESOLVE or MAP; told mapped    ASK, RESOLVE                ASK
fast        MAP, then as truthful                    ASK, RESOLVE                ASK
resolve     RESOLVE, ASK (AAAA: ASK, RESOLVE)        RESOLVE, ASK                ASK
tcp         ASK                                      ASK                         ASK
==========  =======================================  ==========================  =====================

RESOLVE is Tor's own: of one address (an IPv4 one where there are both), without a TTL, and it does not
tell why it failed.  ASK is DNS over TCP to the configured resolver, through the upstream; it tells
NXDOMAIN, NODATA and SERVFAIL apart.  MAP asks nobody: the name gets an address that stands for it.

A client that wants signatures (DO) is told what was signed: real addresses, asked for by ASK first.
"""

from __future__ import annotations

from typing import Final

from avne.netstack.dns import format as dns
from avne.netstack.dns import special
from avne.netstack.dns.message import Query

TRUTHFUL: Final = "truthful"
FAST: Final = "fast"
RESOLVING: Final = "resolve"
TCP: Final = "tcp"
MODES: Final = (TRUTHFUL, FAST, RESOLVING, TCP)  # as avne.config has them

# The ways to an answer; ROUTE comes before all where the worker has rules.
ROUTE: Final = 0
RESOLVE: Final = 1
ASK: Final = 2
MAP: Final = 3


def maps(mode: str, query: Query) -> bool:
    """Whether addresses in the answer are to stand for names."""
    return mode in (TRUTHFUL, FAST) and not query.signed


def ways(mode: str, query: Query, can_resolve: bool) -> list[int]:
    """The ways to the answer, best first; `can_resolve`: the upstream has RESOLVE."""
    if query.qtype == dns.PTR and special.reversed_address(query.labels) is not None:
        plan = [RESOLVE, ASK] if mode == RESOLVING else [ASK, RESOLVE]
    elif query.host is None or query.qtype not in (dns.A, dns.AAAA):
        plan = [ASK]
    elif mode == RESOLVING and query.qtype == dns.A and not query.signed:
        plan = [RESOLVE, ASK]
    elif mode in (RESOLVING, TCP):
        plan = [ASK, RESOLVE]
    else:
        plan = [ASK, RESOLVE if can_resolve else MAP]
        if mode == FAST and not query.signed:
            plan.insert(0, MAP)
    return [way for way in plan if way != RESOLVE or (can_resolve and mode != TCP)]
