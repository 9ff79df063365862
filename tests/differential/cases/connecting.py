# SPDX-License-Identifier: GPL-3.0-or-later
"""connect(2) that succeeds, at once or later, and what may be done around it."""

from __future__ import annotations

import socket

from tests.bed import places
from tests.differential.script import Script, case

PORT = 21001  # of the client: no other case runs into it, as the kernel takes its own from above


@case
def connect(script: Script) -> None:
    """What a fresh connection looks like."""
    client, _ = script.connected()
    client.get("SO_ERROR")
    client.state()
    client.poll()
    client.peer()
    client.unread()
    client.unsent()
    client.recv(1, "DONTWAIT")


@case
def connect_nonblocking(script: Script) -> None:
    """EINPROGRESS, then POLLOUT, then SO_ERROR 0."""
    listener, client = script.listener(), script.client()
    client.nonblocking()
    client.connect(listener)
    client.wait("OUT")
    client.get("SO_ERROR")
    client.connect(listener)
    client.connect(listener)
    listener.accept()


@case
def connect_twice(script: Script) -> None:
    """EISCONN, and the connection is none the worse."""
    listener, client = script.listener(), script.client()
    client.connect(listener)
    client.connect(listener)
    client.send(b"still here")
    listener.accept().recv_exactly(10)


@case
def connect_while_connecting(script: Script) -> None:
    """A connection on its way: EALREADY, and nothing can be sent, read or ended yet."""
    listener, client = script.listener(), script.client()
    listener.drop_all()
    client.nonblocking()
    client.connect(listener)
    client.connect(listener)
    client.state()
    client.poll()
    client.peer()
    client.recv(1)
    client.send(b"x")
    client.get("SO_ERROR")
    client.quiet("IN|OUT")
    client.close()


@case
def connect_then_shutdown_while_connecting(script: Script) -> None:
    """shutdown(2) of a connection on its way."""
    listener, client = script.listener(), script.client()
    listener.drop_all()
    client.nonblocking()
    client.connect(listener)
    client.shutdown("RDWR")
    client.poll()
    client.state()
    client.get("SO_ERROR")
    client.send(b"x")


@case
def connect_that_takes_a_while(script: Script) -> None:
    """The first SYN is lost, the second one arrives."""
    listener, client = script.listener(), script.client()
    listener.drop_all()
    client.nonblocking()
    client.connect(listener)
    client.quiet("IN|OUT", 0.3)
    listener.drop_none()
    client.wait("OUT")
    client.get("SO_ERROR")
    server = listener.accept()
    client.send(b"late")
    server.recv_exactly(4)


@case
def connect_to_a_full_backlog(script: Script) -> None:
    """A listening socket with a full queue drops SYNs until it accepts."""
    listener = script.listener(0)
    first, second = script.client("first"), script.client("second")
    first.connect(listener)
    second.nonblocking()
    second.connect(listener)
    second.quiet("IN|OUT", 0.3)
    listener.accept("server of the first")
    second.wait("OUT")
    second.get("SO_ERROR")
    listener.accept("server of the second")


@case
def connect_without_accept(script: Script) -> None:
    """A connection is there before it is accepted: what was sent and its end wait for that."""
    listener, client = script.listener(), script.client()
    client.connect(listener)
    client.send(b"early")
    client.shutdown("WR")
    client.state()
    server = listener.accept()
    server.recv_to_end()
    server.send(b"late")
    server.close()
    client.recv_to_end()


@case
def connect_and_close_before_accept(script: Script) -> None:
    """The server finds a connection that has ended already."""
    listener, client = script.listener(), script.client()
    client.connect(listener)
    client.send(b"gone")
    client.close()
    server = listener.accept()
    server.recv_to_end()


@case
def connect_again_blocking(script: Script) -> None:
    """A second, blocking connect(2) waits for the first one's end."""
    listener, client = script.listener(), script.client()
    listener.drop_all()
    client.nonblocking()
    client.connect(listener)
    client.blocking()
    listener.drop_none()
    client.connect(listener)  # waits
    client.connect(listener)


@case
def reconnect_from_the_same_port_when_the_server_ended_first(script: Script) -> None:
    """The server keeps TIME-WAIT, the client nothing: the same addresses and ports serve again."""
    listener = script.listener()
    for _ in range(4):
        client = script.client()
        client.set("SO_REUSEADDR", 1)
        client.bind(script.any, PORT)
        client.connect(listener)
        server = listener.accept()
        server.close()
        client.recv_to_end()
        client.shutdown("WR")
        client.wait_state("CLOSE")
        client.close()


