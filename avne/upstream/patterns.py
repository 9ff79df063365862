# SPDX-License-Identifier: GPL-3.0-or-later
"""Which destinations a rule is about: the left side of ``PATTERN=UPSTREAM``.  Sans-IO.

    *                   every name and address
    example.org         this name
    *.example.org       the names below it
    .example.org        it and those below it
    192.0.2.7    2001:db8::7    10.0.0.0/8    [2001:db8::]/32

and behind any of them ``:PORTS``: ``:25``, ``:80,443``, ``:6660-6669``.  An IPv6 address needs brackets
before that.
"""

from __future__ import annotations

import re
import socket
from enum import Enum
from typing import Final, NamedTuple

from avne.errors import AvneError

CURE: Final = (
    "A rule is PATTERN=UPSTREAM; a pattern is *, NAME, *.NAME, .NAME, ADDRESS or ADDRESS/BITS, with or"
    " without :PORT, for example *.i2p=http://127.0.0.1:4444 or *:25=block."
)
OWN_NAME: Final = "avne.internal"  # pages.py; .internal is for private use (ICANN, 2024)
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_PORTS: Final = re.compile(r":([0-9,-]*)$")


class Shape(Enum):
    ANY = "every name and address"
    BEYOND_ONIONS = "every name and address but onion services and avne's own pages"
    EXACT = "the name"
    BELOW = "names that end in"
    WITHIN = "the name, and those that end in"
    NETWORK = "addresses within"


class Network(NamedTuple):
    family: int
    base: int
    mask: int


class Host(NamedTuple):
    """A destination: a name (lower case, without its last dot), or an address."""

    name: str
    family: int = 0  # of an address; then `name` is empty
    number: int = 0

    @classmethod
    def of(cls, text: str) -> Host:
        """`text` as the netstack or a user says it.  What the far side would take for an address is one."""
        bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
        if ":" in bare:
            try:
                packed = socket.inet_pton(socket.AF_INET6, bare.partition("%")[0])
            except (OSError, ValueError):
                return cls(text.lower())
            if (
                packed[:12] == bytes(10) + b"\xff\xff"
            ):  # IPv4-mapped: the kernel sends IPv4 (RFC 4291 §2.5.5.2)
                return cls("", socket.AF_INET, int.from_bytes(packed[12:], "big"))
            return cls("", socket.AF_INET6, int.from_bytes(packed, "big"))
        name = text.rstrip(".").lower()
        if re.fullmatch(r"[0-9a-fx.]+", name):
            try:  # 10.1, 0x7f.1 and the like: inet_aton(3)
                return cls("", socket.AF_INET, int.from_bytes(socket.inet_aton(name), "big"))
            except OSError:
                pass
        return cls(name)

    @property
    def is_onion(self) -> bool:
        return self.name.endswith(".onion")


class Pattern(NamedTuple):
    """`ports`: ranges, both ends included; none: all."""

    text: str
    shape: Shape
    name: str = ""
    network: Network = Network(0, 0, 0)
    ports: tuple[tuple[int, int], ...] = ()

    @property
    def by_name(self) -> bool:
        """Whether only the destination's name tells if it matches."""
        return self.shape in (Shape.EXACT, Shape.BELOW, Shape.WITHIN)

    def matches_host(self, host: Host) -> bool:
        if self.shape is Shape.ANY:
            return host.name != OWN_NAME  # which is for the environment's own pages, or for a rule about it
        if self.shape is Shape.NETWORK:
            return host.family == self.network.family and host.number & self.network.mask == self.network.base
        if self.shape is Shape.BEYOND_ONIONS:
            return not host.is_onion and host.name != OWN_NAME
        if host.family:
            return False
        if self.shape is not Shape.BELOW and host.name == self.name:
            return True
        return self.shape is not Shape.EXACT and host.name.endswith(f".{self.name}")

    def matches_port(self, port: int) -> bool:
        return not self.ports or any(low <= port <= high for low, high in self.ports)

    def why(self, host: Host, port: int) -> str:
        """Whether it matches, in words."""
        what = f"{self.shape.value} {'' if self.shape is Shape.EXACT else '.'}{self.name}"
        if not self.by_name:
            what = self.shape.value
        if self.shape is Shape.NETWORK:
            what = f"{self.shape.value} {_PORTS.sub('', self.text) if self.ports else self.text}"
        if not self.matches_host(host):
            return f"no: it is for {what}"
        if not self.matches_port(port):
            return f"no: port {port} is not {_ports_text(self.ports)}"
        return f"yes: it is for {what}" + (f", port {_ports_text(self.ports)}" if self.ports else "")


