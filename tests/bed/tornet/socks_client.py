# SPDX-License-Identifier: GPL-3.0-or-later
"""A SOCKS 5 client (RFC 1928, RFC 1929, Tor's socks-extensions), as much as readiness checks need."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct

from tests.bed.tornet.processes import LOOPBACK, TornetError

CONNECT, RESOLVE, RESOLVE_PTR = 1, 0xF0, 0xF1

Address = int | str | tuple[str, int]  # a loopback port, a unix socket's path, or host and port


class SocksError(Exception):
    """The proxy's refusal; `code` is the SOCKS 5 reply field."""

    def __init__(self, code: int) -> None:
        super().__init__(f"SOCKS reply 0x{code:02x}")
        self.code = code


def dial(address: Address, timeout: float) -> socket.socket:
    if isinstance(address, str):
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.settimeout(timeout)
            sock.connect(address)
        except BaseException:
            sock.close()
            raise
        return sock
    return socket.create_connection((LOOPBACK, address) if isinstance(address, int) else address, timeout)


def receive_exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = sock.recv(count - len(data))
        if not chunk:
            raise ConnectionError("the other end closed the connection")
        data += chunk
    return data


def socks_request(
    proxy: Address,
    command: int,
    host: str,
    port: int,
    timeout: float,
    auth: tuple[str, str] | None = None,
) -> tuple[socket.socket, str]:
    """One SOCKS 5 request.  Gives the socket and the address in the reply; SocksError on a refusal."""
    sock = dial(proxy, timeout)
    try:
        sock.sendall(b"\x05\x01\x00" if auth is None else b"\x05\x01\x02")
        method = receive_exactly(sock, 2)[1]
        if method == 2 and auth is not None:
            user, password = (part.encode() for part in auth)
            sock.sendall(b"\x01" + bytes([len(user)]) + user + bytes([len(password)]) + password)
            if receive_exactly(sock, 2)[1]:
                raise SocksError(0xFF)
        elif method != 0:
            raise SocksError(0xFF)
        request = bytes([5, command, 0]) + _encode_host(host) + struct.pack("!H", port)
        sock.sendall(request)
        _version, code, _reserved, kind = receive_exactly(sock, 4)
        if code:
            raise SocksError(code)
        if kind == 1:
            answer = socket.inet_ntop(socket.AF_INET, receive_exactly(sock, 4))
        elif kind == 4:
            answer = socket.inet_ntop(socket.AF_INET6, receive_exactly(sock, 16))
        else:
            answer = receive_exactly(sock, receive_exactly(sock, 1)[0]).decode()
        receive_exactly(sock, 2)
        return sock, answer
    except BaseException:
        sock.close()
        raise


def _encode_host(host: str) -> bytes:
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        name = host.encode("idna")
        return b"\x03" + bytes([len(name)]) + name
    return (b"\x01" if ip.version == 4 else b"\x04") + ip.packed


def echo_roundtrip(proxy: Address, host: str, port: int, timeout: float) -> None:
    """Connect through Tor to an echo service and check that it echoes."""
    sock, _ = socks_request(proxy, CONNECT, host, port, timeout)
    with sock:
        token = os.urandom(8)
        sock.sendall(token)
        if receive_exactly(sock, len(token)) != token:
            raise TornetError(f"echo service at {host}:{port} returned other bytes")
