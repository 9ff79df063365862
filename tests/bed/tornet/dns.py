# SPDX-License-Identifier: GPL-3.0-or-later
"""A DNS server for a `Zone`, over UDP and TCP, that never forwards and logs each query.

Not made with dnslib on purpose: avne's own DNS code stands on that library, and its tests
should not agree with it in a mistake.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
import time
from pathlib import Path
from typing import Any

from tests.bed.tornet.zone import NOERROR, NOTIMP, NXDOMAIN, QTYPE, Record, Zone, wire_name

TTL = 60


def parse(query: bytes) -> tuple[int, int, str, int, bytes] | None:
    """(id, flags, name, qtype, question bytes), or None if not a query."""
    if len(query) < 12:
        return None
    ident, flags, qdcount = struct.unpack("!HHH", query[:6])
    if flags & 0x8000 or qdcount != 1:
        return None
    labels, pos = [], 12
    try:
        while query[pos]:
            size = query[pos]
            if size > 63:
                return None
            labels.append(query[pos + 1 : pos + 1 + size].decode("latin-1"))
            pos += 1 + size
        qtype, _qclass = struct.unpack("!HH", query[pos + 1 : pos + 5])
    except (IndexError, struct.error):
        return None
    return ident, flags, ".".join(labels), qtype, query[12 : pos + 5]


def respond(zone: Zone, query: bytes, limit: int) -> bytes | None:
    """Wire-format answer of at most `limit` bytes; the question is copied as sent (0x20 case)."""
    parsed = parse(query)
    if parsed is None:
        return None
    ident, flags, name, qtype, question = parsed
    rcode, records = NOTIMP, list[Record]()
    if not flags & 0x7800:
        rcode, records = zone.answer(name, qtype)
    authority = list[Record]()
    if rcode in (NOERROR, NXDOMAIN) and not any(qtype in (rtype, QTYPE["ANY"]) for _, rtype, _ in records):
        authority = zone.authority(name)
    body = b""
    for owner, rtype, rdata in records + authority:
        owner_wire = b"\xc0\x0c" if owner == name.lower() else wire_name(owner)
        body += owner_wire + struct.pack("!HHIH", rtype, 1, TTL, len(rdata)) + rdata
    out_flags = 0x8480 | (flags & 0x0100) | rcode
    if 12 + len(question) + len(body) > limit:
        out_flags, records, authority, body = out_flags | 0x0200, [], [], b""
    header = struct.pack("!HHHHHH", ident, out_flags, 1, len(records), len(authority), 0)
    return header + question + body


class DnsServer:
    """Answers from a zone; every query becomes a line of JSON in `query_log`."""

    def __init__(self, zone: Zone, query_log: Path) -> None:
        self.zone = zone
        self._log = query_log.open("a", buffering=1)

    async def listen_udp(self, host: str, port: int) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: _Datagrams(self), local_addr=(host, port))

    async def listen_tcp(self, host: str, port: int) -> None:
        await asyncio.start_server(self._serve, host, port)

    def note(self, protocol: str, query: bytes) -> str:
        """Log a query; gives its name."""
        parsed = parse(query)
        if parsed is None:
            return ""
        name, qtype = parsed[2], parsed[3]
        label = next((k for k, v in QTYPE.items() if v == qtype), str(qtype))
        row = {"time": round(time.time(), 3), "proto": protocol, "name": name.lower(), "type": label}
        self._log.write(json.dumps(row) + "\n")
        return name

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                size = int.from_bytes(await reader.readexactly(2), "big")
                query = await reader.readexactly(size)
                wait = self.zone.delay(self.note("tcp", query))
                if wait is None:
                    continue
                if wait:
                    await asyncio.sleep(wait)
                reply = respond(self.zone, query, 65535)
                if reply is None:
                    break
                writer.write(len(reply).to_bytes(2, "big") + reply)
                await writer.drain()
        writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        wait = self._server.zone.delay(self._server.note("udp", data))
        if wait is None:
            return
        reply = respond(self._server.zone, data, 512)
        if reply is not None:
            asyncio.get_running_loop().call_later(wait, self._transport.sendto, reply, addr)
