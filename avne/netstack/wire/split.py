# SPDX-License-Identifier: GPL-3.0-or-later
"""A frame that was read in two parts: its headers here, the text of its segment where it is to stay.

readv(2) puts the first bytes of a packet into a small buffer and the rest into shared memory.  That
works where the headers have the usual length: no IP options, no extension headers, no TCP options.
Everything else is put together again and takes the ordinary way (ip.py, tcp.py).
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from avne.netstack.wire import ip, tcp, vnet

HEAD_V4: Final = vnet.SIZE + ip.HEADER_V4 + tcp.HEADER
HEAD_V6: Final = vnet.SIZE + ip.HEADER_V6 + tcp.HEADER

# vnet flags · version … · total length · fragment · protocol · sequence numbers · offset and flags · window
_V4: Final = Struct(">B9xBxH2xHxB14xIIHH")
_V6: Final = Struct(">B9xIHBx36xIIHH")
_NO_OPTIONS: Final = tcp.HEADER << 10
_LOOK_AT: Final = 0xF000 | tcp.URG | tcp.SYN


def parse(head: bytearray, text: memoryview) -> tuple[bytes, tcp.Segment] | None:
    """The connection's key (source, destination, ports) and the segment; None if it is not of the usual form.

    A SYN is not, nor is urgent data.

    `head` is `HEAD_V4` or `HEAD_V6` bytes, by the version that is looked for.
    """
    if len(head) == HEAD_V4:
        flags, version, length, fragment, protocol, seq, ack, bits, wnd = _V4.unpack_from(head)
        usual = (
            version == 0x45
            and not fragment & 0x3FFF
            and length == ip.HEADER_V4 + tcp.HEADER + len(text)
            and int.from_bytes(head[vnet.SIZE : vnet.SIZE + ip.HEADER_V4], "big") % 0xFFFF == 0
        )
        key = head[22:34]
    else:
        flags, version, length, protocol, seq, ack, bits, wnd = _V6.unpack_from(head)
        usual = version >> 28 == 6 and length == tcp.HEADER + len(text)
        key = head[18:54]
    if not usual or protocol != ip.TCP or not flags & vnet.NEEDS_CSUM or bits & _LOOK_AT != _NO_OPTIONS:
        return None
    return bytes(key), tcp.Segment(seq, ack, bits & 0x3F, wnd, text)
