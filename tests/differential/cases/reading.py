# SPDX-License-Identifier: GPL-3.0-or-later
"""recv(2) and its kin: flags, sizes, timeouts."""

from __future__ import annotations

from tests.differential.script import Script, case


@case
def peek(script: Script) -> None:
    """MSG_PEEK takes nothing away."""
    client, server = script.connected()
    server.send(b"peekaboo")
    client.wait("IN")
    client.recv(4, "PEEK")
    client.recv(100, "PEEK")
    client.unread()
    client.recv(100)
    client.recv(1, "PEEK|DONTWAIT")


@case
def peek_with_an_offset(script: Script) -> None:
    """SO_PEEK_OFF, where the kernel has it for TCP."""
    client, server = script.connected()
    server.send(b"peekaboo")
    client.wait_unread(8)
    client.set("SO_PEEK_OFF", 0)
    client.recv(4, "PEEK")
    client.recv(4, "PEEK")


@case
def wait_for_all(script: Script) -> None:
    """MSG_WAITALL waits for the whole, whatever comes in pieces."""
    client, server = script.connected()
    reading = client.later("recv", 10, "WAITALL")
    server.send(b"12345")
    server.send(b"67890")
    reading.result()


@case
def wait_for_all_ended_early(script: Script) -> None:
    """… but for an end."""
    client, server = script.connected()
    reading = client.later("recv", 10, "WAITALL")
    server.send(b"12345")
    server.close()
    reading.result()
    client.recv(10, "WAITALL")


@case
def wait_for_all_reset(script: Script) -> None:
    """… or for a reset, which comes out afterwards."""
    client, server = script.connected()
    reading = client.later("recv", 10, "WAITALL")
    server.send(b"12345")
    server.reset()
    reading.result()
    client.recv(10)


@case
def truncate(script: Script) -> None:
    """MSG_TRUNC throws away; the number is told, nothing is copied."""
    client, server = script.connected()
    server.send(b"x" * 8 + b"kept")
    client.wait_unread(12)
    script.say("discarded", client.endpoint.sock.recv_into(bytearray(8), 8, 0x20))
    client.recv(100)


@case
def do_not_wait(script: Script) -> None:
    """EAGAIN with MSG_DONTWAIT and with O_NONBLOCK."""
    client, server = script.connected()
    client.recv(10, "DONTWAIT")
    client.nonblocking()
    client.recv(10)
    server.send(b"now")
    client.wait("IN")
    client.recv(10)
    client.recv(10)


@case
def receive_timeout(script: Script) -> None:
    """SO_RCVTIMEO: EAGAIN after the time; what comes in time is read."""
    client, server = script.connected()
    client.set_time("SO_RCVTIMEO", 0.2)
    client.recv(10)
    server.send(b"in time")
    client.recv(10)
    client.recv(10)


@case
def receive_timeout_with_wait_for_all(script: Script) -> None:
    """SO_RCVTIMEO and MSG_WAITALL: what is there after the time."""
    client, server = script.connected()
    client.set_time("SO_RCVTIMEO", 0.3)
    server.send(b"half")
    client.recv(10, "WAITALL")
    client.recv(10, "WAITALL")


@case
def low_water_mark(script: Script) -> None:
    """SO_RCVLOWAT: poll(2) reports no less."""
    client, server = script.connected()
    client.set("SO_RCVLOWAT", 10)
    server.send(b"12345")
    client.wait_unread(5)
    client.quiet("IN")
    server.send(b"67890")
    client.wait("IN")
    client.recv(100)
    server.send(b"end")
    server.close()
    client.wait("IN|RDHUP")
    client.recv(100)


@case
def nothing(script: Script) -> None:
    """recv(2) of 0 bytes."""
    client, server = script.connected()
    client.recv(0, "DONTWAIT")
    server.send(b"x")
    client.wait("IN")
    client.recv(0)
    client.recv(1)


@case
def vectors(script: Script) -> None:
    """recvmsg(2) into several buffers."""
    client, server = script.connected()
    server.send(b"scattered")
    client.wait_unread(9)
    client.recv_vector(3, 4, 10)


@case
def bytes_unread(script: Script) -> None:
    """SIOCINQ counts."""
    client, server = script.connected()
    for count in (5, 12, 1000):
        server.send(bytes(count))
    client.wait_unread(1017)
    client.recv_exactly(17)
    client.unread()
    server.close()
    client.wait("RDHUP")
    client.unread()
    client.recv_to_end()


@case
def through_a_pipe(script: Script) -> None:
    """splice(2) from the socket."""
    client, server = script.connected()
    sending = server.later("send_stream", 100_000)
    sending.result()
    server.close()
    client.splice_to_end()


@case
def byte_by_byte(script: Script) -> None:
    """A reader of one byte at a time."""
    client, server = script.connected()
    server.send_stream(2000)
    server.close()
    client.recv_to_end(1)


@case
def a_small_buffer(script: Script) -> None:
    """SO_RCVBUF of the smallest size: slower, and complete."""
    listener, client = script.listener(), script.client()
    client.set("SO_RCVBUF", 1)
    client.connect(listener)
    server = listener.accept()
    sending = server.later("send_stream", 100_000)
    client.recv_exactly(100_000)
    sending.result()
    server.close()
    client.recv_to_end()


@case
def both_directions_at_once(script: Script) -> None:
    """2 MiB each way, on one connection."""
    client, server = script.connected()
    sending, reading = server.later("send_stream", 2 << 20), server.later("recv_to_end")
    upload = client.later("send_stream", 2 << 20)
    client.recv_exactly(2 << 20)
    upload.result()
    sending.result()
    client.shutdown("WR")
    reading.result()


@case
def ping_pong(script: Script) -> None:
    """A hundred questions and answers of one byte."""
    client, server = script.connected()
    answers = set()
    for _ in range(100):
        client.endpoint.send(b"?")
        server.start("recv", (1,))()
        server.start("send", (b"!",))()
        answers.add(client.endpoint.recv(1))
    script.say("answers", answers)
