# SPDX-License-Identifier: GPL-3.0-or-later
"""A filter that bounds the bytes in a second: ``limit:500K+UPSTREAM``.

The bound is for each direction, of all connections of the upstream together.  Who moves the bytes keeps it
(ipc/pace.py): the netstack, where the worker gives its sockets away.
"""

from __future__ import annotations

import re
from typing import Final

from avne.upstream.base import Upstream
from avne.upstream.filter import Filter
from avne.upstream.spec import UpstreamSpec

MIN_RATE: Final = 1 << 10
MAX_RATE: Final = 1 << 40

_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def parse_rate(text: str) -> int:
    """Bytes in a second of ``500K``; ValueError for what is none, or out of bounds."""
    found = re.fullmatch(r"([0-9]{1,13})([KMG]?)", text.upper(), re.ASCII)
    rate = int(found[1]) * _UNITS[found[2]] if found else 0
    if not MIN_RATE <= rate <= MAX_RATE:
        raise ValueError(text)
    return rate


class Limit(Filter):
    """The bound goes with each connection to whoever moves its bytes."""

    kind = "limit"
    form = "limit:RATE+UPSTREAM, RATE in bytes a second, such as 500K or 2M (of 1,024), at least 1K"

    def __init__(self, spec: UpstreamSpec, inner: Upstream | None = None) -> None:
        super().__init__(spec, inner)
        rate = parse_rate(spec.argument)
        self.rate = min(rate, self.rate) if self.rate else rate

    @classmethod
    def parse(cls, text: str, inner: UpstreamSpec | None) -> UpstreamSpec:
        try:
            parse_rate(text)
        except ValueError:
            raise cls.bad(f"{text!r} is no rate of a limit") from None
        return cls.wrap(inner, text)
