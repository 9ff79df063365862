# SPDX-License-Identifier: GPL-3.0-or-later
"""What the test DNS server answers.

The zone is test.example unless told otherwise; W = 127.0.0.1 and ::1, or the world's addresses::

    v4.ZONE          A only          v6.ZONE          AAAA only
    multi.ZONE       three A         cname.ZONE       CNAME to www.ZONE
    nodata.ZONE      no records      nx.ZONE          NXDOMAIN
    servfail.ZONE    SERVFAIL        drop.ZONE        never answered
    slow.ZONE        after 0.6 s     ip-10-1-2-3.ZONE A 10.1.2.3
    ip6-2001-db8--1.ZONE AAAA 2001:db8::1
    big.ZONE         A W; a TXT record of 3,000 bytes
    signed.ZONE      A W, with an RRSIG that nobody has made
    anything-else.ZONE   A and AAAA W; also TXT, MX, SRV, CAA and HTTPS
    the apex         NS and SOA as well
    PTR of a loopback, private or world address -> ip-....ZONE; but Tor exits refuse, unasked, to
    look up loopback and private addresses.

`hosts` adds any other name; the rest is NXDOMAIN.  Labels may be prefixed to make fresh names:
x17.nx.ZONE acts as nx.ZONE.
"""

from __future__ import annotations

import ipaddress
import struct

from tests.bed.tornet.processes import LOOPBACK

QTYPE = {
    "A": 1, "NS": 2, "CNAME": 5, "SOA": 6, "PTR": 12, "MX": 15, "TXT": 16, "AAAA": 28, "SRV": 33,
    "RRSIG": 46, "HTTPS": 65, "ANY": 255, "CAA": 257,
}  # fmt: skip
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP = 0, 1, 2, 3, 4
NEGATIVE = 30  # seconds
SLOW_SECONDS = 0.6  # Tor exits give up on a query after two tries of 1 s

Record = tuple[str, int, bytes]  # owner, type, rdata


def wire_name(name: str) -> bytes:
    """A name in the uncompressed form of RFC 1035 §3.1."""
    out = b""
    for label in name.rstrip(".").split(".") if name.rstrip(".") else []:
        raw = label.encode("ascii")
        out += bytes([len(raw)]) + raw
    return out + b"\x00"


