# SPDX-License-Identifier: GPL-3.0-or-later
"""poll(2) and epoll(7): events and edges."""

from __future__ import annotations

import select

from tests.differential.script import Client, Script, case
from tests.differential.words import event_mask, events

_EXTRA = {"ET": select.EPOLLET, "ONESHOT": select.EPOLLONESHOT}


class Watch:
    """An epoll of one socket, whose answers are noted.

    A script waits for what is to come before it asks: an edge tells what is there when it is fetched.
    """

    def __init__(self, script: Script, client: Client, wanted: str) -> None:
        self._script, self._client = script, client
        self._epoll = select.epoll()
        self._epoll.register(client.endpoint.sock, self._mask(wanted))

    @staticmethod
    def _mask(wanted: str) -> int:
        names = wanted.split("|")
        mask = event_mask("|".join(name for name in names if name not in _EXTRA))
        for name in names:
            mask |= _EXTRA.get(name, 0)
        return mask

    def again(self, wanted: str) -> None:
        self._epoll.modify(self._client.endpoint.sock, self._mask(wanted))

    def next(self, seconds: float = 5.0) -> None:
        found = self._epoll.poll(seconds)
        self._script.say("epoll", events(found[0][1]) if found else "nothing")

    def nothing(self) -> None:
        self.next(0.15)


@case
def poll_through_a_life(script: Script) -> None:
    """poll(2) at every stage."""
    client, server = script.connected()
    client.poll()
    server.send(b"x")
    client.wait("IN")
    client.recv(1)
    client.poll()
    server.shutdown("WR")
    client.wait("IN|RDHUP")
    client.recv(1)
    client.poll()
    client.shutdown("WR")
    client.wait("HUP")
    client.poll()


@case
def edges_of_data(script: Script) -> None:
    """EPOLLET: one event for each arrival, none for what is left unread."""
    client, server = script.connected()
    watch = Watch(script, client, "IN|ET")
    watch.nothing()
    server.send(b"one")
    client.wait_unread(3)
    watch.next()
    watch.nothing()
    client.recv(1)
    watch.nothing()
    server.send(b"two")
    client.wait_unread(5)
    watch.next()
    client.recv(100)
    watch.nothing()


@case
def edges_of_an_end(script: Script) -> None:
    """EPOLLET with EPOLLRDHUP: an event for the end, while data is unread."""
    client, server = script.connected()
    server.send(b"data")
    client.wait("IN")
    watch = Watch(script, client, "IN|RDHUP|ET")
    watch.next()
    server.shutdown("WR")
    client.wait("IN|RDHUP")
    watch.next()
    watch.nothing()
    client.recv_to_end()
    watch.nothing()


@case
def edges_of_a_reset(script: Script) -> None:
    """EPOLLET: a reset is an event, once."""
    client, server = script.connected()
    watch = Watch(script, client, "IN|OUT|RDHUP|ET")
    watch.next()
    server.reset()
    client.wait("ERR|HUP")
    watch.next()
    watch.nothing()
    client.recv(10)
    watch.nothing()


@case
def edges_of_room(script: Script) -> None:
    """EPOLLET with EPOLLOUT: an event when there is room again."""
    client, server = script.connected()
    client.send_until_stalled()
    client.nonblocking()
    watch = Watch(script, client, "OUT|ET")
    watch.nothing()
    reading = server.later("recv_stream_to_end")
    client.wait("OUT")
    watch.next()
    client.shutdown("WR")
    reading.result()


@case
def edges_of_a_connect(script: Script) -> None:
    """EPOLLET registered before connect(2)."""
    listener, client = script.listener(), script.client()
    client.nonblocking()
    watch = Watch(script, client, "IN|OUT|ET")
    watch.next()
    client.connect(listener)
    client.wait("OUT")
    watch.next()
    watch.nothing()
    client.get("SO_ERROR")


@case
def edges_of_a_refusal(script: Script) -> None:
    """… and a connect(2) that fails."""
    listener, client = script.listener(), script.client()
    listener.close()
    client.nonblocking()
    watch = Watch(script, client, "IN|OUT|RDHUP|ET")
    watch.next()
    client.connect(listener)
    client.wait("ERR|HUP")
    watch.next()
    watch.nothing()
    client.get("SO_ERROR")


@case
def one_shot(script: Script) -> None:
    """EPOLLONESHOT is silent until it is armed again."""
    client, server = script.connected()
    watch = Watch(script, client, "IN|ONESHOT")
    server.send(b"one")
    watch.next()
    server.send(b"two")
    client.wait_unread(6)
    watch.nothing()
    watch.again("IN|ONESHOT")
    watch.next()


@case
def level_of_an_end(script: Script) -> None:
    """Level-triggered: the end is reported for as long as it lasts."""
    client, server = script.connected()
    server.close()
    client.wait("IN|RDHUP")
    watch = Watch(script, client, "IN|RDHUP")
    watch.next()
    watch.next()
    client.recv_to_end()
    watch.next()


@case
def only_errors(script: Script) -> None:
    """Without a wish only EPOLLERR and EPOLLHUP are reported."""
    client, server = script.connected()
    watch = Watch(script, client, "")
    server.send(b"x")
    watch.nothing()
    server.shutdown("WR")
    client.wait("RDHUP")
    watch.nothing()
    server.reset()
    client.wait("ERR|HUP")
    watch.next()


@case
def select_says_the_same(script: Script) -> None:
    """select(2): readable, writable, exceptional."""
    client, server = script.connected()
    sock = client.endpoint.sock

    def look(seconds: float) -> None:
        found = select.select([sock], [sock], [sock], seconds)
        script.say("select", [bool(one) for one in found])

    look(0)
    server.send(b"x")
    client.wait("IN")
    look(0)
    client.recv(1)
    server.reset()
    client.wait("ERR")
    look(0)
