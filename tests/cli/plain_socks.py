# SPDX-License-Identifier: GPL-3.0-or-later
"""A SOCKS5 server on loopback that connects to loopback: enough of an upstream for the supervisor's tests.

``python -m tests.cli.plain_socks`` prints its port, and serves until its standard input ends.
Any destination of port P is 127.0.0.1:P.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
import threading


def _exactly(sock, size):
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def _copy(source, target):
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def serve(client):
    """One connection: greeting, request, bytes both ways with half-close."""
    with client, contextlib.suppress(OSError, EOFError):
        _exactly(client, _exactly(client, 2)[1])
        client.sendall(b"\5\0")
        kind = _exactly(client, 4)[3]
        _exactly(client, {1: 4, 4: 16}.get(kind) or _exactly(client, 1)[0])
        (port,) = struct.unpack("!H", _exactly(client, 2))
        try:
            target = socket.create_connection(("127.0.0.1", port))
        except OSError:
            client.sendall(b"\5\5\0\1" + bytes(6))
            return
        with target:
            client.sendall(b"\5\0\0\1" + bytes(6))
            back = threading.Thread(target=_copy, args=(target, client))
            back.start()
            _copy(client, target)
            back.join()


def main():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
        while True:
            threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()


if __name__ == "__main__":
    main()
