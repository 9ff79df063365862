# SPDX-License-Identifier: GPL-3.0-or-later
"""The Tor network's helper process: the exits' DNS server, the echo service, slow links.

Started as ``python -m tests.bed.tornet.helper CONFIG``; writes the configuration's `ready_file`
when everything listens, and ends on SIGTERM or when its owner is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from tests.bed.tornet.dns import DnsServer
from tests.bed.tornet.processes import LOOPBACK, is_alive
from tests.bed.tornet.zone import Zone

# libevent, the exits' resolver, puts a name server aside for 10 s when a single look-up has failed
# there (SERVFAIL or silence); with one server that would stop all names.  So the same server
# appears at this many loopback addresses.
DNS_HOSTS = [f"127.0.0.{n}" for n in range(1, 17)]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


class SlowLinks:
    """A SOCKS 5 proxy for the client's links, in which every byte waits `latency` seconds."""

    def __init__(self, latency: float) -> None:
        self._latency = latency

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_writer = None
        try:
            await reader.readexactly(1)
            await reader.readexactly((await reader.readexactly(1))[0])
            writer.write(b"\x05\x00")
            await reader.readexactly(4)  # version, CONNECT, reserved, IPv4
            host = socket.inet_ntoa(await reader.readexactly(4))
            port = int.from_bytes(await reader.readexactly(2), "big")
            far_reader, far_writer = await asyncio.open_connection(host, port)
            writer.write(b"\x05\x00\x00\x01" + bytes(6))
            for one in (writer, far_writer):
                sock = one.get_extra_info("socket")
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.gather(self._delayed(reader, far_writer), self._delayed(far_reader, writer))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            if far_writer:
                far_writer.close()

    async def _delayed(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        # Bounded, so that a slow receiver still pushes back on the sender.
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(1024)

        async def read() -> None:
            data = b"-"
            while data:
                try:
                    data = await reader.read(65536)
                except OSError:
                    data = b""
                await queue.put((loop.time() + self._latency, data))

        task = asyncio.create_task(read())
        try:
            while True:
                due, data = await queue.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                if not data:
                    break
                writer.write(data)
                await writer.drain()
        finally:
            task.cancel()
            writer.close()


async def run(config: dict[str, Any]) -> None:
    zone = Zone(config["zone"], config["addresses"], config["hosts"])
    dns = DnsServer(zone, Path(config["query_log"]))
    for host in DNS_HOSTS:
        await dns.listen_udp(host, config["dns_port"])
    await dns.listen_tcp(LOOPBACK, config["dns_port"])
    await asyncio.start_server(echo, LOOPBACK, config["echo_port"])
    with contextlib.suppress(OSError):  # no IPv6 here
        await asyncio.start_server(echo, "::1", config["echo_port"])
    for host in config["listen"]:
        await asyncio.start_server(echo, host, config["echo_port"])
        await dns.listen_tcp(host, 53)
        await dns.listen_udp(host, 53)
    if config["latency"]:
        await asyncio.start_server(SlowLinks(config["latency"]).serve, LOOPBACK, config["latency_port"])
    Path(config["ready_file"]).write_text("ready\n")
    await _until_stopped(config["owner_pid"], config["owner_started"])


async def _until_stopped(owner: int, owner_started: int) -> None:
    stop = asyncio.Event()
    for sig in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sig, stop.set)
    while not stop.is_set():
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stop.wait(), 1.0)
        if owner and not is_alive(owner, owner_started):
            break


if __name__ == "__main__":
    asyncio.run(run(json.loads(Path(sys.argv[1]).read_text())))
