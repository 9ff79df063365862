# SPDX-License-Identifier: GPL-3.0-or-later
"""getsockopt(2) and setsockopt(2) of a connection."""

from __future__ import annotations

import socket

from tests.differential.script import Script, case


@case
def what_a_socket_is(script: Script) -> None:
    """SO_TYPE, SO_PROTOCOL, SO_ACCEPTCONN and the like."""
    client, _ = script.connected()
    for name in ("SO_TYPE", "SO_PROTOCOL", "SO_DOMAIN", "SO_ACCEPTCONN", "SO_KEEPALIVE", "SO_REUSEADDR"):
        client.get(name)


@case
def options_that_are_kept(script: Script) -> None:
    """What is set is read back, on a connection."""
    client, _ = script.connected()
    values = {
        "TCP_NODELAY": 1, "TCP_CORK": 1, "TCP_KEEPIDLE": 11, "TCP_KEEPINTVL": 12, "TCP_KEEPCNT": 3,
        "TCP_USER_TIMEOUT": 12345, "TCP_LINGER2": 7, "TCP_SYNCNT": 4, "SO_OOBINLINE": 1, "SO_KEEPALIVE": 1,
        "SO_PRIORITY": 3, "SO_RCVLOWAT": 100, "TCP_NOTSENT_LOWAT": 5000, "TCP_WINDOW_CLAMP": 50000,
    }  # fmt: skip
    for name, value in values.items():
        client.set(name, value)
        client.get(name)


@case
def options_of_the_header(script: Script) -> None:
    """TTL, TOS and traffic class of what is sent."""
    client, server = script.connected()
    names = ("IPV6_UNICAST_HOPS", "IPV6_TCLASS") if script.v6 else ("IP_TTL", "IP_TOS")
    for name in names:
        client.set(name, 32)
        client.get(name)
    client.send(b"marked")
    server.recv_exactly(6)


@case
def segment_size(script: Script) -> None:
    """TCP_MAXSEG of a connection is that of a large MTU; one that is asked for is kept to."""
    client, _ = script.connected()
    script.say("large", int(client.get_quietly("TCP_MAXSEG")) > 1000)
    small, listener = script.client("small"), script.listener()
    small.set("TCP_MAXSEG", 600)
    small.connect(listener)
    script.say("small", int(small.get_quietly("TCP_MAXSEG")) <= 600)
    server = listener.accept()
    reading = server.later("recv_to_end")
    small.send_stream(50_000)
    small.shutdown("WR")
    reading.result()
    server.send_stream(50_000)
    server.close()
    small.recv_to_end()


@case
def negotiated_options(script: Script) -> None:
    """What both SYNs agreed on, by TCP_INFO."""
    client, _ = script.connected()
    client.negotiated()


@case
def error_after_failures(script: Script) -> None:
    """SO_ERROR stays 0 for errors that a call has told."""
    client, server = script.connected()
    client.shutdown("WR")
    client.send(b"x")
    client.get("SO_ERROR")
    client.recv(1, "DONTWAIT")
    client.get("SO_ERROR")
    server.close()


@case
def names_of_both_ends(script: Script) -> None:
    """getpeername(2) is what was connected to; getsockname(2) does not change."""
    listener, client = script.listener(), script.client()
    client.connect(listener)
    sock = client.endpoint.sock
    script.say("peer", sock.getpeername()[:2] == (script.host, listener.port))
    name = sock.getsockname()
    server = listener.accept()
    server.close()
    client.recv_to_end()
    script.say("peer", sock.getpeername()[:2] == (script.host, listener.port))
    script.say("name is kept", sock.getsockname() == name)
    client.send(b"x")
    client.wait("ERR|HUP")
    client.peer()
    script.say("name is kept", sock.getsockname() == name)


@case
def own_address(script: Script) -> None:
    """getsockname(2): the address of the environment's interface."""
    client, _ = script.connected()
    script.say("address", client.endpoint.sock.getsockname()[0])


@case
def upper_layer_protocol(script: Script) -> None:
    """TCP_ULP "tls", as a library of TLS in the kernel asks for it."""
    client, _ = script.connected()
    try:
        client.endpoint.sock.setsockopt(socket.IPPROTO_TCP, 31, b"tls")
        script.say("TCP_ULP", "set")
    except OSError as error:
        script.say("TCP_ULP", error.strerror)


@case
def congestion_control(script: Script) -> None:
    """TCP_CONGESTION can be asked for."""
    client, server = script.connected()
    try:
        client.endpoint.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
    except OSError as error:
        script.say("TCP_CONGESTION", error.strerror)
    name = client.endpoint.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    script.say("TCP_CONGESTION", name.rstrip(b"\0"))
    server.close()
