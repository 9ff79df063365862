# SPDX-License-Identifier: GPL-3.0-or-later
"""RST from either side, with and without data, and what is left of the connection."""

from __future__ import annotations

from tests.bed import places
from tests.differential.script import Script, case


@case
def reset_after_accept(script: Script) -> None:
    """ECONNRESET once, then end of file."""
    client, server = script.connected()
    server.reset()
    client.wait("ERR|HUP")
    client.recv(10)
    client.recv(10)
    client.state()
    client.peer()


@case
def reset_at_once(script: Script) -> None:
    """The server accepts and resets, without waiting for anything."""
    client = script.client()
    client.nonblocking()
    client.connect_to(script.host, places.RST_ON_ACCEPT)
    client.wait("ERR|HUP")
    client.get("SO_ERROR")
    client.recv(10)


@case
def reset_told_by_send(script: Script) -> None:
    """ECONNRESET once, then EPIPE."""
    client, server = script.connected()
    server.reset()
    client.wait("ERR|HUP")
    client.send(b"x")
    client.send(b"x")
    client.recv(10)


@case
def reset_told_by_option(script: Script) -> None:
    """SO_ERROR tells it once."""
    client, server = script.connected()
    server.reset()
    client.wait("ERR|HUP")
    client.get("SO_ERROR")
    client.get("SO_ERROR")
    client.poll()
    client.recv(10)
    client.send(b"x")
    client.shutdown("WR")


@case
def data_then_reset(script: Script) -> None:
    """What came before the reset can still be read."""
    client, server = script.connected()
    server.send(b"last words")
    server.reset()
    client.wait("IN|ERR|HUP")
    client.unread()
    client.recv(4)
    client.recv(10)
    client.recv(10)
    client.recv(10)


@case
def much_data_then_reset(script: Script) -> None:
    """40 kB that the client's kernel has, then a reset."""
    client, server = script.connected()
    server.send_stream(40_000)
    client.wait_unread(40_000)
    server.reset()
    client.wait("ERR|HUP")
    client.recv_to_end()


@case
def much_data_and_a_reset_at_once(script: Script) -> None:
    """The same, but the reset follows at once, as soon as the client's side has acknowledged."""
    client, server = script.connected()
    server.send_stream(40_000)
    server.wait_unsent(0)
    server.reset()
    client.wait("ERR|HUP")
    client.recv_to_end()


@case
def data_both_ways_then_reset(script: Script) -> None:
    """A reset by unread data: what the server had sent before can be read."""
    client, server = script.connected()
    client.send(b"request")
    server.wait_unread(7)
    server.send(b"no")
    server.wait_unsent(0)
    server.close()
    client.wait("IN|ERR|HUP")
    client.recv(10)
    client.recv(10)
    client.recv(10)


@case
def reset_while_blocked_in_recv(script: Script) -> None:
    """A recv(2) that waits gives ECONNRESET."""
    client, server = script.connected()
    reading = client.later("recv", 10)
    server.reset()
    reading.result()
    client.recv(10)


@case
def reset_while_blocked_in_send(script: Script) -> None:
    """A send(2) that waits for room gives ECONNRESET."""
    client, server = script.connected()
    sending = client.later("send_all", bytes(64 << 20))
    server.recv_exactly(1)
    server.reset()
    sending.result()
    client.send(b"x")


@case
def reset_after_an_end(script: Script) -> None:
    """FIN, then RST: EPIPE in CLOSE-WAIT, and reading stays at the end of file."""
    client, server = script.connected()
    server.shutdown("WR")
    client.recv_to_end()
    server.reset()
    client.wait("ERR|HUP")
    client.recv(10)
    client.get("SO_ERROR")
    client.send(b"x")


@case
def reset_after_an_end_told_by_send(script: Script) -> None:
    """The same, and send(2) is the first to know."""
    client, server = script.connected()
    server.shutdown("WR")
    client.recv_to_end()
    server.reset()
    client.wait("ERR|HUP")
    client.send(b"x")
    client.get("SO_ERROR")


@case
def reset_after_own_end(script: Script) -> None:
    """The client has ended its side, the server resets."""
    client, server = script.connected()
    client.shutdown("WR")
    server.recv_to_end()
    server.reset()
    client.wait("ERR|HUP")
    client.recv(10)
    client.recv(10)


@case
def reset_after_both_ends_of_data(script: Script) -> None:
    """The client's question is ended, half of the answer comes, then a reset."""
    client, server = script.connected()
    client.send(b"question")
    client.shutdown("WR")
    server.recv_to_end()
    server.send(b"half of")
    server.reset()
    client.wait("IN|ERR|HUP")
    client.recv_to_end()


@case
def reset_by_the_client(script: Script) -> None:
    """SO_LINGER 0: the server gets ECONNRESET."""
    client, server = script.connected()
    client.reset()
    server.wait("ERR|HUP")
    server.recv(10)
    server.recv(10)
    server.send(b"x")


@case
def reset_by_the_client_after_data(script: Script) -> None:
    """What the client sent before it is read first."""
    client, server = script.connected()
    client.send(b"never mind")
    server.wait_unread(10)
    client.reset()
    server.wait("ERR|HUP")
    server.recv(20)
    server.recv(20)


@case
def data_and_reset_by_the_client_at_once(script: Script) -> None:
    """… also when the reset follows the data at once."""
    client, server = script.connected()
    client.send(b"never mind")
    client.reset()
    server.wait("ERR|HUP")
    server.recv(20)
    server.recv(20)


@case
def much_data_and_reset_by_the_client_at_once(script: Script) -> None:
    """40 kB that are acknowledged, then a reset."""
    client, server = script.connected()
    client.send_stream(40_000)
    client.wait_unsent(0)
    client.reset()
    server.wait("ERR|HUP")
    server.recv_to_end()


@case
def reset_by_the_client_while_the_server_waits(script: Script) -> None:
    """A server that waits in recv(2)."""
    client, server = script.connected()
    reading = server.later("recv", 10)
    client.reset()
    reading.result()


@case
def reset_by_the_client_after_its_end(script: Script) -> None:
    """shutdown(2), then a reset: the server has seen the end, then an error when it sends."""
    client, server = script.connected()
    client.send(b"x")
    client.shutdown("WR")
    server.recv_to_end()
    client.reset()
    server.wait("ERR|HUP")
    server.get("SO_ERROR")
    server.send(b"x")


@case
def reset_by_the_client_after_the_servers_end(script: Script) -> None:
    """The server has ended its side and still reads: ECONNRESET."""
    client, server = script.connected()
    server.shutdown("WR")
    client.recv_to_end()
    client.reset()
    server.wait("ERR|HUP")
    server.recv(10)


@case
def reset_by_the_client_before_accept(script: Script) -> None:
    """The server accepts a connection that has been reset."""
    listener, client = script.listener(), script.client()
    client.connect(listener)
    client.reset()
    server = listener.accept()
    server.wait("ERR|HUP")
    server.recv(10)


@case
def reset_during_a_large_upload(script: Script) -> None:
    """The server has had enough in the middle: the writer is told."""
    client, server = script.connected()
    sending = client.later("send_all", bytes(64 << 20))
    server.recv_exactly(100_000)
    server.reset()
    sending.result()
    client.recv(10)


@case
def reset_with_unread_data_in_the_client(script: Script) -> None:
    """Bytes that are peeked at survive the reset."""
    client, server = script.connected()
    server.send(b"peek")
    client.wait("IN")
    client.recv(10, "PEEK")
    server.reset()
    client.wait("ERR|HUP")
    client.recv(10, "PEEK")
    client.recv(10)
    client.recv(10)
