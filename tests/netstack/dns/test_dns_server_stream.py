# SPDX-License-Identifier: GPL-3.0-or-later
"""The one stream to the resolver (RFC 7766): pipelining, loss, silence, garbage."""

from __future__ import annotations

import pytest
from dns_playbook import (
    TOR,
    Playbook,
    closed,
    data,
    framed,
    opened,
    opens,
    passed,
    query,
    reply,
    sent,
    server_says,
    server_wire,
)

from avne.netstack.dns import resolver as machine
from avne.netstack.dns.commands import CloseStream, Log


@pytest.fixture
def book():
    book = Playbook(TOR)
    yield book
    book.end()


@pytest.fixture
def asked(book):
    """Two questions under way on the open stream 1."""
    book >> query("a.example", "MX") << opens(1)
    book >> query("b.example", "MX") >> opened(1) << sent(1, "a.example MX", "b.example MX")
    return book


UNREACHABLE = Log("warning", "dns-resolver-unreachable", {"host": "192.0.2.53", "port": 53})


def answered(book, stream, *names):
    """The server answers, and so do we."""
    for name in names:
        (
            book
            >> server_says(stream, name, "MX", "NOERROR", f"{name} 60 TXT x")
            << reply("NOERROR", f'{name} 60 TXT "x"')
        )


def test_one_stream_for_all_questions(asked):
    asked >> query("c.example", "MX") << sent(1, "c.example MX")
    answered(asked, 1, "b.example", "c.example", "a.example")  # in any order


def test_ids_are_random_and_distinct(book):
    book >> query("n0.example", "MX") << opens(1) >> opened(1) << sent(1, "n0.example MX")
    for n in range(1, 300):
        book >> query(f"n{n}.example", "MX") << sent(1, f"n{n}.example MX")
    numbers = list(book.numbers.values())
    assert len(set(numbers)) == 300
    assert numbers != sorted(numbers)


def test_taken_id_is_not_given_again(book, monkeypatch):
    tokens = iter([b"aa", b"aa", b"aa", b"bb"])
    monkeypatch.setattr(book.resolver._pipeline, "_token", lambda size: next(tokens))
    book >> query("a.example", "MX") << opens(1) >> query("b.example", "MX")
    book >> opened(1) << sent(1, "a.example MX", "b.example MX")
    assert sorted(book.numbers.values()) == [b"aa", b"bb"]


def test_answers_in_pieces(asked):
    octets = framed(*(server_wire(asked, name, "MX", "NXDOMAIN") for name in ("a.example", "b.example")))
    for at in range(len(octets)):
        asked.resolver.stream_data(1, octets[at : at + 1], asked.now)
    asked << reply("NXDOMAIN") << reply("NXDOMAIN")


def test_answer_that_nobody_waits_for(asked):
    asked >> data(1, framed(b"??" + bytes(10)))
    answered(asked, 1, "a.example", "b.example")


def test_idle_stream_is_closed(asked):
    answered(asked, 1, "a.example", "b.example")
    assert asked.resolver.poll_at() == asked.now + 30
    asked.resolver.handle_timer(asked.now + 29)
    asked >> passed(30) << CloseStream(1)
    assert asked.resolver.poll_at() is None
    asked >> query("c.example", "MX") << opens(2)


def test_server_closes_an_idle_stream(asked):
    answered(asked, 1, "a.example", "b.example")
    asked >> closed(1)
    assert asked.resolver.poll_at() is None
    asked >> query("c.example", "MX") << opens(2)


def test_stream_lost_once(asked):
    """What was not answered is asked again (RFC 7766 §6.2.4)."""
    asked >> closed(1) << opens(2)
    asked >> opened(2) << sent(2, "a.example MX", "b.example MX")
    answered(asked, 2, "b.example", "a.example")


def test_stream_lost_twice(asked):
    asked >> closed(1) << opens(2) >> closed(2, 1) << UNREACHABLE
    asked << reply("SERVFAIL") << reply("SERVFAIL")