def reverse_address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that an in-addr.arpa or ip6.arpa name asks about."""
    try:
        if name.endswith(".in-addr.arpa"):
            parts = name[: -len(".in-addr.arpa")].split(".")
            return ipaddress.IPv4Address(".".join(reversed(parts)))
        if name.endswith(".ip6.arpa"):
            digits = "".join(reversed(name[: -len(".ip6.arpa")].split(".")))
            return ipaddress.IPv6Address(int(digits, 16)) if len(digits) == 32 else None
    except ValueError:
        pass
    return None


class Zone:
    """The answers; the module's docstring lists them."""

    def __init__(self, apex: str, addresses: list[str], hosts: dict[str, list[str]]) -> None:
        self.apex = apex.lower().rstrip(".")
        ips = [ipaddress.ip_interface(a).ip for a in addresses]
        self.v4 = [str(i) for i in ips if i.version == 4] or [LOOPBACK]
        self.v6 = [str(i) for i in ips if i.version == 6] or ["::1"]
        self.local = [ipaddress.ip_network(a, strict=False) for a in addresses]
        self.hosts = {k.lower().rstrip("."): v for k, v in hosts.items()}

    def label(self, name: str) -> str:
        """The label just below the apex, which decides; empty for the apex and outside the zone."""
        if not name.endswith("." + self.apex):
            return ""
        return name[: -len(self.apex) - 1].split(".")[-1]

    def addresses(self, name: str) -> list[str] | None:
        """Addresses of a lower-case name; [] for no records, None for NXDOMAIN."""
        if name in self.hosts:
            return self.hosts[name]
        label = self.label(name)
        if not label and name != self.apex:
            return None
        if label == "nx":
            return None
        fixed = {
            "v4": self.v4,
            "v6": self.v6,
            "nodata": list[str](),
            "multi": [self.v4[0], "127.0.0.2", "127.0.0.3"],
        }
        if label in fixed:
            return fixed[label]
        for prefix, separator in (("ip-", "."), ("ip6-", ":")):
            if label.startswith(prefix):
                try:
                    text = label[len(prefix) :].replace("-", separator)
                    return [str(ipaddress.ip_address(text))]
                except ValueError:
                    return None
        return self.v4 + self.v6

    def _pointer(self, name: str) -> str | None:
        """The host name for a reverse name; None for NXDOMAIN."""
        ip = reverse_address(name)
        if ip is None:
            return None
        for host, addresses in self.hosts.items():
            if str(ip) in addresses:
                return host
        ours = any(ip.version == n.version and ip in n for n in self.local)
        if not (ip.is_loopback or ip.is_private or ours):
            return None
        if ip.version == 4:
            return f"ip-{str(ip).replace('.', '-')}.{self.apex}"
        return f"ip6-{str(ip).replace(':', '-')}.{self.apex}"

    def answer(self, name: str, qtype: int) -> tuple[int, list[Record]]:
        """The response code and the records for a name."""
        name = name.lower().rstrip(".")
        if name.endswith(".arpa"):
            target = self._pointer(name)
            if target is None:
                return NXDOMAIN, []
            if qtype in (QTYPE["PTR"], QTYPE["ANY"]):
                return NOERROR, [(name, QTYPE["PTR"], wire_name(target))]
            return NOERROR, []
        label = self.label(name)
        if label == "servfail":
            return SERVFAIL, []
        if label == "cname":
            target = "www." + self.apex
            rcode, rest = self.answer(target, qtype)
            return rcode, [(name, QTYPE["CNAME"], wire_name(target)), *rest]
        addresses = self.addresses(name)
        if addresses is None:
            return NXDOMAIN, []
        found = self._address_records(name, qtype, addresses)
        if found and label == "signed":
            found.append((name, QTYPE["RRSIG"], self._signature(qtype)))
        return NOERROR, found + self._other_records(name, qtype)

    def authority(self, name: str) -> list[Record]:
        """What comes with a negative answer (RFC 2308 §2): it may be kept for `NEGATIVE` seconds."""
        return [(self.apex, QTYPE["SOA"], self._soa())] if self.owns(name) else []

    def owns(self, name: str) -> bool:
        return f".{name.lower().rstrip('.')}".endswith(f".{self.apex}")

    def _soa(self) -> bytes:
        names = wire_name("ns." + self.apex) + wire_name("root." + self.apex)
        return names + struct.pack("!5I", 1, 3600, 600, 86400, NEGATIVE)

    def _signature(self, qtype: int) -> bytes:
        """RFC 4034 §3.1, of the right form only."""
        head = struct.pack("!HBBIIIH", qtype, 13, 3, 60, 2**31 - 1, 0, 4711)
        return head + wire_name(self.apex) + bytes(64)

    def _address_records(self, name: str, qtype: int, addresses: list[str]) -> list[Record]:
        records: list[Record] = []
        for text in addresses:
            ip = ipaddress.ip_address(text)
            rtype = QTYPE["A"] if ip.version == 4 else QTYPE["AAAA"]
            if qtype in (rtype, QTYPE["ANY"]):
                records.append((name, rtype, ip.packed))
        return records

    def _other_records(self, name: str, qtype: int) -> list[Record]:
        if name == self.apex:
            apex = {QTYPE["NS"]: wire_name("ns." + self.apex), QTYPE["SOA"]: self._soa()}
            return [(name, qtype, apex[qtype])] if qtype in apex else []
        if self.label(name) in ("", "nodata"):
            return []
        if self.label(name) == "big" and qtype == QTYPE["TXT"]:
            return [(name, qtype, (b"\xff" + b"x" * 255) * 12)]
        mail = wire_name("mail." + self.apex)
        hints = b"\0\1\0\3\2h2" + b"\0\4\0\4" + ipaddress.ip_address(self.v4[0]).packed
        hints += b"\0\6\0\x10" + ipaddress.ip_address(self.v6[0]).packed
        extra = {
            QTYPE["TXT"]: b"\x10tornet test zone",
            QTYPE["MX"]: struct.pack("!H", 10) + mail,
            QTYPE["SRV"]: struct.pack("!HHH", 1, 1, 5060) + mail,
            QTYPE["CAA"]: b"\0\5issueca.example",
        }
        if self.label(name) == "https":  # a browser asks such a name for nothing but https://
            extra[QTYPE["HTTPS"]] = b"\0\1\0" + hints
        return [(name, qtype, extra[qtype])] if qtype in extra else []

    def delay(self, name: str) -> float | None:
        """Seconds to wait before answering; None to stay silent."""
        return {"drop": None, "slow": SLOW_SECONDS}.get(self.label(name.lower().rstrip(".")), 0.0)