def _ports_text(ports: tuple[tuple[int, int], ...]) -> str:
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ports)


def parse(text: str) -> Pattern:
    """The pattern in `text`.  Raises `AvneError`."""
    host = text
    ports: tuple[tuple[int, int], ...] = ()
    # One colon only, or one behind a bracket: else it is of an IPv6 address.
    if text.count(":") == 1 or "]" in text:
        found = _PORTS.search(text)
        if found:
            host, ports = text[: found.start()], _parse_ports(text, found[1])
        elif text.count(":") == 1:
            raise AvneError(f"the port in the rule's pattern {text!r} is no number", CURE)
    if host in ("*", ""):
        if not host:
            raise AvneError(f"the rule's pattern {text!r} names nothing", CURE)
        return Pattern(text, Shape.ANY, ports=ports)
    if network := _parse_network(text, host):
        return Pattern(text, Shape.NETWORK, network=network, ports=ports)
    for prefix, shape in (("*.", Shape.BELOW), (".", Shape.WITHIN), ("", Shape.EXACT)):
        if host.startswith(prefix):
            return Pattern(text, shape, _parse_name(text, host[len(prefix) :]), ports=ports)
    raise AssertionError


def _parse_ports(text: str, ports: str) -> tuple[tuple[int, int], ...]:
    found = []
    for part in ports.split(","):
        low, dash, high = part.partition("-")
        if not dash:
            high = low
        good = low.isdigit() and high.isdigit() and len(low) <= 5 and len(high) <= 5
        if not good or not 1 <= int(low) <= int(high) <= 65535:
            raise AvneError(f"the ports in the rule's pattern {text!r} are not numbers from 1 to 65535", CURE)
        found.append((int(low), int(high)))
    return tuple(found)


def _parse_network(text: str, host: str) -> Network | None:
    address, slash, bits = host.partition("/")
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    elif host.startswith("[") and host.endswith("]"):
        address, slash, bits = host[1:-1].partition("/")
    for family, size in ((socket.AF_INET, 32), (socket.AF_INET6, 128)):
        try:
            number = int.from_bytes(socket.inet_pton(family, address), "big")
        except (OSError, ValueError):
            continue
        if slash and not (bits.isascii() and bits.isdigit() and len(bits) <= 3 and int(bits) <= size):
            raise AvneError(f"the network in the rule's pattern {text!r} has no such size", CURE)
        mask = (1 << size) - (1 << (size - int(bits))) if slash else (1 << size) - 1
        if number & ~mask:
            raise AvneError(f"the address in the rule's pattern {text!r} has bits beyond its /{bits}", CURE)
        if size == 128 and number >> 32 == 0xFFFF and mask >> 32 == (1 << 96) - 1:  # IPv4-mapped, see `Host`
            return Network(socket.AF_INET, number & 0xFFFFFFFF, mask & 0xFFFFFFFF)
        return Network(family, number, mask)
    if slash or ":" in address or "[" in host:
        raise AvneError(f"the rule's pattern {text!r} is no network", CURE)
    return None


def _parse_name(text: str, name: str) -> str:
    """In lower case, as it is asked for (RFC 5890 A-labels)."""
    lower = name.rstrip(".").lower()
    if not lower.isascii():
        try:
            lower = lower.encode("idna").decode()
        except UnicodeError:
            raise AvneError(f"the name in the rule's pattern {text!r} cannot be looked up", CURE) from None
    labels = lower.split(".")
    if len(lower) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise AvneError(f"the rule's pattern {text!r} is no name and no address", CURE)
    if labels[-1].isdigit():
        raise AvneError(f"the rule's pattern {text!r} is no address", CURE)
    return lower
