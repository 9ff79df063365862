# SPDX-License-Identifier: GPL-3.0-or-later
"""The process with the world's servers; `places.py` says what is where.

Each TCP connection has a thread; the DNS server is an asyncio loop in the main thread.
Started as ``python -m tests.bed.servers DIR``; writes "ready" to standard output.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import select
import socket
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from tests.bed import places
from tests.bed.tornet.dns import DnsServer
from tests.bed.tornet.zone import Zone
from tests.bed.web import WebServer

Handler = Callable[[socket.socket], None]
BLOCK = 1 << 20


def stream_file() -> int:
    """A file with one period of the stream, for sendfile(2)."""
    fd = os.memfd_create("stream")
    os.write(fd, places.stream_period())
    return fd


def send_stream(sock: socket.socket, file: int, count: int) -> None:
    """The first `count` bytes of the stream, without a copy of ours."""
    sent = 0
    while sent < count:
        offset = sent % places.PERIOD
        sent += os.sendfile(sock.fileno(), file, offset, min(count - sent, places.PERIOD - offset))


def reset(sock: socket.socket) -> None:
    """Close with RST: what is not sent yet is dropped (socket(7), SO_LINGER)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def drain(sock: socket.socket) -> tuple[int, str]:
    """Read to the end of file: how many bytes, and their SHA-256."""
    digest, total = hashlib.sha256(), 0
    buffer = memoryview(bytearray(BLOCK))
    while size := sock.recv_into(buffer):
        digest.update(buffer[:size])
        total += size
    return total, digest.hexdigest()


def echo(sock: socket.socket) -> None:
    while data := sock.recv(BLOCK):
        sock.sendall(data)


def discard(sock: socket.socket) -> None:
    buffer = bytearray(BLOCK)
    while sock.recv_into(buffer):
        pass


def digest(sock: socket.socket) -> None:
    total, checksum = drain(sock)
    sock.sendall(f"{total} {checksum}\n".encode())


def silent(sock: socket.socket) -> None:
    """Until the connection is reset."""
    poller = select.poll()
    poller.register(sock, 0)
    poller.poll()


def listener(port: int, backlog: int = 1024) -> socket.socket:
    """At every address of the world, both families."""
    sock = socket.socket(socket.AF_INET6)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("::", port))
    sock.listen(backlog)
    return sock


def serve(port: int, handler: Handler) -> None:
    """A listening socket now, and a thread for it that starts a thread for each connection."""
    sock = listener(port)

    def handle(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            handler(connection)

    def accept() -> None:
        while True:
            connection, _ = sock.accept()
            threading.Thread(target=handle, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def never_accepting() -> list[socket.socket]:
    """A listening socket whose queue is full, so that the kernel drops every further SYN."""
    sock = listener(places.NEVER_ACCEPTS, backlog=0)
    client = socket.create_connection(("127.0.0.1", places.NEVER_ACCEPTS))
    return [sock, client]


async def serve_names(directory: Path) -> None:
    zone = Zone(places.ZONE, [places.V4, places.V6], places.FAILING)
    dns = DnsServer(zone, directory / "dns-queries.jsonl")
    for host in (places.V4, places.V6):
        await dns.listen_udp(host, places.DNS)
        await dns.listen_tcp(host, places.DNS)
    print("ready", flush=True)
    await asyncio.Event().wait()


def main(directory: Path) -> None:
    file = stream_file()

    def rst_after_data(sock: socket.socket) -> None:
        send_stream(sock, file, places.RST_AFTER)
        sock.recv(1)  # the client says when it has them: RST drops what is under way
        reset(sock)

    for port, handler in {
        places.ECHO: echo,
        places.DISCARD: discard,
        places.CHARGEN: lambda sock: send_stream(sock, file, sys.maxsize),
        places.DIGEST: digest,
        places.RST_ON_ACCEPT: reset,
        places.RST_AFTER_DATA: rst_after_data,
        places.SILENT: silent,
        places.CLOSES: socket.socket.close,
    }.items():
        serve(port, handler)
    full = never_accepting()
    web = WebServer(listener(places.WEB), file, directory)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    asyncio.run(serve_names(directory))
    del full


if __name__ == "__main__":
    main(Path(sys.argv[1]))
