# SPDX-License-Identifier: GPL-3.0-or-later
"""What an upstream's refusal means to the program's connect(2): one table per kind of upstream.

A plain SOCKS5 server tells the truth, so the program is told the same.  Tor says 01 for most
failures, a refused port included, because the exit has lost the reason; the program sees
"connection refused" then, as with other transparent proxies.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from avne.ipc.messages import Code


class Verdict(Enum):
    """How a parked SYN is answered, and what connect(2) then reports."""

    REFUSED = "RST"  # ECONNREFUSED
    NETWORK_UNREACHABLE = "ICMP network unreachable"  # ENETUNREACH
    HOST_UNREACHABLE = "ICMP host unreachable"  # EHOSTUNREACH
    PROHIBITED = "ICMP administratively prohibited"  # EHOSTUNREACH (IPv4), EACCES (IPv6)
    SILENCE = "no answer"  # ETIMEDOUT, when the program's kernel gives up


_COMMON: Final[dict[int, Verdict]] = {
    Code.UPSTREAM_DOWN: Verdict.REFUSED,
    Code.UPSTREAM_TIMEOUT: Verdict.SILENCE,
    Code.UPSTREAM_AUTH: Verdict.PROHIBITED,
    Code.UPSTREAM_PROTOCOL: Verdict.REFUSED,
    Code.BAD_NAME: Verdict.HOST_UNREACHABLE,
}

TABLE: Final[dict[str, dict[int, Verdict]]] = {
    "socks5": {
        **_COMMON,
        Code.GENERAL_FAILURE: Verdict.REFUSED,
        Code.NOT_ALLOWED: Verdict.PROHIBITED,
        Code.NETWORK_UNREACHABLE: Verdict.NETWORK_UNREACHABLE,
        Code.HOST_UNREACHABLE: Verdict.HOST_UNREACHABLE,
        Code.CONNECTION_REFUSED: Verdict.REFUSED,
        Code.TTL_EXPIRED: Verdict.SILENCE,
        Code.COMMAND_NOT_SUPPORTED: Verdict.REFUSED,
        Code.ADDRESS_TYPE_NOT_SUPPORTED: Verdict.NETWORK_UNREACHABLE,
    },
    "tor": {
        **_COMMON,
        Code.GENERAL_FAILURE: Verdict.REFUSED,
        Code.NOT_ALLOWED: Verdict.NETWORK_UNREACHABLE,
        Code.NETWORK_UNREACHABLE: Verdict.NETWORK_UNREACHABLE,
        Code.HOST_UNREACHABLE: Verdict.HOST_UNREACHABLE,
        # 05 and 06 come for onion services only: the virtual port is not there, the host is gone.
        Code.CONNECTION_REFUSED: Verdict.REFUSED,
        Code.TTL_EXPIRED: Verdict.REFUSED,
        Code.COMMAND_NOT_SUPPORTED: Verdict.REFUSED,
        Code.ADDRESS_TYPE_NOT_SUPPORTED: Verdict.NETWORK_UNREACHABLE,
        Code.ONION_DESCRIPTOR_NOT_FOUND: Verdict.REFUSED,
        Code.ONION_DESCRIPTOR_INVALID: Verdict.REFUSED,
        Code.ONION_INTRODUCTION_FAILED: Verdict.REFUSED,
        Code.ONION_RENDEZVOUS_FAILED: Verdict.REFUSED,
        Code.ONION_CLIENT_AUTH_MISSING: Verdict.REFUSED,
        Code.ONION_CLIENT_AUTH_WRONG: Verdict.REFUSED,
        Code.ONION_BAD_ADDRESS: Verdict.REFUSED,
        Code.ONION_INTRODUCTION_TIMED_OUT: Verdict.REFUSED,
    },
}


def verdict(kind: str, code: int) -> Verdict:
    """What the program is told; a code that nobody has defined is a refusal."""
    return TABLE.get(kind, _COMMON).get(code, Verdict.REFUSED)
