# SPDX-License-Identifier: GPL-3.0-or-later
"""Names that are answered here and never sent anywhere (RFC 6761, RFC 6303).

Single-label names are not among them.  The environment has no search domain and avne knows no
local names, so that the root's answer, mostly NXDOMAIN, is the truth about them; and exits ask
for them as they are (tor(1), ServerDNSSearchDomains).
"""

from __future__ import annotations

import re
from typing import Final

import dnslib

from avne.limits import MAX_HOST
from avne.netstack.addresses import GATEWAY, GATEWAY_V4, GATEWAY_V6
from avne.netstack.dns import format as dns
from avne.netstack.dns.format import Labels
from avne.netstack.dns.response import Response, local

TTL: Final = 60

_NO_SUCH: Final = {
    b"invalid",  # RFC 6761 §6.4
    b"local",  # RFC 6762 §3: multicast DNS, which has nobody to ask here
    b"alt",  # RFC 9476: names of other systems
    b"exit",  # Tor's own notation, which names relays
    b"i2p",  # I2P, which is not here: as RFC 7686 §2 has it for onion names
}
_ELSEWHERE: Final = {b"i2p", b"alt"}  # a rule of the user's may name the way there
_NO_SUCH_BELOW: Final = {
    (b"home", b"arpa"),  # RFC 8375: a home's own names
    (b"resolver", b"arpa"),  # RFC 9462 §6.4: another resolver than this one is nothing to offer
}
OURS: Final[Labels] = (b"avne", b"internal")  # the gateway: where avne itself listens
_ONION: Final = re.compile(rb"[a-z2-7]{55}d")  # version 3, which ends in d (rend-spec-v3 §6)

_V4: Final[Labels] = (b"in-addr", b"arpa")
_V6: Final[Labels] = (b"ip6", b"arpa")
# Reverse zones of private, link-local and reserved space, by how their addresses begin.
_PRIVATE_V4: Final = (
    "0.", "10.", "127.", "169.254.", "192.0.2.", "192.168.", "198.18.", "198.19.", "198.51.100.",
    "203.0.113.", "255.255.255.255.",
    *(f"172.{n}." for n in range(16, 32)),
    *(f"100.{n}." for n in range(64, 128)),  # RFC 7793
)  # fmt: skip
_PRIVATE_V6: Final = ("fc", "fd", "fe8", "fe9", "fea", "feb", "20010db8", "0" * 31)
_OCTET: Final = re.compile(rb"[0-9]|[1-9][0-9]|1[0-9][0-9]|2[0-4][0-9]|25[0-5]")
_NIBBLE: Final = re.compile(rb"[0-9a-f]")


def answer(labels: Labels, qtype: int) -> Response | None:
    """The answer to a name of special use; None for every other name, and for good onion names and OURS."""
    top = labels[-1] if labels else b""
    if top == b"localhost":
        return _localhost(labels, qtype)
    if top == b"onion":
        if not is_onion(labels):
            return Response(dns.NXDOMAIN)
        return None if qtype in (dns.A, dns.AAAA) else local(labels, qtype, [], 0)
    if labels[-2:] == OURS:
        return _gateway(labels, qtype) if labels == OURS else Response(dns.NXDOMAIN)
    if qtype == dns.PTR and reversed_address(labels) in GATEWAY:
        return local(labels, qtype, [dnslib.PTR(dnslib.DNSLabel(OURS))], TTL)
    if top in _NO_SUCH or labels[-2:] in _NO_SUCH_BELOW or _is_private(labels):
        return Response(dns.NXDOMAIN)
    return None


def is_elsewhere(labels: Labels) -> bool:
    """Whether the name is another system's than DNS, and not Tor's."""
    return bool(labels) and labels[-1] in _ELSEWHERE


def is_onion(labels: Labels) -> bool:
    """An onion service's name, or one below it (RFC 7686)."""
    return len(labels) >= 2 and labels[-1] == b"onion" and _ONION.fullmatch(labels[-2]) is not None


def _localhost(labels: Labels, qtype: int) -> Response:
    """RFC 6761 §6.3: the loopback addresses, for names below it as well."""
    data = {dns.A: [dnslib.A("127.0.0.1")], dns.AAAA: [dnslib.AAAA("::1")]}
    return local(labels, qtype, data.get(qtype, []), TTL)


def _gateway(labels: Labels, qtype: int) -> Response:
    data = {dns.A: [dnslib.A(GATEWAY_V4)], dns.AAAA: [dnslib.AAAA(GATEWAY_V6)]}
    return local(labels, qtype, data.get(qtype, []), TTL)


def reversed_address(labels: Labels) -> bytes | None:
    """The address whose reverse name this is (RFC 1035 §3.5, RFC 3596 §2.5): 4 or 16 bytes."""
    parts = _parts(labels)
    if len(parts) != len(labels) - 2:
        return None
    if labels[-2:] == _V4:
        return bytes(map(int, parts)) if len(parts) == 4 else None
    return bytes.fromhex("".join(parts)) if len(parts) == 32 else None


def reversed_text(labels: Labels) -> str:
    """That address as text, without abbreviation."""
    parts = _parts(labels)
    if labels[-2:] == _V4:
        return ".".join(parts)
    return ":".join("".join(parts[at : at + 4]) for at in range(0, 32, 4))


def subject(labels: Labels) -> str:
    """What a question is about, for the worker's rules: an address of the reverse tree, or a name.

    Octets that are not of host names are escaped, so that they match nothing but the end of a name.
    """
    if reversed_address(labels) is not None:
        return reversed_text(labels)
    return ".".join(label.decode("ascii", "backslashreplace").replace(".", "\\x2e") for label in labels)[
        -MAX_HOST:
    ]


def _is_private(labels: Labels) -> bool:
    parts = _parts(labels)
    if labels[-2:] == _V4:
        return "".join(part + "." for part in parts).startswith(_PRIVATE_V4)
    return "".join(parts).startswith(_PRIVATE_V6)


def _parts(labels: Labels) -> list[str]:
    """The octets or nibbles of a name in the reverse tree, the address's first one first."""
    pattern = {_V4: _OCTET, _V6: _NIBBLE}.get(labels[-2:])
    parts: list[str] = []
    for label in reversed(labels[:-2]):
        if pattern is None or not pattern.fullmatch(label):
            break
        parts.append(label.decode("ascii"))
    return parts
