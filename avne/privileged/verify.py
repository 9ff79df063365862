# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at a finished environment from inside, with pyroute2: is its network what it should be?

`problems` is for the network namespace of the calling process; ``python -m avne.privileged.verify``
prints them, a line each, and ends with 1 where there are any.  Not on the start-up path: pyroute2
takes 150 ms to import.
"""

from __future__ import annotations

import sys
from typing import Any

from pyroute2 import IPRoute

from avne.limits import TUN_MTU, TUN_QUEUE
from avne.netstack.addresses import TUN_V4, TUN_V6

TUN = "tun0"
LINKS = ["lo", TUN]
ADDRESSES = {("lo", "127.0.0.1", 8), ("lo", "::1", 128), (TUN, TUN_V4, 30), (TUN, TUN_V6, 64)}
FAMILIES = (2, 10)  # AF_INET, AF_INET6


def problems() -> list[str]:
    """What differs from the constants of helper.c, a line each; empty when all is well."""
    with IPRoute() as ip:
        links = {link["index"]: link for link in ip.get_links()}
        names = {index: link.get_attr("IFLA_IFNAME") for index, link in links.items()}
        addresses = {
            (names[address["index"]], address.get_attr("IFA_ADDRESS"), address["prefixlen"])
            for address in ip.get_addr()
        }
        routes = [route for family in FAMILIES for route in ip.get_default_routes(family=family)]
    found = [*_link_problems(list(links.values())), *_route_problems(routes, names)]
    if addresses != ADDRESSES:
        found.append(f"the addresses are {sorted(addresses)}, not {sorted(ADDRESSES)}")
    return found


def _link_problems(links: list[Any]) -> list[str]:
    by_name = {link.get_attr("IFLA_IFNAME"): link for link in links}
    if sorted(by_name) != LINKS:
        return [f"the links are {sorted(by_name)}, not {LINKS}"]
    found = [f"{name} is down" for name, link in by_name.items() if not link["flags"] & 1]
    for name, want in (("IFLA_MTU", TUN_MTU), ("IFLA_TXQLEN", TUN_QUEUE)):
        if (is_ := by_name[TUN].get_attr(name)) != want:
            found.append(f"{TUN}: {name} is {is_}, not {want}")
    return found


def _route_problems(routes: list[Any], names: dict[int, str]) -> list[str]:
    found = []
    if sorted(route["family"] for route in routes) != list(FAMILIES):
        found.append(f"there are {len(routes)} default routes, not one for each family")
    for route in routes:
        if (device := names.get(route.get_attr("RTA_OIF"))) != TUN:
            found.append(f"a default route leads to {device}")
        metrics = route.get_attr("RTA_METRICS")
        if not metrics or metrics.get_attr("RTAX_CC_ALGO") != "reno":
            found.append("a default route has not its congestion control (reno)")
    return found


if __name__ == "__main__":
    lines = problems()
    print("\n".join(lines) or "the environment's network is as it should be")
    sys.exit(bool(lines))
