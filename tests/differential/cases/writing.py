# SPDX-License-Identifier: GPL-3.0-or-later
"""send(2) and its kin: sizes, coalescing, urgent data, sendfile(2)."""

from __future__ import annotations

import socket

from tests.differential.script import Script, case


@case
def single_bytes(script: Script) -> None:
    """A thousand writes of one byte arrive in order."""
    client, server = script.connected()
    client.send_each(bytes(n % 251 for n in range(1000)))
    client.shutdown("WR")
    server.recv_to_end()


@case
def single_bytes_without_delay(script: Script) -> None:
    """The same with TCP_NODELAY."""
    client, server = script.connected()
    client.set("TCP_NODELAY", 1)
    client.send_each(bytes(n % 251 for n in range(1000)))
    client.shutdown("WR")
    server.recv_to_end()


@case
def single_bytes_from_the_server(script: Script) -> None:
    """The other way round."""
    client, server = script.connected()
    server.set("TCP_NODELAY", 1)
    server.send_each(bytes(n % 251 for n in range(1000)))
    server.close()
    client.recv_to_end()


@case
def corked(script: Script) -> None:
    """TCP_CORK holds back; taking it off sends."""
    client, server = script.connected()
    client.set("TCP_CORK", 1)
    client.send(b"held ")
    client.send(b"back")
    client.unsent()
    server.unread()
    client.set("TCP_CORK", 0)
    server.recv_exactly(9)


@case
def corked_to_the_end(script: Script) -> None:
    """An end sends what is held back."""
    client, server = script.connected()
    client.set("TCP_CORK", 1)
    client.send(b"held back")
    client.shutdown("WR")
    server.recv_to_end()


@case
def more_to_come(script: Script) -> None:
    """MSG_MORE holds back until a write without it."""
    client, server = script.connected()
    client.send(b"one ", "MORE")
    client.send(b"two ", "MORE")
    server.unread()
    client.send(b"three")
    server.recv_exactly(13)


@case
def nothing_to_send(script: Script) -> None:
    """send(2) of 0 bytes is nothing to the server."""
    client, server = script.connected()
    client.send(b"")
    server.quiet("IN")
    client.send(b"x")
    server.recv(10)


@case
def send_vector(script: Script) -> None:
    """sendmsg(2) of several buffers."""
    client, server = script.connected()
    client.send_vector(b"gathered ", b"from ", b"", b"here")
    server.recv_exactly(18)


@case
def send_file(script: Script) -> None:
    """sendfile(2) of 1 MB."""
    client, server = script.connected()
    reading = server.later("recv_to_end")
    client.send_file(1_000_000)
    client.shutdown("WR")
    reading.result()


@case
def zero_copy(script: Script) -> None:
    """MSG_ZEROCOPY, where SO_ZEROCOPY is set."""
    client, server = script.connected()
    client.set("SO_ZEROCOPY", 1)
    client.send(bytes(20000), "ZEROCOPY")
    server.recv_exactly(20000)
    client.wait("ERR")


@case
def bytes_unsent(script: Script) -> None:
    """SIOCOUTQ comes down to 0 when the server's side has everything."""
    client, server = script.connected()
    client.send(bytes(5000))
    client.wait_unsent(0)
    server.recv_exactly(5000)
    client.shutdown("WR")
    server.recv_to_end()
    client.wait_unsent(0)


@case
def urgent_data(script: Script) -> None:
    """MSG_OOB from the client: the server's mark and its urgent byte."""
    client, server = script.connected()
    client.send(b"abc", "OOB")
    server.wait("IN")
    server.poll()
    server.at_mark()
    server.recv(10)
    server.blocking()
    server.recv(1, "OOB")
    client.send(b"def")
    client.shutdown("WR")
    server.recv_to_end()


@case
def urgent_data_in_line(script: Script) -> None:
    """The server reads it in line (SO_OOBINLINE): no byte is lost or moved."""
    client, server = script.connected()
    server.set("SO_OOBINLINE", 1)
    client.send(b"abc")
    client.send(b"!", "OOB")
    client.send(b"def")
    client.shutdown("WR")
    server.recv_to_end()


@case
def urgent_data_from_the_server(script: Script) -> None:
    """MSG_OOB from the server: POLLPRI, the mark and the urgent byte."""
    client, server = script.connected()
    server.send(b"abc")
    client.wait_unread(3)
    server.send(b"!", "OOB")
    server.wait_unsent(0)
    client.quiet("PRI", 0.5)
    client.recv(1, "OOB")
    client.recv_exactly(3)
    client.at_mark()
    server.send(b"def")
    server.close()
    client.recv_to_end()


@case
def urgent_data_from_the_server_in_line(script: Script) -> None:
    """SO_OOBINLINE: the same bytes in the same order."""
    client, server = script.connected()
    client.set("SO_OOBINLINE", 1)
    server.send(b"abc")
    server.send(b"!", "OOB")
    server.send(b"def")
    server.close()
    client.recv_to_end()


@case
def not_sent_low_water_mark(script: Script) -> None:
    """TCP_NOTSENT_LOWAT: POLLOUT while little is waiting."""
    client, server = script.connected()
    client.set("TCP_NOTSENT_LOWAT", 16384)
    reading = server.later("recv_to_end")
    client.send_stream(500_000)
    client.wait("OUT")
    client.shutdown("WR")
    reading.result()


@case
def a_small_send_buffer(script: Script) -> None:
    """SO_SNDBUF of the smallest size."""
    client, server = script.connected()
    client.set("SO_SNDBUF", 1)
    reading = server.later("recv_to_end")
    client.send_stream(100_000)
    client.shutdown("WR")
    reading.result()


@case
def quick_ack(script: Script) -> None:
    """TCP_QUICKACK changes nothing that is seen."""
    client, server = script.connected()
    script.say("set", client.endpoint.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0))
    server.send(b"slowly")
    client.recv_exactly(6)
    server.wait_unsent(0)
