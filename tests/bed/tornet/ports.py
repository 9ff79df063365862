# SPDX-License-Identifier: GPL-3.0-or-later
"""Free loopback ports, held until they are needed."""

from __future__ import annotations

import contextlib
import errno
import random
import socket
from pathlib import Path

from tests.bed.tornet.processes import LOOPBACK, TornetError


class PortPool:
    """Hands out free loopback ports, and holds each until it is released.

    Ports come from below the kernel's ephemeral range: a port inside it can be taken by any
    outgoing connection between our probe and Tor's bind().
    """

    def __init__(self) -> None:
        self._held: dict[int, list[socket.socket]] = {}
        low = 32768
        with contextlib.suppress(OSError, ValueError):
            low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
        if low < 12000:  # a machine with a widened ephemeral range
            self._candidates = list(range(20000, 32000))
        else:
            self._candidates = list(range(10000, min(low, 32768)))
        random.SystemRandom().shuffle(self._candidates)

    @staticmethod
    def _hold(port: int) -> list[socket.socket] | None:
        """Sockets bound to a free port, TCP and UDP; None if it is in use."""
        held: list[socket.socket] = []
        wanted = [
            (socket.AF_INET, socket.SOCK_STREAM, LOOPBACK),
            (socket.AF_INET, socket.SOCK_DGRAM, LOOPBACK),
            (socket.AF_INET6, socket.SOCK_STREAM, "::1"),
        ]
        for family, kind, host in wanted:
            try:
                sock = socket.socket(family, kind)
                held.append(sock)
                sock.bind((host, port))
            except OSError as error:
                if family == socket.AF_INET6 and error.errno != errno.EADDRINUSE:
                    continue  # a machine without IPv6
                for sock in held:
                    sock.close()
                return None
        return held

    def take(self) -> int:
        while self._candidates:
            port = self._candidates.pop()
            held = self._hold(port)
            if held is not None:
                self._held[port] = held
                return port
        raise TornetError("no free ports on 127.0.0.1")

    def release(self, *ports: int) -> None:
        for port in ports:
            for sock in self._held.pop(port, []):
                sock.close()

    def release_all(self) -> None:
        self.release(*list(self._held))
