# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker as a real process, between a real ROUTER and a SOCKS server of the test's."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from avne.ipc import messages
from avne.ipc.messages import Capability, Code, ResolveKind, encode
from avne.limits import CREDIT_FIRST, CREDIT_MAX, EARLY_MAX, EARLY_PIECE, HALF_CLOSED_MAX, MAX_PAYLOAD
from avne.upstream.spec import UpstreamSpec
from tests.upstream.rig import PEER, Died, Rig
from tests.upstream.socks_server import RESOLVE, SocksServer, reply_bytes

MIB = 1 << 20


@pytest.fixture
def server() -> Iterator[SocksServer]:
    with SocksServer() as server:
        yield server


@pytest.fixture(params=[False, True], ids=["frames", "sockets"])
def rig(tmp_path: Path, server: SocksServer, request: pytest.FixtureRequest) -> Iterator[Rig]:
    """A netstack elsewhere, and one on this machine."""
    with Rig(tmp_path, UpstreamSpec("socks5", server.address), lane=request.param) as rig:
        yield rig.ready()


@pytest.fixture
def frames(tmp_path: Path, server: SocksServer) -> Iterator[Rig]:
    """What only a worker does that carries the bytes itself."""
    with Rig(tmp_path, UpstreamSpec("socks5", server.address)) as rig:
        yield rig.ready()


@pytest.fixture(params=[False, True], ids=["frames", "sockets"])
def tor(tmp_path: Path, server: SocksServer, request: pytest.FixtureRequest) -> Iterator[Rig]:
    """The same server in Tor's part: no half-close, and ends need proof."""
    with Rig(tmp_path, UpstreamSpec("tor", server.address, "avne-x", "y"), lane=request.param) as rig:
        yield rig.ready()


def dies(rig: Rig) -> int:
    with pytest.raises(Died) as caught:
        rig.receive(messages.HELLO, 1 << 40)
    return int(caught.value.args[0])


# Start and end.


def test_what_it_says_of_itself(rig: Rig) -> None:
    assert rig.hello[2:] == [messages.WIRE_VERSION, "socks5", int(Capability.HALF_CLOSE)]
    with open(f"/proc/{rig.pid}/comm") as file:
        assert file.read() == "avne [socks5 3]\n"


