# SPDX-License-Identifier: GPL-3.0-or-later
"""The connections of a netstack that has died: their programs are told by its successor.

A program that sends is answered by a reset anyway (RFC 9293 §3.10.7.1); one that only waits would wait for
good.  Its kernel is made to speak: an ACK that is outside of its window is answered by one that says what it
expects (§3.10.7.4, "send an acknowledgment"), and the stack's answer to that, which belongs to no
connection, is a reset with just this number, the only one that is believed (RFC 5961 §3.2).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from avne.netstack import addresses
from avne.netstack.wire import tcp

if TYPE_CHECKING:
    from avne.netstack.stack import Stack

# No window is so large that it holds both (RFC 7323 §2.3: at most 2³⁰).
_NUMBERS: Final = (0, 1 << 31)
_SIZES: Final = (12, 36)  # of a key: two addresses and two ports


def provoke(stack: Stack, keys: Iterable[bytes]) -> None:
    """Have the kernel of each of these connections speak; a key as those of `stack.connections`.

    Those of the stack's own, and those that never left the environment, are none.
    """
    for key in keys:
        size = (len(key) - 4) // 2
        src, dst = key[:size], key[size : 2 * size]
        if len(key) not in _SIZES or key in stack.connections:
            continue
        if src not in addresses.TUN or dst in addresses.TUN:
            continue
        stack.count("tcp-orphan")
        ports = int.from_bytes(key[-2:], "big"), int.from_bytes(key[-4:-2], "big")
        template = tcp.HeaderTemplate(dst, ports[0], src, ports[1])
        stack.packets.extend((template.build(number, 0, tcp.ACK, 0, 0, 0),) for number in _NUMBERS)
