# SPDX-License-Identifier: GPL-3.0-or-later
"""What the resolvers are asked: ``TYPE:NAME``, and what it is about."""

from __future__ import annotations

from typing import Final

from tests.bed.places import ZONE

ONION: Final = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion"
MAPPED: Final = "198.18.1.0"  # the first name's, which is asked for first

QUESTIONS: Final[dict[str, str]] = {
    f"A:www.{ZONE}": "a name with both families",
    f"AAAA:www.{ZONE}": "",
    f"A:v4.{ZONE}": "IPv4 only",
    f"AAAA:v4.{ZONE}": "",
    f"A:v6.{ZONE}": "IPv6 only",
    f"AAAA:v6.{ZONE}": "",
    f"A:multi.{ZONE}": "three addresses",
    f"A:cname.{ZONE}": "an alias",
    f"A:signed.{ZONE}": "with signatures; dig asks for them (DO)",
    f"A:nx.{ZONE}": "no such name",
    f"AAAA:nx.{ZONE}": "",
    f"A:nodata.{ZONE}": "a name without addresses",
    f"A:servfail.{ZONE}": "a broken zone",
    f"MX:www.{ZONE}": "",
    f"TXT:www.{ZONE}": "",
    f"TXT:big.{ZONE}": "3 kB: truncated over UDP, whole over TCP",
    f"SRV:www.{ZONE}": "",
    f"NS:{ZONE}": "",
    f"SOA:{ZONE}": "",
    f"CAA:www.{ZONE}": "",
    f"HTTPS:https.{ZONE}": "dig shows its hints",
    f"MX:nx.{ZONE}": "no such name",
    "PTR:192.0.0.8": "a real address",
    f"PTR:{MAPPED}": "a mapped address",
    "PTR:10.213.0.1": "avne's own",
    "A:localhost": "",
    "AAAA:a.localhost": "",
    "A:avne.internal": "",
    "A:printer.local": "multicast DNS",
    f"A:{ONION}": "an onion service",
    f"AAAA:{ONION}": "",
    "A:bad.onion": "no onion service's name",
    "A:x.i2p": "",
    "A:relay.exit": "",
}
