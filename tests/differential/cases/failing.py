# SPDX-License-Identifier: GPL-3.0-or-later
"""connect(2) that fails: how, and what the socket is afterwards."""

from __future__ import annotations

import socket
import time

from tests.bed import places
from tests.differential.script import Listener, Script, case


def closed_port(script: Script) -> Listener:
    """A listener that is gone: its port refuses."""
    listener = script.listener()
    listener.close()
    return listener


@case
def refused(script: Script) -> None:
    """ECONNREFUSED, and what the socket says after it."""
    client = script.client()
    client.connect(closed_port(script))
    client.get("SO_ERROR")
    client.state()
    client.poll()
    client.peer()
    client.recv(1)
    client.send(b"x")
    client.shutdown("WR")


@case
def refused_nonblocking(script: Script) -> None:
    """The events of a refusal; SO_ERROR tells it once."""
    client = script.client()
    client.nonblocking()
    client.connect(closed_port(script))
    client.wait("ERR|HUP")
    client.get("SO_ERROR")
    client.get("SO_ERROR")
    client.poll()
    client.recv(1)


@case
def refused_nonblocking_told_by_connect(script: Script) -> None:
    """A second connect(2) fetches the error, a third one tries again."""
    port, client = closed_port(script), script.client()
    client.nonblocking()
    client.connect(port)
    client.wait("ERR|HUP")
    client.connect(port)
    client.connect(port)
    client.wait("ERR|HUP")
    client.get("SO_ERROR")


@case
def refused_nonblocking_told_by_recv(script: Script) -> None:
    """recv(2) fetches the error."""
    client = script.client()
    client.nonblocking()
    client.connect(closed_port(script))
    client.wait("ERR|HUP")
    client.recv(1)
    client.recv(1)
    client.get("SO_ERROR")


@case
def refused_nonblocking_told_by_send(script: Script) -> None:
    """send(2) fetches the error."""
    client = script.client()
    client.nonblocking()
    client.connect(closed_port(script))
    client.wait("ERR|HUP")
    client.send(b"x")
    client.send(b"x")
    client.get("SO_ERROR")


@case
def connect_after_a_refusal(script: Script) -> None:
    """The same socket reaches another port."""
    client, listener = script.client(), script.listener()
    client.connect(closed_port(script))
    client.connect(closed_port(script))
    client.connect(listener)
    client.send(b"at last")
    listener.accept().recv_exactly(7)


@case
def port_zero(script: Script) -> None:
    """No one listens there."""
    script.client().connect_to(script.host, 0)


@case
def silence(script: Script) -> None:
    """A filtered port: ETIMEDOUT, when TCP_SYNCNT is used up."""
    listener, client = script.listener(), script.client()
    listener.drop_all()
    client.set("TCP_SYNCNT", 1)
    began = time.monotonic()
    client.connect(listener)
    script.say("waited", time.monotonic() - began > 2)


@case
def silence_of_a_host(script: Script) -> None:
    """A host that does not answer at all."""
    client = script.client()
    client.set("TCP_SYNCNT", 1)
    client.connect_to(script.unreachable("blackhole"), 80)


@case
def silence_with_a_user_timeout(script: Script) -> None:
    """TCP_USER_TIMEOUT bounds connect(2) as well."""
    listener, client = script.listener(), script.client()
    listener.drop_all()
    client.set("TCP_USER_TIMEOUT", 800)
    client.connect(listener)


@case
def silence_with_a_send_timeout(script: Script) -> None:
    """SO_SNDTIMEO: connect(2) gives up waiting, and the connection stays on its way."""
    listener, client = script.listener(), script.client()
    listener.drop_all()
    client.set_time("SO_SNDTIMEO", 0.2)
    client.connect(listener)
    client.state()
    listener.drop_none()
    client.wait("OUT")
    client.state()


@case
def host_unreachable(script: Script) -> None:
    """EHOSTUNREACH."""
    client = script.client()
    client.connect_to(script.unreachable("host"), 80)
    client.state()
    client.recv(1)


@case
def network_unreachable(script: Script) -> None:
    """ENETUNREACH."""
    script.client().connect_to(script.unreachable("network"), 80)


@case
def prohibited(script: Script) -> None:
    """A router that may not: EHOSTUNREACH with IPv4, EACCES with IPv6."""
    script.client().connect_to(script.unreachable("prohibited"), 80)


@case
def host_unreachable_nonblocking(script: Script) -> None:
    """The events of an unreachable host, then a connection of the same socket that works."""
    client, listener = script.client(), script.listener()
    client.nonblocking()
    client.connect_to(script.unreachable("host"), 80)
    client.wait("ERR|HUP")
    client.get("SO_ERROR")
    client.connect(listener)
    client.connect(listener)
    client.wait("OUT")
    client.get("SO_ERROR")
    listener.accept()


@case
def host_unreachable_in_the_error_queue(script: Script) -> None:
    """IP_RECVERR: the ICMP error's type and code."""
    for kind in ("host", "network", "prohibited"):
        client = script.client(kind)
        client.set("IPV6_RECVERR" if script.v6 else "IP_RECVERR", 1)
        client.connect_to(script.unreachable(kind), 80)
        client.error_queue()


@case
def own_loopback(script: Script) -> None:
    """127.0.0.1 and 0.0.0.0, ::1 and ::, are the client's own, and nobody listens there."""
    script.client().connect_to(script.loopback, 9)
    script.client().connect_to(script.any, 9)


@case
def own_listener(script: Script) -> None:
    """A server of the client's own on its loopback."""
    listening = socket.socket(script.family)
    listening.bind((script.loopback, 0))
    listening.listen()
    listening.settimeout(5)
    client = script.client()
    script.say("connect", client.endpoint.connect(script.any, listening.getsockname()[1]))
    accepted, _ = listening.accept()
    client.send(b"to myself")
    script.say("received", accepted.recv(9))
    accepted.close()
    listening.close()
    client.recv_to_end()


@case
def multicast(script: Script) -> None:
    """TCP knows no multicast, and no broadcast."""
    script.client().connect_to("ff0e::1" if script.v6 else "224.0.0.1", 80)
    if not script.v6:
        script.client().connect_to("255.255.255.255", 80)


@case
def not_connected(script: Script) -> None:
    """Everything that needs a connection, without one."""
    client = script.client()
    client.recv(1)
    client.send(b"x")
    client.shutdown("WR")
    client.peer()
    client.poll()
    client.state()
    client.get("SO_ERROR")


@case
def datagram(script: Script) -> None:
    """UDP to a port that answers."""
    _, handle, port = script.puppet.call(0, "listen_udp", script.host)
    script.handles.append(handle)
    client = script.client(sock=socket.socket(script.family, socket.SOCK_DGRAM))
    answering = script.puppet.ask(handle, "answer", ())
    script.say("client.connect()", client.endpoint.connect(script.host, port))
    client.send(b"hello?")
    client.quiet("IN|ERR", 5.0)
    client.recv(10, "DONTWAIT")
    script.say("server", script.puppet.answer(answering)[0])


@case
def datagram_refused(script: Script) -> None:
    """UDP to a closed port."""
    client = script.client(sock=socket.socket(script.family, socket.SOCK_DGRAM))
    client.connect_to(script.host, places.REFUSED)
    client.send(b"hello?")
    client.wait("ERR")
    client.recv(10, "DONTWAIT")
