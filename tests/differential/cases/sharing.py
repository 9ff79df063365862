# SPDX-License-Identifier: GPL-3.0-or-later
"""One connection and several descriptors or processes."""

from __future__ import annotations

import array
import os
import signal
import socket

from tests.differential.endpoint import Endpoint
from tests.differential.script import Client, Script, case


@case
def duplicate(script: Script) -> None:
    """dup(2): the connection ends with the last descriptor."""
    client, server = script.connected()
    twin = script.client("twin", client.endpoint.sock.dup())
    client.close()
    server.quiet("IN|RDHUP")
    twin.send(b"the other one")
    server.recv_exactly(13)
    twin.close()
    server.recv_to_end()


@case
def duplicate_and_shutdown(script: Script) -> None:
    """shutdown(2) is for all descriptors."""
    client, server = script.connected()
    twin = script.client("twin", client.endpoint.sock.dup())
    client.shutdown("WR")
    server.recv_to_end()
    twin.send(b"x")
    server.send(b"still")
    twin.recv_exactly(5)


def in_a_child(script: Script, sock: socket.socket, verb: str, *arguments: object) -> None:
    """The verb in a forked process, to its end."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write_end, str(getattr(Endpoint(sock), verb)(*arguments)).encode())
        os._exit(0)
    os.close(write_end)
    os.waitpid(child, 0)
    with os.fdopen(read_end) as pipe:
        script.say(f"child.{verb}", pipe.read())


@case
def fork(script: Script) -> None:
    """A child sends and reads on its parent's connection; its end is not the connection's."""
    client, server = script.connected()
    in_a_child(script, client.endpoint.sock, "send", b"from the child")
    server.recv_exactly(14)
    server.quiet("IN|RDHUP")
    server.send(b"for the child, then the parent")
    in_a_child(script, client.endpoint.sock, "recv_exactly", 13)
    client.recv_exactly(17)
    client.close()
    server.recv_to_end()


def hand_to_a_child(client: Client) -> int:
    """The only descriptor of the connection is a child's; its pid."""
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(1)
    client.endpoint.close()
    return child


def kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


@case
def killed(script: Script) -> None:
    """SIGKILL of the client's process: an end for the server."""
    client, server = script.connected()
    client.send(b"last words")
    kill(hand_to_a_child(client))
    server.recv_to_end()


@case
def killed_with_unread_data(script: Script) -> None:
    """… or a reset, where there was something to read."""
    client, server = script.connected()
    server.send(b"unread")
    client.wait_unread(6)
    kill(hand_to_a_child(client))
    server.wait("ERR|HUP")
    server.recv(10)


@case
def fork_and_shutdown(script: Script) -> None:
    """A child ends the parent's sending side."""
    client, server = script.connected()
    in_a_child(script, client.endpoint.sock, "shutdown", "WR")
    server.recv_to_end()
    client.send(b"x")
    server.close()
    client.recv_to_end()


@case
def passed_on(script: Script) -> None:
    """SCM_RIGHTS: a connection in flight between two processes."""
    client, server = script.connected()
    left, right = socket.socketpair()
    fds = array.array("i", [client.endpoint.sock.fileno()])
    left.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
    client.close()
    server.quiet("IN|RDHUP")
    _, ancillary, *_ = right.recvmsg(1, socket.CMSG_SPACE(4))
    (fd,) = array.array("i", ancillary[0][2])
    moved = script.client("moved", socket.socket(fileno=fd))
    moved.send(b"arrived")
    server.recv_exactly(7)
    left.close()
    right.close()


@case
def two_readers(script: Script) -> None:
    """Two waiting readers: one gets the data, both get the end."""
    client, server = script.connected()
    first, second = client.later("recv", 10), client.later("recv", 10)
    server.send(b"for one")
    server.close()
    script.say("readers", sorted([first.wait(), second.wait()]))
