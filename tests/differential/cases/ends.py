# SPDX-License-Identifier: GPL-3.0-or-later
"""FIN in all its orders: close(2), shutdown(2), half-closes, and what each side sees of them."""

from __future__ import annotations

from tests.differential.script import Script, case


@case
def accept_then_close(script: Script) -> None:
    """End of file, again and again."""
    client, server = script.connected()
    server.close()
    client.wait("IN|RDHUP")
    client.recv(10)
    client.recv(10)
    client.recv(10, "PEEK")
    client.state()
    client.peer()
    client.get("SO_ERROR")


@case
def half_close_by_the_client(script: Script) -> None:
    """The server sees the end and answers afterwards."""
    client, server = script.connected()
    client.send(b"question")
    client.shutdown("WR")
    server.recv_to_end()
    client.wait_state("FIN-WAIT-2")
    client.poll()
    server.send(b"an answer")
    client.recv_exactly(9)
    server.close()
    client.recv_to_end()
    client.wait_state("CLOSE")
    client.poll()


@case
def half_close_by_the_server(script: Script) -> None:
    """The client sees the end and still sends."""
    client, server = script.connected()
    server.send(b"all I have")
    server.shutdown("WR")
    client.recv_to_end()
    client.poll()
    client.state()
    client.send(b"thank you")
    server.recv_exactly(9)
    client.send(b", more")
    client.close()
    server.recv_to_end()


@case
def half_close_both_ways_client_first(script: Script) -> None:
    """Each ends its side; the states on the way."""
    client, server = script.connected()
    client.shutdown("WR")
    server.recv_to_end()
    client.wait_state("FIN-WAIT-2")
    server.shutdown("WR")
    client.recv_to_end()
    client.wait_state("CLOSE")
    client.peer()
    client.shutdown("WR")


@case
def half_close_both_ways_server_first(script: Script) -> None:
    """Each ends its side; the states on the way."""
    client, server = script.connected()
    server.shutdown("WR")
    client.recv_to_end()
    client.wait_state("CLOSE-WAIT")
    client.shutdown("WR")
    server.recv_to_end()
    client.wait_state("CLOSE")
    client.poll()


@case
def simultaneous_close(script: Script) -> None:
    """Both ends at the same time, without a word."""
    client, server = script.connected()
    ending = server.later("shutdown", "WR")
    client.shutdown("WR")
    ending.result()
    client.recv_to_end()
    server.recv_to_end()
    client.wait_state("CLOSE")


@case
def simultaneous_close_with_data(script: Script) -> None:
    """Both send and end at the same time: both get everything."""
    client, server = script.connected()
    sending = server.later("send_stream", 300_000)
    client.send_stream(200_000)
    sending.result()
    ending = server.later("shutdown", "WR")
    client.shutdown("WR")
    ending.result()
    server.recv_to_end()
    client.recv_to_end()
    client.wait_state("CLOSE")


@case
def data_then_close(script: Script) -> None:
    """What was sent before close(2) arrives."""
    client, server = script.connected()
    server.send(b"goodbye")
    server.close()
    client.wait("IN|RDHUP")
    client.unread()
    client.recv(100)
    client.recv(100)


@case
def much_data_then_close(script: Script) -> None:
    """3 MiB and an end, read slowly."""
    client, server = script.connected()
    sending = server.later("send_stream", 3 << 20)
    client.recv_exactly(1000)
    client.quiet("PRI")
    client.recv_exactly(2 << 20)
    sending.result()
    server.close()
    client.recv_to_end()


@case
def much_data_then_close_by_the_client(script: Script) -> None:
    """3 MiB and close(2) at once: the kernel delivers them in the background."""
    client, server = script.connected()
    reading = server.later("recv_to_end")
    client.send_stream(3 << 20)
    client.close()
    reading.result()


@case
def close_then_data_from_the_server(script: Script) -> None:
    """The client is gone: what the server sends is answered with a reset."""
    client, server = script.connected()
    client.close()
    server.recv_to_end()
    server.send(b"anybody?")
    server.wait("ERR|HUP")
    server.send(b"no?")
    server.get("SO_ERROR")


@case
def close_with_unread_data(script: Script) -> None:
    """close(2) with bytes unread is a reset (RFC 2525 §2.17)."""
    client, server = script.connected()
    server.send(b"unwanted")
    client.wait("IN")
    client.close()
    server.wait("ERR|HUP")
    server.recv(10)
    server.send(b"x")


@case
def close_after_reading_everything(script: Script) -> None:
    """close(2) without bytes unread is an end."""
    client, server = script.connected()
    server.send(b"wanted")
    client.recv_exactly(6)
    client.close()
    server.wait("IN|RDHUP")
    server.recv(10)


@case
def server_closes_with_unread_data(script: Script) -> None:
    """The server does not want what the client sent: reset."""
    client, server = script.connected()
    client.send(b"unwanted")
    server.wait_unread(8)
    server.close()
    client.wait("ERR|HUP")
    client.recv(10)
    client.recv(10)
    client.send(b"x")