def test_it_may_have_as_many_descriptors_as_the_system_gives(tmp_path: Path, server: SocksServer) -> None:
    """Each flow is one, and the limit that a login shell starts with is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with Rig(tmp_path, UpstreamSpec("socks5", server.address)) as rig:
            rig.ready()
            assert resource.prlimit(rig.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_it_says_of_tor(tor: Rig) -> None:
    assert tor.hello[2:] == [
        messages.WIRE_VERSION,
        "tor",
        int(Capability.RESOLVE | Capability.PROOF | Capability.EARLY),
    ]


def test_no_proxy_is_a_failure_with_a_cure(tmp_path: Path) -> None:
    with Rig(tmp_path, UpstreamSpec("tor", str(tmp_path / "none")), greet=False) as rig:
        verb, problem, cure = rig.control_message()
        assert verb == "failed"
        assert str(tmp_path / "none") in problem
        assert "start tor" in cure
        assert rig.wait() == 1


def test_it_ends_with_the_supervisor(rig: Rig) -> None:
    rig.open(1)
    rig.control.close()
    assert rig.wait() == 0


def test_it_ends_when_the_supervisor_goes_before_the_configuration(tmp_path: Path) -> None:
    from avne.ipc.control import Control
    from avne.spawn import child_environment, python, spawn

    ours, theirs = Control.pair()
    pid = spawn(python("avne.upstream.worker", "3"), {3: theirs.fileno()}, child_environment(), session=True)
    theirs.close()
    ours.close()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_ping(rig: Rig) -> None:
    rig.send(messages.PING, 0, 1 << 60)
    assert rig.receive(messages.PONG)[0] == [messages.PONG, 0, 1 << 60]


# Bytes before the answer.


@pytest.fixture
def early(tmp_path: Path, server: SocksServer) -> Iterator[Rig]:
    with Rig(tmp_path, UpstreamSpec("tor", server.address, "avne-x", "y"), lane=True) as rig:
        yield rig.ready()


def test_early_bytes_are_with_the_proxy_before_it_has_answered(early: Rig, server: SocksServer) -> None:
    server.gate = threading.Event()
    server.asks_for = 9
    early.begin(1, "example.org", 80)
    early.send(messages.EARLY, 1, b"GET ")
    early.send(messages.EARLY, 1, b"/ now")
    assert server.came.wait(20), "they wait for the reply"
    server.gate.set()
    early.receive(messages.OPENED, 1)
    assert early.early == 9
    assert early.receive(messages.DATA, 1)[1] == b"GET / now"


def test_early_bytes_of_a_refused_connection_are_dropped(early: Rig, server: SocksServer) -> None:
    server.reply = reply_bytes(4)
    early.begin(1)
    early.send(messages.EARLY, 1, b"lost")
    assert early.receive(messages.REFUSED, 1)[0][2] == Code.HOST_UNREACHABLE
    early.send(messages.EARLY, 1, b"crossed")
    early.send(messages.PING, 0, 7)
    assert early.receive(messages.PONG)[0] == [messages.PONG, 0, 7]


def test_more_early_bytes_than_allowed_end_the_worker(early: Rig, server: SocksServer) -> None:
    server.gate = threading.Event()
    early.begin(1)
    for _ in range(EARLY_MAX // EARLY_PIECE + 1):
        early.send(messages.EARLY, 1, bytes(EARLY_PIECE))
    assert dies(early) == 1


def test_early_bytes_are_not_for_other_proxies(tmp_path: Path, server: SocksServer) -> None:
    """They come behind the answer, from the netstack."""
    with Rig(tmp_path, UpstreamSpec("socks5", server.address), lane=True) as rig:
        rig.ready()
        server.gate = threading.Event()
        rig.begin(1)
        rig.send(messages.EARLY, 1, b"early")
        rig.send(messages.PING, 0, 7)
        rig.receive(messages.PONG)
        server.gate.set()
        rig.receive(messages.OPENED, 1)
        assert rig.early == 0


def test_early_bytes_are_not_for_a_netstack_elsewhere(frames: Rig) -> None:
    frames.send(messages.EARLY, 1, b"x")
    assert dies(frames) == 1


# Flows.


def test_bytes_both_ways_and_an_orderly_end(rig: Rig, server: SocksServer) -> None:
    assert rig.open(1, "example.org", 8080) == CREDIT_FIRST
    assert server.requests[0][1:4] == (3, b"example.org", 8080)
    rig.send(messages.DATA, 1, payload=b"hello")
    assert rig.receive(messages.DATA, 1)[1] == b"hello"
    rig.send(messages.SHUT, 1)
    rig.receive(messages.SHUT, 1)
    rig.send(messages.CREDIT, 1, 10)  # for a flow that is gone
    assert not rig.drained(1)


def test_the_first_bytes_of_the_server_are_not_lost(rig: Rig, server: SocksServer) -> None:
    server.trailing = b"banner"
    rig.open(1)
    assert rig.receive(messages.DATA, 1)[1] == b"banner"


def test_a_half_closed_flow_still_gets_its_answer(rig: Rig, server: SocksServer) -> None:
    def sum_up(sock: socket.socket, _host: str) -> None:
        count = 0
        while data := sock.recv(65536):
            count += len(data)
        sock.sendall(b"%d" % count)

    server.stream = sum_up
    credit = rig.open(1)
    for _ in range(4):
        rig.send(messages.DATA, 1, payload=bytes(credit // 4))
    rig.send(messages.SHUT, 1)
    assert rig.collect(1) == (b"%d" % CREDIT_FIRST, [messages.SHUT, 1])


@pytest.mark.parametrize("code", [1, 5, 0xF6])
def test_a_refusal_carries_the_number(rig: Rig, server: SocksServer, code: int) -> None:
    server.reply = reply_bytes(code)
    rig.send(messages.OPEN, 1, "h", 80, 1000, "")
    assert rig.receive(messages.REFUSED, 1)[0][2] == code


def test_a_name_that_cannot_be_sent(rig: Rig) -> None:
    rig.send(messages.OPEN, 1, "ü", 80, 1000, "")
    assert rig.receive(messages.REFUSED, 1)[0][2] == Code.BAD_NAME


def test_a_proxy_that_has_gone_away(rig: Rig, server: SocksServer) -> None:
    server.close()
    rig.send(messages.OPEN, 1, "h", 80, 1000, "")
    assert rig.receive(messages.REFUSED, 1)[0][2] == Code.UPSTREAM_DOWN


def test_a_reset_of_the_server_is_a_reset(rig: Rig, server: SocksServer) -> None:
    def reset(sock: socket.socket, _host: str) -> None:
        sock.recv(1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    server.stream = reset
    rig.open(1)
    rig.send(messages.DATA, 1, payload=b"x")
    assert rig.collect(1) == (b"", [messages.RESET, 1, Code.GENERAL_FAILURE])


def test_a_reset_of_the_program_is_a_reset_for_the_server(rig: Rig, server: SocksServer) -> None:
    outcome: list[object] = []
    done = threading.Event()

    def watch(sock: socket.socket, _host: str) -> None:
        try:
            outcome.append(sock.recv(1))
        except OSError as error:
            outcome.append(type(error))
        done.set()

    server.stream = watch
    rig.open(1)
    rig.send(messages.RESET, 1, 0)
    assert done.wait(10)
    assert outcome == [ConnectionResetError]
    assert not rig.drained(1)


def test_an_open_that_was_given_up_frees_its_connection(rig: Rig, server: SocksServer) -> None:
    server.gate = threading.Event()
    rig.send(messages.OPEN, 1, "h", 80, 1000, "")
    while not server.requests:
        rig.drained(1)
    rig.send(messages.RESET, 1, 0)
    assert not rig.drained(1)
    rig.send(messages.OPEN, 2, "h", 80, 1000, "")
    server.gate.set()
    rig.receive(messages.OPENED, 2)
    assert not rig.drained(1)


def test_slow_opens_do_not_block_others(rig: Rig, server: SocksServer) -> None:
    server.gate = threading.Event()
    for flow in range(1, 101):
        rig.send(messages.OPEN, flow, "h", 80, 1000, "")
    while len(server.requests) < 100:
        rig.drained(0)
    server.gate.set()
    for flow in range(1, 101):
        rig.receive(messages.OPENED, flow)
    for flow in range(1, 101):
        rig.send(messages.DATA, flow, payload=b"%d" % flow)
    for flow in range(1, 101):
        assert rig.receive(messages.DATA, flow)[1] == b"%d" % flow


# Credit and memory.


def test_no_more_comes_down_than_was_granted(rig: Rig, server: SocksServer) -> None:
    server.stream = lambda sock, host: sock.sendall(bytes(100_000))
    rig.open(1, credit=10)
    assert len(rig.receive(messages.DATA, 1)[1] or b"") == 10
    assert not rig.drained(1)
    rig.send(messages.CREDIT, 1, 5)
    assert len(rig.receive(messages.DATA, 1)[1] or b"") == 5
    assert not rig.drained(1)
    rig.send(messages.CREDIT, 1, CREDIT_MAX)
    data, end = rig.collect(1)
    assert (len(data), end[0]) == (100_000 - 15, messages.SHUT)


def test_a_program_that_does_not_read_costs_no_memory(frames: Rig, server: SocksServer) -> None:
    def flood(sock: socket.socket, _host: str) -> None:
        for _ in range(512):
            sock.sendall(bytes(MIB))

    server.stream = flood
    before = frames.memory()
    for flow in range(1, 5):
        frames.open(flow, credit=CREDIT_MAX)
        left = CREDIT_MAX
        while left:
            left -= len(frames.receive(messages.DATA, flow)[1] or b"")
    for flow in range(1, 5):
        assert all(message[0] != messages.DATA for message, _ in frames.drained(flow))
    assert frames.memory() - before < 16 * MIB
    server.hang_up()


def test_a_server_that_does_not_read_costs_the_credit_and_no_more(frames: Rig, server: SocksServer) -> None:
    go = threading.Event()
    counted: list[int] = []

    def late(sock: socket.socket, _host: str) -> None:
        go.wait(60)
        total = 0
        while data := sock.recv(65536):
            total += len(data)
        counted.append(total)

    server.stream = late
    credit = frames.open(1)
    before = frames.memory()
    sent = 0
    while credit:  # as much as the worker lets us: the kernel's buffers and one grant
        size = min(credit, MAX_PAYLOAD)
        frames.send(messages.DATA, 1, payload=bytes(size))
        sent += size
        credit += sum(message[2] for message, _ in frames.drained(1)) - size
    assert sent >= CREDIT_MAX
    assert frames.memory() - before < 16 * MIB
    frames.send(messages.SHUT, 1)
    go.set()
    frames.receive(messages.SHUT, 1)
    assert counted == [sent]


def test_a_megabyte_in_single_bytes_costs_about_a_megabyte(frames: Rig, server: SocksServer) -> None:
    go = threading.Event()

    def late(sock: socket.socket, _host: str) -> None:
        go.wait(60)
        while sock.recv(65536):
            pass

    server.stream = late
    credit, back = frames.open(1), 1
    while back:  # fill the kernel's buffers, which makes the window grow, and keep what is left of it
        size = min(credit, MAX_PAYLOAD)
        frames.send(messages.DATA, 1, payload=bytes(size))
        back = sum(message[2] for message, _ in frames.drained(1))
        credit += back - size
    assert credit >= 100_000
    before = frames.memory()
    for n in range(100_000):
        frames.send(messages.DATA, 1, payload=b"x")
        if n % 1000 == 0:
            frames.drained(1)  # else they wait in ZeroMQ, a hundred times as large
    frames.drained(1)
    assert frames.memory() - before < 8 * MIB
    go.set()


def test_a_gigabyte_of_flows_shares_the_loop_fairly(rig: Rig, server: SocksServer) -> None:
    """A small flow gets its answer while a bulk one has all the credit it wants."""

    def stream(sock: socket.socket, host: str) -> None:
        if host == "bulk":
            while True:
                sock.sendall(bytes(MIB))
        while data := sock.recv(100):
            sock.sendall(data)

    server.stream = stream
    rig.open(1, "bulk")
    rig.open(2, "small")
    for number in range(20):
        rig.send(messages.DATA, 2, payload=b"%d" % number)
        while True:
            found = [(m, p) for m, p in rig.drained(1) if m[0] == messages.DATA]
            for _, payload in found:
                rig.send(messages.CREDIT, 1, len(payload or b""))
            if small := [p for m, p in rig.drained(2) if m[0] == messages.DATA]:
                assert small == [b"%d" % number]
                break
    server.hang_up()


# The netstack's faults.


@pytest.mark.parametrize(
    ("kind", "fields", "payload", "reason"),
    [
        (messages.DATA, (), bytes(MAX_PAYLOAD), "wire-credit"),
        (messages.DATA, (), None, "wire-payload"),
        (messages.CREDIT, (1,), b"payload", "wire-payload"),
        (messages.CREDIT, (CREDIT_MAX,), None, "wire-credit"),
        (messages.OPEN, ("h", 1, 1, ""), None, "wire-turn"),
    ],
)
def test_a_breach_of_the_protocol_ends_the_worker(
    frames: Rig,
    server: SocksServer,
    kind: int,
    fields: tuple[object, ...],
    payload: bytes | None,
    reason: str,
) -> None:
    hold = threading.Event()
    server.stream = lambda sock, host: hold.wait(60) and None
    frames.open(1)
    for _ in range(40):  # the kernel takes some
        frames.line.send(PEER, encode(kind, 1, *fields), payload)
    status = dies(frames)
    hold.set()
    assert status == 1
    assert frames.logs[-1] == ["error", "wire", {"reason": reason}]


def test_data_for_a_flow_that_is_not_open_yet(frames: Rig, server: SocksServer) -> None:
    server.gate = threading.Event()
    frames.send(messages.OPEN, 1, "h", 80, 1000, "")
    frames.send(messages.DATA, 1, payload=b"x")
    assert dies(frames) == 1


# Questions.


def test_resolve(tor: Rig, server: SocksServer) -> None:
    server.answers[RESOLVE] = reply_bytes(0, b"\x01\xc6\x33\x64\x07")
    tor.send(messages.RESOLVE, 9, int(ResolveKind.ADDRESS), "name", "")
    message, _ = tor.receive(messages.RESOLVED, 9)
    assert message[2:4] == [0, ["198.51.100.7"]]
    server.answers[RESOLVE] = reply_bytes(4)
    tor.send(messages.RESOLVE, 10, int(ResolveKind.ADDRESS), "name", "")
    assert tor.receive(messages.RESOLVED, 10)[0][2:] == [4, [], 0]


def test_resolve_without_the_capability(rig: Rig) -> None:
    rig.send(messages.RESOLVE, 9, int(ResolveKind.ADDRESS), "name", "")
    assert rig.receive(messages.RESOLVED, 9)[0][2] == Code.COMMAND_NOT_SUPPORTED


# Tor's manners.


def test_tor_keeps_the_connection_open_for_the_answer(tor: Rig, server: SocksServer) -> None:
    """A FIN passed on would lose the whole answer."""
    ended: list[bytes] = []

    def answer(sock: socket.socket, _host: str) -> None:
        sock.recv(100)
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            ended.append(sock.recv(1))
        sock.setblocking(True)
        sock.sendall(b"the whole answer")

    server.stream = answer
    tor.open(1)
    tor.send(messages.DATA, 1, payload=b"question")
    tor.send(messages.SHUT, 1)
    assert tor.collect(1) == (b"the whole answer", [messages.SHUT, 1])
    assert not ended


def test_flows_that_only_wait_for_their_servers_end_are_bounded(tor: Rig, server: SocksServer) -> None:
    """A program that closes each connection itself leaves one for 30 s: the oldest make room."""
    hold = threading.Event()
    server.stream = lambda sock, host: hold.wait(60) and None
    for flow in range(1, HALF_CLOSED_MAX + 3):
        tor.open(flow, "silent")
        tor.send(messages.SHUT, flow)
    for flow in (1, 2):
        assert tor.receive(messages.RESET, flow)[0][2] == Code.UPSTREAM_TIMEOUT
    assert tor.drained(3) == []
    hold.set()


# Statistics and the end of a session.


def test_statistics_follow_the_flows(frames: Rig) -> None:
    frames.open(1)
    frames.send(messages.DATA, 1, payload=bytes(1000))
    frames.receive(messages.DATA, 1)
    while frames.receive(messages.STATS)[0][2:] != [1, 1000, 1000]:
        pass


def test_drain_without_flows_is_an_immediate_end(rig: Rig) -> None:
    rig.send(messages.DRAIN, 0)
    assert dies(rig) == 0


@pytest.mark.parametrize("kind", ["socks5", "tor"])
def test_drain_writes_what_is_queued_first(tmp_path: Path, server: SocksServer, kind: str) -> None:
    go = threading.Event()
    counted: list[int] = []

    def late(sock: socket.socket, _host: str) -> None:
        sock.sendall(bytes(100_000))  # nobody reads it
        go.wait(60)
        total = 0
        while data := sock.recv(65536):
            total += len(data)
        counted.append(total)

    server.stream = late
    with Rig(tmp_path, UpstreamSpec(kind, server.address)) as rig:
        credit = rig.ready().open(1, credit=0)
        rig.send(messages.DATA, 1, payload=bytes(credit))
        rig.send(messages.DRAIN, 0)
        rig.send(messages.OPEN, 2, "h", 80, 1000, "")
        assert rig.receive(messages.REFUSED, 2)[0][2] == Code.UPSTREAM_DOWN
        go.set()
        assert dies(rig) == 0
    server.close()
    assert counted == [credit]


def test_drain_gives_up_what_is_not_open_yet(rig: Rig, server: SocksServer) -> None:
    server.gate = threading.Event()
    rig.send(messages.OPEN, 1, "h", 80, 1000, "")
    while not server.requests:
        rig.drained(1)
    rig.send(messages.DRAIN, 0)
    assert dies(rig) == 0


def test_a_server_that_never_ends_does_not_hold_up_the_end(frames: Rig, server: SocksServer) -> None:
    hold = threading.Event()
    server.stream = lambda sock, host: hold.wait(60) and None
    frames.open(1)
    frames.send(messages.DRAIN, 0)
    assert dies(frames) == 0
    hold.set()