def test_server_that_ends_the_stream_after_each_answer(book):
    """Every question is answered in the end, however many there are."""
    names = [f"n{n}.example" for n in range(6)]
    book >> query(names[0], "MX") << opens(1)
    for name in names[1:]:
        book >> query(name, "MX")
    for n, name in enumerate(names):
        book >> opened(n + 1) << sent(n + 1, *(f"{rest} MX" for rest in names[n:]))
        answered(book, n + 1, name)
        book >> closed(n + 1)
        if name != names[-1]:
            book << opens(n + 2)


def test_events_of_another_stream(asked):
    asked >> closed(1) << opens(2)
    asked >> closed(1) >> opened(1) >> data(1, b"\0\0\0\0")
    asked >> opened(2) << sent(2, "a.example MX", "b.example MX")


def test_stream_that_does_not_open(book):
    book >> query("a.example", "MX") << opens(1)
    book >> passed(5) << CloseStream(1) << opens(2)
    book >> passed(5) << CloseStream(2) << UNREACHABLE << reply("SERVFAIL")
    assert book.now == 1010


def test_silent_server(asked):
    """It is there, and so not out of reach; but this question it does not answer."""
    asked >> passed(5) << CloseStream(1) << opens(2)
    asked >> opened(2) << sent(2, "a.example MX", "b.example MX")
    asked >> passed(5) << CloseStream(2) << reply("SERVFAIL") << reply("SERVFAIL")
    asked >> query("c.example", "MX") << opens(3)


def test_slow_name_does_not_disturb_the_others(asked):
    asked >> passed(4)
    answered(asked, 1, "b.example")
    asked >> passed(4) >> query("c.example", "MX") << sent(1, "c.example MX")
    assert asked.now == 1008
    answered(asked, 1, "c.example")
    asked >> passed(2) << reply("SERVFAIL")  # a.example, after two times five seconds
    assert asked.now == 1010
    asked >> query("d.example", "MX") << sent(1, "d.example MX")


def test_slow_name_answered_after_all(asked):
    asked >> passed(4)
    answered(asked, 1, "b.example")
    asked >> passed(5)
    answered(asked, 1, "a.example")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda wire: wire[:11],  # no header
        lambda wire: wire[:2] + b"\0" + wire[3:],  # no answer
        lambda wire: wire[:2] + bytes((wire[2] | 2,)) + wire[3:],  # TC
        lambda wire: wire.replace(b"example", b"another"),  # to another question
        lambda wire: wire[:5] + b"\2" + wire[6:],  # to two of them
        lambda wire: wire[:-4],  # cut off
    ],
)
def test_garbage_ends_the_stream(asked, spoil):
    wire = spoil(server_wire(asked, "b.example", "MX", "NOERROR", "b.example 60 TXT x"))
    asked >> data(1, framed(wire))
    command = asked.next()
    assert isinstance(command, machine.Log)
    assert command.event == "dns-resolver-garbage"
    asked << CloseStream(1) << opens(2)
    asked >> opened(2) << sent(2, "a.example MX", "b.example MX")
    answered(asked, 2, "a.example", "b.example")


def test_frame_without_a_message(asked):
    asked >> data(1, b"\0\0") << Log("warning", "dns-resolver-garbage", {"reason": "dns-frame-size"})
    asked << CloseStream(1) << opens(2)
    asked >> opened(2) << sent(2, "a.example MX", "b.example MX") >> data(2, b"\0\0")
    asked << Log("warning", "dns-resolver-garbage", {"reason": "dns-frame-size"})
    asked << CloseStream(2) << UNREACHABLE << reply("SERVFAIL") << reply("SERVFAIL")


def test_question_tells_little_about_the_guest(book):
    """Letter case, UDP size and options stay here; DO and CD are the question's."""
    from dnslib import DNSRecord

    book >> query("A.Example", "MX", edns=777, flags="do", cd=1, number=4242) << opens(1) >> opened(1)
    command = book.next()
    message = DNSRecord.parse(command.data[2:])
    assert str(message.q.qname) == "a.example."
    assert message.header.id != 4242
    assert (message.header.rd, message.header.ad, message.header.cd, message.header.qr) == (1, 1, 1, 0)
    opt = message.ar[0]
    assert (opt.edns_len, opt.edns_do, opt.rdata, len(message.ar)) == (4096, 1, [], 1)
