# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker side: who gets a flow, what each message may be when, and credits."""

from __future__ import annotations

import pytest
from guest import Net, Socket, connected, parked
from hypothesis import given, settings
from hypothesis import strategies as st

from avne.errors import Malformed
from avne.ipc import messages
from avne.ipc.messages import Capability, Code, Sender, encode
from avne.limits import CREDIT_MAX, CREDIT_MIN


def _raises(net: Net, reason: str, kind: int, flow: int, *fields: object, payload: bytes | None = None):
    with pytest.raises(Malformed) as error:
        net.say(kind, flow, *fields, payload=payload)
    assert error.value.reason == reason


# ---- workers ---------------------------------------------------------------------------


def test_a_worker_joins_with_hello():
    net = Net()
    assert net.stack.upstreams.capabilities is None
    net.join(b"w0", "tor", Capability.RESOLVE)
    assert net.stack.upstreams.capabilities == Capability.RESOLVE
    assert net.stack.logs.pop() == ("info", "worker-joined", {"worker": "w0", "kind": "tor"})


def test_what_is_wrong_with_a_hello():
    net = Net("tor")
    _raises(net, "wire-hello", messages.HELLO, 0, messages.WIRE_VERSION, "tor", 0)  # twice
    with pytest.raises(Malformed, match="wire-hello"):
        net.say(messages.HELLO, 0, messages.WIRE_VERSION + 1, "tor", 0, worker=b"new")
    with pytest.raises(Malformed, match="wire-hello"):  # ZeroMQ's name for a peer that gave none
        net.say(messages.HELLO, 0, messages.WIRE_VERSION, "tor", 0, worker=b"\0\x8a\xff\0\1")
    assert list(net.stack.upstreams.workers) == [b"w0"]


WORKERS = [k for k, row in messages.TABLE.items() if row.sender is not Sender.NETSTACK]


@pytest.mark.parametrize("kind", sorted(set(WORKERS) - {messages.HELLO}))
def test_a_worker_says_hello_first(kind):
    net = Net()
    fields = [field.kind() for field in messages.TABLE[kind].fields]
    payload = b"" if messages.TABLE[kind].payload else None
    _raises(net, "wire-before-hello", kind, 0, *fields, payload=payload)


def test_flows_and_queries_go_to_the_least_loaded_worker():
    net = Net("tor", "tor")
    for n in range(6):
        Socket(net, local=100 + n).syn()
    opened = net.told("OPEN")
    assert sorted(m.worker for m in opened) == [b"w0"] * 3 + [b"w1"] * 3
    for message in opened:
        if message.worker == b"w0":
            net.say(messages.REFUSED, message.flow, 1, 0, "")
    Socket(net, local=200).syn()
    assert [m.worker for m in net.told("OPEN")] == [b"w0"]
    for query in (1, 2, 3, 4):
        assert net.stack.upstreams.resolve(query, messages.ResolveKind.ADDRESS, "example.com")
    net.turn()
    assert [(m.worker, m.flow, m.fields) for m in net.told("RESOLVE")][:2] == [
        (b"w0", 1, [0, "example.com", ""]),
        (b"w1", 2, [0, "example.com", ""]),
    ]


def test_a_leaving_worker_gets_nothing_new_and_ends_when_it_is_not_needed():
    net = Net("tor", "tor")
    _, flow = connected(net)
    assert net.stack.upstreams.resolve(1, messages.ResolveKind.ADDRESS, "example.com")
    net.turn()
    net.told()
    net.say(messages.DRAIN, 0)  # it asks for that itself, or the supervisor does
    for n in range(3):
        Socket(net, local=100 + n).syn()
    assert {m.worker for m in net.told("OPEN")} == {b"w1"}
    net.say(messages.RESOLVED, 1, 0, ["192.0.2.1"], 60)
    net.stack.upstreams.let_go()
    net.turn()
    assert not net.told("DRAIN")
    net.say(messages.RESET, flow, 0)
    net.stack.upstreams.let_go()
    net.turn()
    assert [m.worker for m in net.told("DRAIN")] == [b"w0"]
    assert not net.stack.upstreams.retire(b"nobody")


