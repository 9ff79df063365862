# SPDX-License-Identifier: GPL-3.0-or-later
"""How what happened is written down: errnos, bytes, flags and events, the same on both sides."""

from __future__ import annotations

import errno
import hashlib
import select
import socket
from collections.abc import Callable, Iterable
from typing import Any

SHORT = 40  # bytes that are written out; of longer ones their number and digest

EVENTS = {
    name: getattr(select, f"EPOLL{name}") for name in ("IN", "PRI", "OUT", "ERR", "HUP", "RDHUP")
}  # poll(2) has the same bits
MSG_ZEROCOPY = 0x4000000  # Python has no name for it
HOW = {"RD": socket.SHUT_RD, "WR": socket.SHUT_WR, "RDWR": socket.SHUT_RDWR}
# include/net/tcp_states.h: what TCP_INFO begins with.
STATES = (
    "", "ESTABLISHED", "SYN-SENT", "SYN-RECEIVED", "FIN-WAIT-1", "FIN-WAIT-2", "TIME-WAIT", "CLOSE",
    "CLOSE-WAIT", "LAST-ACK", "LISTEN", "CLOSING",
)  # fmt: skip


def written(value: Any) -> str:
    """A result or an argument, so that equal observations give equal text."""
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
        if len(data) <= SHORT:
            return repr(data)
        return f"{len(data)} bytes {hashlib.sha256(data).hexdigest()[:8]}"
    return str(value)


def outcome(call: Callable[[], Any]) -> str:
    """What `call` gave, or the name of the errno it failed with."""
    try:
        return written(call())
    except OSError as error:
        if error.errno is None:
            return "nothing happened"  # Python's own timeout
        return errno.errorcode[error.errno]


def events(mask: int) -> str:
    """The bits of poll(2) or epoll(7), in one order."""
    return "|".join(name for name, bit in EVENTS.items() if mask & bit) or "none"


def event_mask(text: str) -> int:
    return _joined(text, lambda name: EVENTS[name])


def message_flags(text: str) -> int:
    """ "PEEK|DONTWAIT" → the flags of send(2) and recv(2)."""
    return _joined(text, lambda name: MSG_ZEROCOPY if name == "ZEROCOPY" else getattr(socket, f"MSG_{name}"))


def _joined(text: str, value: Callable[[str], int]) -> int:
    mask = 0
    for name in filter(None, text.split("|")):
        mask |= value(name)
    return mask


def call(who: str, verb: str, arguments: Iterable[Any], result: str) -> str:
    """One line of a transcript."""
    return f"{who}.{verb}({', '.join(map(written, arguments))}) → {result}"


def stream(count: int, offset: int = 0) -> bytes:
    """Bytes `offset` … `offset + count` of a fixed sequence with a period that is no power of two."""
    period = bytes(range(251))
    start = offset % len(period)
    return (period * ((start + count) // len(period) + 1))[start : start + count]