@case
def reconnect_from_the_same_port_after_a_reset(script: Script) -> None:
    """Nobody keeps anything."""
    listener = script.listener()
    for _ in range(4):
        client = script.client()
        client.set("SO_REUSEADDR", 1)
        client.bind(script.any, PORT + 1)
        client.connect(listener)
        server = listener.accept()
        client.send(b"x")
        server.recv_exactly(1)
        client.reset()
        server.recv_to_end()


@case
def reconnect_from_the_same_port_when_the_client_ended_first(script: Script) -> None:
    """The client's own kernel keeps TIME-WAIT."""
    listener, first = script.listener(), script.client("first")
    first.set("SO_REUSEADDR", 1)
    first.bind(script.any, PORT + 2)
    first.connect(listener)
    server = listener.accept()
    first.shutdown("WR")
    server.recv_to_end()
    server.close()
    first.recv_to_end()
    first.wait_state("CLOSE")
    first.close()
    second = script.client("second")
    second.set("SO_REUSEADDR", 1)
    second.bind(script.any, PORT + 2)
    second.connect(listener)


@case
def two_connections_from_one_port(script: Script) -> None:
    """To two servers, with SO_REUSEADDR before bind(2)."""
    one, other = script.listener(), script.listener()
    first, second = script.client("first"), script.client("second")
    for client in (first, second):
        client.set("SO_REUSEADDR", 1)
        client.bind(script.any, PORT + 3)
    first.connect(one)
    second.connect(other)
    first.send(b"one")
    second.send(b"other")
    one.accept("server of the first").recv_exactly(3)
    other.accept("server of the second").recv_exactly(5)


@case
def dissolve_and_connect_again(script: Script) -> None:
    """connect(2) with AF_UNSPEC resets the connection; the socket may connect anew."""
    listener, client = script.listener(), script.client()
    client.connect(listener)
    server = listener.accept("first server")
    client.connect_unspec()
    server.recv_to_end()
    client.peer()
    client.state()
    client.connect(listener)
    again = listener.accept("second server")
    client.send(b"again")
    again.recv_exactly(5)


@case
def fast_open(script: Script) -> None:
    """sendto(2) with MSG_FASTOPEN: connects, and sends when there is no cookie."""
    listener, client = script.listener(), script.client()
    address = (script.host, listener.port)
    try:
        result = str(client.endpoint.sock.sendto(b"first words", socket.MSG_FASTOPEN, address))
    except OSError as error:
        result = str(error)
    script.say("client.sendto(MSG_FASTOPEN)", result)
    listener.accept().recv_exactly(11)


@case
def fast_open_connect(script: Script) -> None:
    """TCP_FASTOPEN_CONNECT: without a cookie an ordinary connect(2)."""
    listener, client = script.listener(), script.client()
    client.set("TCP_FASTOPEN_CONNECT", 1)
    client.connect(listener)
    client.send(b"first words")
    listener.accept().recv_exactly(11)


@case
def multipath(script: Script) -> None:
    """An MPTCP socket falls back to TCP."""
    listener = script.listener()
    try:
        sock = socket.socket(script.family, socket.SOCK_STREAM, socket.IPPROTO_MPTCP)
    except OSError as error:
        script.say("socket(IPPROTO_MPTCP)", error.strerror)
        return
    client = script.client(sock=sock)
    client.connect(listener)
    client.send(b"over one path")
    server = listener.accept()
    server.recv_exactly(13)
    server.send(b"and back")
    server.close()
    client.recv_to_end()


@case
def mapped_address(script: Script) -> None:
    """An AF_INET6 socket to an IPv4 address, ::ffff:198.51.100.80."""
    listener, client = script.listener(), script.client(sock=socket.socket(socket.AF_INET6))
    client.connect_to("::ffff:" + places.V4, places.CLOSES)
    client.recv_to_end()
    v6only = script.client("v6only", socket.socket(socket.AF_INET6))
    v6only.set("IPV6_V6ONLY", 1)
    v6only.connect_to("::ffff:" + places.V4, places.CLOSES)
    listener.close()


@case
def many_in_a_row(script: Script) -> None:
    """Fifty connections, one after the other; the server greets each."""
    listener = script.listener()
    answers = set()
    for _ in range(50):
        client = script.client().endpoint
        client.connect(script.host, listener.port)
        _, handle = script.puppet.call(listener.handle, "accept")
        script.puppet.call(handle, "send", b"welcome")
        answers.add(client.recv_exactly(7))
        client.close()
        script.puppet.call(0, "end", [handle])
    script.say("answers", answers)


@case
def many_at_once(script: Script) -> None:
    """Thirty nonblocking connections; each arrives."""
    listener = script.listener(64)
    clients = [script.client() for _ in range(30)]
    for client in clients:
        client.endpoint.nonblocking()
        client.endpoint.connect(script.host, listener.port)
    script.say("events", {client.endpoint.wait("OUT") for client in clients})
    script.say("errors", {client.endpoint.get("SO_ERROR") for client in clients})