def test_what_an_upstream_that_is_down_refuses_is_asked_of_another():
    net = Net("tor", "tor")
    net.stack.upstreams.spread = True
    Socket(net).syn()
    (first,) = net.told("OPEN")
    net.say(messages.REFUSED, first.flow, int(Code.UPSTREAM_DOWN), 0, "")
    (second,) = net.told("OPEN")
    assert (first.worker, second.worker) == (b"w0", b"w1")
    assert second.fields[:2] == first.fields[:2]
    Socket(net, local=200).syn()
    assert [m.worker for m in net.told("OPEN")] == [b"w1"]  # though w0 has fewer
    net.say(messages.REFUSED, second.flow, int(Code.UPSTREAM_DOWN), 0, "", worker=b"w1")
    assert not net.told("OPEN")  # nobody is asked twice
    assert net.stack.upstreams.resolve(1, messages.ResolveKind.ADDRESS, "example.com")
    net.turn()
    (asked,) = net.told("RESOLVE")
    net.say(messages.RESOLVED, 1, int(Code.UPSTREAM_DOWN), [], 0, worker=asked.worker)
    (again,) = net.told("RESOLVE")
    assert {asked.worker, again.worker} == {b"w0", b"w1"}


def test_flow_numbers_are_never_used_again():
    net = Net("tor")
    numbers = []
    for _ in range(5):
        socket, flow = parked(net)
        socket.send_reset()
        numbers.append(flow)
        net.told()
    assert len(set(numbers)) == 5


# ---- a worker's end ------------------------------------------------------------------------


def test_the_death_of_a_worker_resets_its_flows_and_no_others():
    net = Net("tor", "tor")
    sockets = [Socket(net, local=100 + n).syn() for n in range(4)]
    opened = net.told("OPEN")
    for message in opened[:2]:
        net.say(messages.OPENED, message.flow, 1000, worker=message.worker)
    for socket in sockets[:2]:
        socket.send()
    net.gone(b"w0")
    dead = [m.worker == b"w0" for m in opened]
    assert [s.reset for s in sockets] == dead
    assert dead.count(True) == 2
    assert not net.told()
    assert net.stack.half_open == 1
    net.gone(b"w0")  # once more does nothing
    net.gone(b"w1")
    assert all(s.reset for s in sockets)
    assert net.stack.upstreams.flows == 0
    assert net.stack.upstreams.capabilities is None


def test_a_flow_that_was_over_survives_its_worker():
    net = Net("tor")
    socket, flow = connected(net)
    socket.wnd = 4
    socket.send_fin()
    net.say(messages.DATA, flow, payload=b"a long answer")
    net.say(messages.SHUT, flow)
    net.gone()
    socket.wnd = 100
    socket.send()
    assert not socket.reset
    assert bytes(socket.data) == b"a long answer"


# ---- every message out of turn ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "fields", "payload"),
    [
        (messages.DATA, (), b"x"),
        (messages.CREDIT, (1,), None),
        (messages.SHUT, (), None),
    ],
)
def test_nothing_comes_before_opened(kind, fields, payload):
    net = Net("tor")
    _, flow = parked(net)
    _raises(net, "wire-turn", kind, flow, *fields, payload=payload)


@pytest.mark.parametrize(("kind", "fields"), [(messages.OPENED, (1,)), (messages.REFUSED, (1, 0, ""))])
def test_the_answer_to_open_comes_once(kind, fields):
    net = Net("tor")
    _, flow = connected(net)
    _raises(net, "wire-turn", kind, flow, *fields)


def test_nothing_follows_shut_but_credit_and_reset():
    net = Net("tor")
    socket, flow = connected(net)
    net.say(messages.SHUT, flow)
    _raises(net, "wire-turn", messages.SHUT, flow)
    _raises(net, "wire-credit", messages.DATA, flow, payload=b"x")
    net.say(messages.CREDIT, flow, 10)
    net.say(messages.RESET, flow, 1)
    assert socket.reset


