# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker with rules: each flow gets the upstream that is meant, and what that can do goes with it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from avne.ipc import messages
from avne.ipc.messages import Capability, Code, ResolveKind
from avne.ipc.verdict import Verdict
from avne.limits import CREDIT_MAX
from avne.upstream import kinds, patterns
from avne.upstream.http import code_of
from avne.upstream.patterns import Pattern
from avne.upstream.spec import UpstreamSpec
from tests.upstream.rig import Rig
from tests.upstream.socks_server import RESOLVE, SocksServer, reply_bytes


def rules(*lines: str) -> list[tuple[Pattern, UpstreamSpec]]:
    split = [line.partition("=") for line in lines]
    return [(patterns.parse(left), kinds.parse(right)) for left, _, right in split]


@pytest.fixture
def servers() -> Iterator[list[SocksServer]]:
    with SocksServer() as first, SocksServer() as second:
        yield [first, second]


def at(server: SocksServer) -> str:
    return f"127.0.0.1:{server.address[1]}"


@pytest.fixture(params=[False, True], ids=["frames", "sockets"])
def lane(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def echoes(rig: Rig, flow: int, host: str, port: int = 80) -> bool:
    rig.open(flow, host, port)
    rig.send(messages.DATA, flow, payload=b"ping")
    return rig.receive(messages.DATA, flow)[1] == b"ping"


def refused(rig: Rig, flow: int, host: str, port: int = 80) -> tuple[int, int, str]:
    rig.send(messages.OPEN, flow, host, port, CREDIT_MAX, "")
    message, _ = rig.receive(messages.REFUSED, flow)
    return message[2], message[3], message[4]


def asked(rig: Rig, query: int, name: str, kind: ResolveKind = ResolveKind.ROUTE) -> int:
    rig.send(messages.RESOLVE, query, int(kind), name, "")
    return int(rig.receive(messages.RESOLVED, query)[0][2])


def test_each_flow_goes_where_its_rule_says(tmp_path: Path, servers: list[SocksServer], lane: bool) -> None:
    plain, tor = servers
    tor.answers[RESOLVE] = reply_bytes(0, b"\x01\xc0\0\2\7")
    table = rules(f"*.a=socks5://{at(plain)}", "*:25=block:no mail", f"*.c=limit:64K+socks5://{at(plain)}")
    default = kinds.parse(f"tor://{at(tor)}")
    with Rig(tmp_path, default, lane=lane, rules=table) as rig:
        rig.ready()
        tors = Capability.RESOLVE | Capability.PROOF | Capability.EARLY
        assert rig.hello[3:] == ["tor", int(tors | Capability.ROUTES)]
        assert echoes(rig, 1, "x.a")
        assert rig.rate == 0
        assert echoes(rig, 2, "x.b")
        assert echoes(rig, 3, "x.c")
        assert rig.rate == (65536 if lane else 0), (
            "the netstack is told to keep it; elsewhere the worker does"
        )
        assert [request.address for request in plain.requests] == [b"x.a", b"x.c"]
        assert [request.address for request in tor.requests] == [b"x.b"]
        blocked = (Code.BLOCKED, Verdict.PROHIBITED, "rule 2: blocked by a rule: no mail")
        assert refused(rig, 4, "mail.test", 25) == blocked
        assert rig.log()[1:] == ["blocked", {"rule": 2, "name": "*:25=block:no mail"}]
        # The verdict is of the kind that was asked: Tor's 02 is another one than a plain server's.
        plain.reply = tor.reply = reply_bytes(2)
        assert refused(rig, 5, "x.a")[:2] == (2, Verdict.PROHIBITED)
        assert refused(rig, 6, "x.b")[:2] == (2, Verdict.NETWORK_UNREACHABLE)
        assert [asked(rig, 7 + n, name) for n, name in enumerate(("x.a", "x.b"))] == [
            Code.BY_NAME,
            Code.SUCCEEDED,
        ]
        assert asked(rig, 9, "x.b", ResolveKind.ADDRESS) == Code.SUCCEEDED
        assert asked(rig, 10, "x.a", ResolveKind.ADDRESS) == Code.BY_NAME, "it is not Tor's to resolve"
        assert [request.address for request in tor.requests if request.command == RESOLVE] == [b"x.b"]


def test_a_flow_keeps_the_half_close_of_its_own_upstream(tmp_path: Path, servers: list[SocksServer]) -> None:
    """And the ends of another one's need no proof of Tor."""
    plain, tor = servers
    plain.stream = _answers_the_end
    table = rules(f"*.a=socks5://{at(plain)}")
    with Rig(tmp_path, kinds.parse(f"tor://{at(tor)}"), lane=True, rules=table) as rig:
        rig.ready()
        rig.open(1, "x.a")
        rig.send(messages.SHUT, 1)
        assert rig.collect(1) == (b"seen", [messages.SHUT, 1])
        # Tor: an end of its is asked about, and shown to be the server's.
        rig.open(2, "x.b")
        tor.hang_up()
        assert rig.next_of(2)[0] == [messages.RESET, 2, Code.UPSTREAM_DOWN]


def _answers_the_end(sock: socket.socket, _host: str) -> None:
    assert sock.recv(1) == b""
    sock.sendall(b"seen")


def test_a_list_refuses_names(tmp_path: Path, servers: list[SocksServer], lane: bool) -> None:
    names = tmp_path / "list"
    names.write_text("0.0.0.0 ads.example\n")
    spec = kinds.parse(f"hosts:{names}+socks5://{at(servers[0])}")
    with Rig(tmp_path, spec, lane=lane) as rig:
        rig.ready()
        assert rig.hello[3:] == ["hosts+socks5", int(Capability.HALF_CLOSE | Capability.ROUTES)]
        assert rig.log()[1:] == ["blocklist", {"entries": 1, "lines-skipped": 0}]
        assert refused(rig, 1, "ads.example") == (Code.BLOCKED, Verdict.PROHIBITED, "on the blocklist")
        assert rig.log()[1:] == ["blocked", {"why": "on the blocklist", "host": "ads.example"}]
        assert [asked(rig, n, name) for n, name in ((2, "ads.example"), (3, "x.example"))] == [
            Code.BLOCKED,
            0,
        ]
        assert echoes(rig, 4, "x.example")


def test_a_list_that_is_gone_ends_the_worker_with_a_reason(tmp_path: Path) -> None:
    spec = UpstreamSpec("hosts", argument=str(tmp_path / "none"), inner=UpstreamSpec("block"))
    with Rig(tmp_path, spec, greet=False) as rig:
        verb, problem, _cure = rig.control_message()
        assert verb == "failed"
        assert "cannot read the blocklist" in problem
        assert rig.wait() == 0


def test_the_pages(tmp_path: Path, lane: bool) -> None:
    with Rig(tmp_path, UpstreamSpec("block"), lane=lane) as rig:
        rig.ready()
        rig.open(1, "avne.internal")
        rig.send(messages.DATA, 1, payload=b"GET /status.json HTTP/1.1\r\nHost: avne.internal\r\n\r\n")
        data, end = rig.collect(1)
        assert data.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b'"environment": "abc123"' in data
        assert end[0] == messages.SHUT
        assert refused(rig, 2, "avne.internal", 443)[:2] == (Code.CONNECTION_REFUSED, Verdict.REFUSED)
        assert refused(rig, 3, "host.test")[0] == Code.BLOCKED
        assert asked(rig, 4, "host.test") == Code.BLOCKED


def test_a_chain_on_the_loop_and_an_upstream_of_a_rule_that_is_down(
    tmp_path: Path, servers: list[SocksServer], lane: bool
) -> None:
    """The far proxy speaks HTTP: the near one's server plays its part."""
    near = servers[0]

    def http(sock: socket.socket, _host: str) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += sock.recv(1)
        good = head.startswith(b"CONNECT good.test:80 ")
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\nhello" if good else b"HTTP/1.1 403 No\r\n\r\n")
        while sock.recv(4096):
            pass

    near.stream = http
    spec = kinds.parse(f"http://proxy.test:3128 over socks5://{at(near)}")
    with socket.create_server(("127.0.0.1", 0)) as gone:
        nowhere = f"127.0.0.1:{gone.getsockname()[1]}"
    with Rig(tmp_path, spec, lane=lane, rules=rules(f"*.down=socks5://{nowhere}")) as rig:
        rig.ready()
        assert rig.log() == ["warning", "upstream-down", {"upstream": "socks5", "why": "Connection refused"}]
        rig.open(1, "good.test")
        assert rig.receive(messages.DATA, 1)[1] == b"hello"
        assert refused(rig, 2, "bad.test")[:2] == (code_of(403), Verdict.PROHIBITED)
        assert refused(rig, 3, "x.down")[:2] == (Code.UPSTREAM_DOWN, Verdict.REFUSED)
        near.reply = reply_bytes(5)
        assert refused(rig, 4, "good.test")[:2] == (Code.UPSTREAM_DOWN, Verdict.REFUSED)
        assert {request.address for request in near.requests} == {b"proxy.test"}


def test_openings_of_many_upstreams_at_once(tmp_path: Path, servers: list[SocksServer]) -> None:
    """Each has negotiations of its own; given up ones say nothing."""
    gate = servers[0].gate = servers[1].gate = threading.Event()
    table = rules(f"*.a=socks5://{at(servers[0])}")
    with Rig(tmp_path, kinds.parse(f"log+socks5://{at(servers[1])}"), lane=True, rules=table) as rig:
        rig.ready()
        for flow in range(1, 9):
            rig.send(messages.OPEN, flow, "x.a" if flow % 2 else "x.b", 80, CREDIT_MAX, "")
        rig.send(messages.RESET, 3, 0)
        rig.drained(3)
        gate.set()
        for flow in (1, 2, 4, 5, 6, 7, 8):
            rig.receive(messages.OPENED, flow)
        seen = [rig.log()[2] for _ in range(4)]
        assert {"host": "x.b", "port": 80, "result": "opened"} in seen
        assert {fields["host"] for fields in seen} == {"x.b"}
