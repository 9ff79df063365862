# SPDX-License-Identifier: GPL-3.0-or-later
"""Zero windows, silence, and a network that vanishes."""

from __future__ import annotations

import time

from tests.differential.script import Script, case


@case
def server_does_not_read(script: Script) -> None:
    """The client stalls, and goes on when the server reads."""
    client, server = script.connected()
    client.send_until_stalled()
    reading = server.later("recv_stream_to_end")
    client.wait("OUT")
    client.shutdown("WR")
    reading.result()
    script.say("complete", script.puppet_received(server) == client.endpoint.sent)


@case
def server_does_not_read_for_long(script: Script) -> None:
    """The window stays closed for as long as some probes take."""
    client, server = script.connected()
    client.send_until_stalled()
    client.quiet("OUT|IN", 2.0)
    reading = server.later("recv_stream_to_end")
    client.send_stream(1000)
    client.shutdown("WR")
    reading.result()
    script.say("complete", script.puppet_received(server) == client.endpoint.sent)


@case
def client_does_not_read(script: Script) -> None:
    """The server stalls, and goes on when the client reads."""
    client, server = script.connected()
    server.send_until_stalled()
    reading = client.later("recv_stream_to_end")
    server.wait("OUT")
    server.shutdown("WR")
    reading.result()
    script.say("complete", script.puppet_sent(server) == client.endpoint.received)


@case
def client_does_not_read_for_long(script: Script) -> None:
    """The same with time to probe."""
    client, server = script.connected()
    server.send_until_stalled()
    server.quiet("OUT", 2.0)
    reading = client.later("recv_stream_to_end")
    server.wait("OUT")
    server.close()
    reading.result()


@case
def stalled_server_is_reset_by_the_client(script: Script) -> None:
    """The client has not read and goes."""
    client, server = script.connected()
    server.send_until_stalled()
    client.close()
    server.wait("ERR|HUP")
    server.send(b"x")


@case
def stalled_client_is_reset_by_the_server(script: Script) -> None:
    """The server has not read and goes."""
    client, server = script.connected()
    client.send_until_stalled()
    server.close()
    client.wait("ERR|HUP")
    client.send(b"x")
    client.send(b"x")


@case
def end_behind_a_stall(script: Script) -> None:
    """The client ends its side while its data is stuck; the end arrives behind the data."""
    client, server = script.connected()
    client.send_until_stalled()
    client.shutdown("WR")
    client.state()
    server.recv_stream_to_end()
    server.send(b"got it")
    server.close()
    client.recv_to_end()


@case
def close_behind_a_stall(script: Script) -> None:
    """close(2) with data that is stuck: all of it arrives."""
    client, server = script.connected()
    client.send_until_stalled()
    client.close()
    server.recv_stream_to_end()


@case
def answers_while_stalled(script: Script) -> None:
    """One direction is stuck, the other one is not."""
    client, server = script.connected()
    client.send_until_stalled()
    server.send(b"I do not listen")
    client.recv_exactly(15)
    server.shutdown("WR")
    client.recv_to_end()
    reading = server.later("recv_stream_to_end")
    client.wait("OUT")
    client.shutdown("WR")
    reading.result()


@case
def reset_while_stalled_with_unread_data(script: Script) -> None:
    """The server stalls against a client that does not read, and resets: the client is told."""
    client, server = script.connected()
    server.send_until_stalled()
    server.reset()
    client.quiet("ERR|HUP", 0.5)
    client.wait("ERR|HUP")
    client.recv_stream_to_end()


@case
def send_timeout(script: Script) -> None:
    """SO_SNDTIMEO: EAGAIN when there has been no room for the time."""
    client, server = script.connected()
    client.set_time("SO_SNDTIMEO", 0.2)
    client.send_all(bytes(64 << 20))
    server.close()


@case
def keepalive(script: Script) -> None:
    """Short intervals over an idle time: the connection lives, unnoticed."""
    client, server = script.connected()
    for name, value in (("SO_KEEPALIVE", 1), ("TCP_KEEPIDLE", 1), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 2)):
        client.set(name, value)
    client.quiet("IN|ERR|HUP", 3.5)
    client.state()
    client.send(b"still here")
    server.recv_exactly(10)
    server.send(b"me too")
    client.recv_exactly(6)


@case
def keepalive_by_the_server(script: Script) -> None:
    """The same from the other side."""
    client, server = script.connected()
    for name, value in (("SO_KEEPALIVE", 1), ("TCP_KEEPIDLE", 1), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 2)):
        server.set(name, value)
    server.quiet("IN|ERR|HUP", 3.5)
    client.send(b"still here")
    server.recv_exactly(10)


@case
def keepalive_to_a_server_that_vanished(script: Script) -> None:
    """Nothing reaches the server any more: the probes find out."""
    client, server = script.connected()
    for name, value in (("SO_KEEPALIVE", 1), ("TCP_KEEPIDLE", 1), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 1)):
        client.set(name, value)
    server.drop_all()
    client.quiet("ERR|HUP", 4.0)
    client.get("SO_ERROR")


@case
def data_to_a_server_that_vanished(script: Script) -> None:
    """TCP_USER_TIMEOUT: data that nobody acknowledges ends the connection."""
    client, server = script.connected()
    client.set("TCP_USER_TIMEOUT", 500)
    client.get("TCP_USER_TIMEOUT")
    server.drop_all()
    client.send(b"anybody?")
    client.quiet("ERR|HUP", 3.0)
    client.get("SO_ERROR")


@case
def linger_with_a_server_that_does_not_read(script: Script) -> None:
    """SO_LINGER with a time, and data that is stuck: close(2) waits for the time."""
    client, server = script.connected()
    client.send_until_stalled()
    client.linger(1, 1)
    began = time.monotonic()
    client.close()
    script.say("waited", time.monotonic() - began > 0.9)
    server.recv_stream_to_end()
