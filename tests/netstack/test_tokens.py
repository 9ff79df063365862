# SPDX-License-Identifier: GPL-3.0-or-later
"""Isolation tokens, and whose a connection is: what OPEN carries, and how long a SYN waits for it."""

from __future__ import annotations

import pytest
from guest import FAMILIES, SERVER_V4, Net, Socket

from avne.netstack.owners import PATIENCE
from avne.netstack.tokens import DESTINATION, PROGRAM, Tokens


def _token(net, server=SERVER_V4, local=40000):
    Socket(net, server, 80, local).syn()
    (opening,) = net.told("OPEN")
    return opening.fields[3]


def _by_program():
    net = Net("tor")
    net.stack.upstreams.tokens = Tokens(PROGRAM)
    net.stack.owners.asks = True
    return net


def test_a_run_is_one_until_its_epoch_changes():
    net = Net("tor")
    assert _token(net) == _token(net, local=40001) == ""
    net.stack.upstreams.tokens.epoch = "e1"
    assert _token(net, local=40002) == "e1"


def test_hosts_are_told_apart_and_not_told():
    tokens = Tokens(DESTINATION, "e", b"key")
    one = tokens.token("Host.example.")
    assert one == tokens.token("host.example") != tokens.token("other.example")
    assert one != Tokens(DESTINATION, "f", b"key").token("host.example")
    assert one != Tokens(DESTINATION, "e", b"yek").token("host.example")
    assert "host" not in one
    assert len(one) <= 48


@pytest.mark.parametrize("server", FAMILIES, ids=["v4", "v6"])
def test_the_syn_waits_for_its_owner(server):
    net = _by_program()
    socket = Socket(net, server).syn()
    ((number, key),) = net.stack.owners.questions
    assert key in net.stack.connections
    assert not net.told()
    net.stack.owners.answer(number, "p1", net.now)
    net.turn()
    (opening,) = net.told()
    assert opening.fields[3] == ".p1"
    assert not socket.inbox


def test_an_owner_that_is_not_found_in_time_is_like_no_other():
    net = _by_program()
    for local in (40000, 40001):
        Socket(net, SERVER_V4, 80, local).syn()
    net.wait(PATIENCE)
    one, other = (opening.fields[3] for opening in net.told("OPEN"))
    assert one.startswith(".x")
    assert one != other
    for number, _ in net.stack.owners.questions:
        net.stack.owners.answer(number, "p1", net.now)
    net.turn()
    assert not net.told(), "too late"


def test_so_many_questions_at_a_time():
    net = _by_program()
    for local in range(40000, 40100):
        Socket(net, SERVER_V4, 80, local).syn()
    owners = net.stack.owners
    asked = 0
    while owners.questions:
        assert len(owners.questions) <= 64
        number, _ = owners.questions.popleft()
        owners.answer(number, "p1", net.now)
        asked += 1
    net.turn()
    assert asked == len(net.told("OPEN")) == 100