@case
def send_after_the_server_closed(script: Script) -> None:
    """The first write is taken, its answer is a reset, the next write is EPIPE."""
    client, server = script.connected()
    server.close()
    client.wait("IN|RDHUP")
    client.send(b"one")
    client.wait("ERR|HUP")
    client.send(b"two")
    client.recv(10)
    client.get("SO_ERROR")
    client.state()


@case
def send_after_the_server_closed_error_from_option(script: Script) -> None:
    """SO_ERROR tells the reset once; it is EPIPE in CLOSE-WAIT."""
    client, server = script.connected()
    server.close()
    client.recv_to_end()
    client.send(b"one")
    client.wait("ERR|HUP")
    client.get("SO_ERROR")
    client.get("SO_ERROR")
    client.recv(10)


@case
def shutdown_reading(script: Script) -> None:
    """SHUT_RD is the client's own affair: the server may go on, and even what comes later is read."""
    client, server = script.connected()
    client.shutdown("RD")
    client.poll()
    client.recv(10)
    server.send(b"later")
    client.wait_unread(5)
    client.recv(10)
    client.recv(10)
    client.send(b"and back")
    server.recv_exactly(8)
    client.close()
    server.recv_to_end()


@case
def shutdown_reading_with_unread_data(script: Script) -> None:
    """What was there is still read."""
    client, server = script.connected()
    server.send(b"before")
    client.wait("IN")
    client.shutdown("RD")
    client.recv(10)
    client.recv(10)


@case
def shutdown_both(script: Script) -> None:
    """SHUT_RDWR: an end for the server; both directions are over for the client."""
    client, server = script.connected()
    client.shutdown("RDWR")
    client.poll()
    server.recv_to_end()
    client.recv(10)
    client.send(b"x")
    client.wait_state("FIN-WAIT-2")
    server.close()
    client.wait_state("CLOSE")


@case
def shutdown_one_after_the_other(script: Script) -> None:
    """SHUT_RD then SHUT_WR, and once more."""
    client, server = script.connected()
    client.shutdown("RD")
    client.shutdown("WR")
    server.recv_to_end()
    client.shutdown("WR")
    client.shutdown("RDWR")
    server.close()
    client.wait_state("CLOSE")
    client.shutdown("WR")


@case
def send_after_own_shutdown(script: Script) -> None:
    """EPIPE, and the other direction is none the worse."""
    client, server = script.connected()
    client.shutdown("WR")
    client.send(b"x")
    server.recv_to_end()
    server.send(b"still here")
    client.recv_exactly(10)


@case
def shutdown_by_the_server_of_its_reading_side(script: Script) -> None:
    """SHUT_RD sends nothing: the client cannot tell."""
    client, server = script.connected()
    server.shutdown("RD")
    client.send(b"hello")
    client.quiet("IN|ERR|HUP")
    server.wait_unread(5)
    server.send(b"hello yourself")
    client.recv_exactly(14)


@case
def server_is_killed(script: Script) -> None:
    """SIGKILL closes as close(2) does."""
    client, server = script.connected()
    server.send(b"last words")
    server.kill()
    client.recv_to_end()
    client.send(b"x")
    client.wait("ERR|HUP")


@case
def server_is_killed_with_unread_data(script: Script) -> None:
    """… and so does a reset."""
    client, server = script.connected()
    client.send(b"unread")
    server.wait_unread(6)
    server.kill()
    client.wait("ERR|HUP")
    client.recv(10)


@case
def much_data_after_the_clients_end(script: Script) -> None:
    """The client has ended its side; a long answer comes all the same."""
    client, server = script.connected()
    client.send(b"all of it, please")
    client.shutdown("WR")
    server.recv_to_end()
    sending = server.later("send_stream", 3 << 20)
    client.recv_exactly(3 << 20)
    sending.result()
    client.state()
    server.close()
    client.recv_to_end()


@case
def listener_closes_with_a_connection_waiting(script: Script) -> None:
    """Nobody will accept it: reset."""
    listener, client = script.listener(), script.client()
    client.connect(listener)
    client.state()
    listener.close()
    client.wait("ERR|HUP")
    client.recv(10)


@case
def end_while_blocked_in_recv(script: Script) -> None:
    """A recv(2) that waits is woken by the end."""
    client, server = script.connected()
    reading = client.later("recv", 10)
    server.close()
    reading.result()


@case
def linger_with_time(script: Script) -> None:
    """SO_LINGER with a time: close(2) waits for the acknowledgement, which comes at once."""
    client, server = script.connected()
    client.linger(1, 5)
    client.send(b"lingering")
    client.close()
    server.recv_to_end()


@case
def idle_half_open(script: Script) -> None:
    """A half-closed connection may be silent for a while, and answers still."""
    client, server = script.connected()
    client.send(b"wait for it")
    client.shutdown("WR")
    server.recv_to_end()
    client.quiet("IN", 1.2)
    server.send(b"here")
    server.close()
    client.recv_to_end()