def test_more_than_granted_is_malformed_both_ways():
    net = Net("tor")
    _, flow = connected(net, credit=CREDIT_MAX)
    _raises(net, "wire-credit", messages.CREDIT, flow, 1)
    _raises(net, "wire-credit", messages.DATA, flow, payload=bytes(CREDIT_MAX + 1))
    _raises(net, "wire-field-bytes", messages.CREDIT, flow, CREDIT_MAX + 1)


@pytest.mark.parametrize("kind", [messages.OPENED, messages.CREDIT, messages.RESET])
def test_a_flow_that_was_never_opened_is_malformed_and_one_that_is_gone_is_not(kind):
    net = Net("tor")
    socket, flow = connected(net)
    socket.send_reset()
    net.told()
    net.say(kind, flow, 1)
    assert not net.told()
    _raises(net, "wire-flow", kind, flow + 1, 1)
    _raises(net, "wire-flow", kind, 0, 1)


def test_a_worker_cannot_touch_the_flows_of_another():
    net = Net("tor", "tor")
    socket, flow = connected(net)
    net.say(messages.RESET, flow, 1, worker=b"w1")
    assert not socket.reset


def test_payloads_come_with_data_only():
    net = Net("tor")
    _, flow = connected(net)
    _raises(net, "wire-payload", messages.DATA, flow)
    _raises(net, "wire-payload", messages.SHUT, flow, payload=b"")


@pytest.mark.parametrize("kind", [messages.READY, messages.OPEN])
def test_a_worker_does_not_speak_for_the_netstack(kind):
    fields = [field.kind() for field in messages.TABLE[kind].fields]
    _raises(Net("tor"), "wire-direction", kind, 0, *fields)


def test_ping_is_answered_and_the_rest_is_heard():
    net = Net("tor")
    net.say(messages.PING, 0, 77)
    assert net.told() == [(b"w0", "PONG", 0, [77], None)]
    net.say(messages.PONG, 0, 1)
    net.say(messages.STATS, 0, 1, 2, 3)
    net.say(messages.RESOLVED, 12345, 0, ["192.0.2.1"], 60)  # nobody has asked
    assert not net.told()


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(list(messages.TABLE)),
            st.integers(0, 4),
            st.lists(st.integers(0, 5) | st.integers(0, 1 << 40) | st.just("tor"), max_size=3),
            st.none() | st.binary(max_size=10),
        ),
        max_size=20,
    )
)
def test_no_message_of_a_worker_raises_anything_but_malformed(sequence):
    """Nothing that a worker sends harms the stack: it is obeyed, dropped, or the worker is cut off."""
    net = Net("tor")
    for n in range(3):
        Socket(net, local=100 + n).syn()
    for kind, flow, fields, payload in sequence:
        try:
            net.stack.handle(b"w0", encode(kind, flow, *fields), payload, net.now)
        except Malformed:
            net.gone()
        net.turn()
    net.gone()
    assert net.stack.half_open == 0


# ---- credit -----------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 1 << 19), st.integers(1, 1 << 19)), max_size=30), st.integers(0, 1))
def test_what_may_be_on_its_way_is_what_was_granted(steps, crowd):
    net = Net("tor")
    _, flow = parked(net)
    lease = net.stack.upstreams.workers[b"w0"].flows[flow]
    net.say(messages.OPENED, flow, 100)
    allowed, held = lease.grant, 0
    if crowd:
        for n in range(200):
            Socket(net, local=100 + n).syn()
        net.told()
    for come, consumed in steps:
        come = min(come, allowed)
        lease.receive(messages.DATA, [messages.DATA, flow], bytes(come), net.now)
        allowed, held = allowed - come, held + come
        consumed = min(consumed, held)
        lease.consumed(consumed, net.now)
        held -= consumed
        net.turn()
        allowed += sum(m.fields[0] for m in net.told("CREDIT"))
        assert allowed == lease.grant
        assert allowed + held <= CREDIT_MAX
    lease.consumed(held, net.now)
    assert lease.grant >= CREDIT_MIN * 3 // 4  # it never starves


def test_code_and_kind_reach_the_log_of_refusals():
    net = Net("tor")
    _, flow = parked(net)
    net.say(messages.REFUSED, flow, Code.ONION_DESCRIPTOR_NOT_FOUND, 0, "")
    assert net.stack.counters["refused-0xf0"] == 1
