# SPDX-License-Identifier: GPL-3.0-or-later
"""hosts, log, limit; direct; and the environment's own pages, all without a worker."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import select
import socket
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avne.errors import AvneError
from avne.ipc.messages import Code
from avne.ipc.verdict import Verdict
from avne.upstream import direct
from avne.upstream.base import Attempt, OpenError
from avne.upstream.hosts import Blocklist
from avne.upstream.kinds import make, parse
from avne.upstream.limit import parse_rate
from avne.upstream.log import LogFilter
from avne.upstream.pages import MAX_REQUEST, Page, Pages
from avne.upstream.services import MAX_SERVED, PATIENCE, Services
from avne.upstream.spec import UpstreamSpec

FACTS = {"avne": "1.2", "environment": 'a"\\\n\x7fé', "upstream": "tor", "open": ["<the desktop>", "&"]}


# ---- hosts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "listed", "free"),
    [
        (
            b"0.0.0.0 ads.example",
            ["ads.example", "ADS.example."],
            ["x.ads.example", "example", "ads.example.org"],
        ),
        (b"127.0.0.1\ta.b c.d # e.f", ["a.b", "c.d"], ["e.f"]),
        (b"::1 localhost a.b\r\n", ["a.b"], ["localhost"]),
        (b"ads.example", ["ads.example", "x.ads.example", "y.x.ads.example"], ["example", "xads.example"]),
        (b"*.ads.example", ["x.ads.example", "ads.example"], []),
        (b"192.0.2.7", ["192.0.2.7"], ["192.0.2.8"]),
        (b"2001:db8::7", ["2001:db8::7"], []),
        (b"192.168.1.5 nas", [], ["nas", "192.168.1.5"]),
        (b"||ads.example^", [], ["ads.example"]),
        (b"# a.b", [], ["a.b"]),
        (b"com", [], ["x.com"]),
    ],
)
def test_what_a_line_lists(line: bytes, listed: list[str], free: list[str]) -> None:
    found = Blocklist([line])
    assert all(found.lists(name) for name in listed)
    assert not any(found.lists(name) for name in free)
    assert found.skipped == (not listed and not line.startswith(b"#"))


@given(st.lists(st.binary(max_size=40), max_size=5), st.text(max_size=20))
def test_any_file_is_a_list(lines: list[bytes], name: str) -> None:
    Blocklist(lines).lists(name)


def test_a_large_list_is_read_quickly_and_kept_small() -> None:
    """200,000 names: 8 bytes each, and looked up without a copy of any."""
    some = random.Random(1)
    names = [f"{some.getrandbits(48):x}.example".encode() for _ in range(200_000)]
    lines = [b"0.0.0.0 %s\n" % name for name in names]
    before = time.process_time()
    found = Blocklist(lines)
    assert time.process_time() - before < 3.0  # some 0.3 s on an idle machine
    tracemalloc.start()
    again = Blocklist(lines[:100_000])
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(again) == 100_000
    assert kept < 2_000_000
    assert all(found.lists(name.decode()) for name in names[::997])
    assert not any(found.lists(f"x{name.decode()}") for name in names[::997])


def test_the_filter_refuses_names_and_connections(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text("0.0.0.0 ads.example\nx.test\n")
    hosts = make(parse(f"hosts:{path}+block:behind"), {})
    logs: list[Any] = []
    hosts.begin(lambda *event: logs.append(event), {})
    assert hosts.judges_names
    for ask in (
        lambda: hosts.dialogue("ads.example", 80),
        lambda: hosts.admit_name("a.x.test"),
        lambda: hosts.service("ads.example", 80),
        lambda: hosts.open("x.test", 80, Attempt()),
    ):
        with pytest.raises(OpenError, match="on the blocklist") as caught:
            ask()
        assert caught.value.code == Code.BLOCKED
    with pytest.raises(OpenError, match="behind"):
        hosts.admit_name("free.example")
    assert logs == [
        ("info", "blocklist", {"entries": 2, "lines-skipped": 0}),
        ("info", "blocked", {"why": "on the blocklist", "host": "ads.example"}),
    ]
    path.write_text("# nothing\n")
    with pytest.raises(AvneError, match="lists nothing"):
        make(parse(f"hosts:{path}+tor"), {})


# ---- log and limit ---------------------------------------------------------------------------


@pytest.mark.parametrize("names", [False, True])
def test_the_log_of_connections(tmp_path: Path, names: bool) -> None:
    path = tmp_path / "log"
    filtered = make(parse(f"log:{path}+log+tor"), {})
    logs: list[Any] = []
    filtered.begin(lambda *event: logs.append(event), {"log_names": names})
    filtered.opened("host.test", 80, None)
    filtered.opened("host.test", 81, OpenError(Code.CONNECTION_REFUSED, "connection refused"))
    assert logs == [
        ("info", "connection", {"host": "host.test", "port": 80, "result": "opened"}),
        ("info", "connection",
         {"host": "host.test", "port": 81, "result": "refused 0x0005 connection refused"}),
    ]  # fmt: skip
    lines = path.read_text().splitlines()
    assert ["host.test" in line for line in lines] == [names, names]
    assert lines[0].endswith(" 80 opened")
    assert path.stat().st_mode & 0o777 == 0o600
    assert isinstance(filtered, LogFilter)
    os.close(filtered._fd)


def test_a_log_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("elsewhere")
    os.mkfifo(tmp_path / "fifo")
    for name in ("", "link", "fifo", "no/dir"):
        with pytest.raises(AvneError, match="the log"):
            make(parse(f"log:{tmp_path}/{name}+tor"), {})


def test_rates() -> None:
    assert [parse_rate(text) for text in ("1024", "1K", "2m", "1G")] == [1024, 1024, 2 << 20, 1 << 30]
    for text in ("", "K", "1.5M", "-1K", "1KB", "1000", "9" * 13 + "G", " 1K"):
        with pytest.raises(ValueError):
            parse_rate(text)


# ---- direct ----------------------------------------------------------------------------------


def refusal(host: str, port: int) -> int:
    with pytest.raises(OpenError) as caught:
        make(UpstreamSpec("direct"), {}).open(host, port, Attempt())
    return caught.value.code


def test_this_machine_stays_out_of_reach_of_direct(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("", 0)) as listener:
        port = listener.getsockname()[1]
        addresses = ["127.0.0.1", "127.1.2.3", "localhost", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1"]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
            probe.connect(("192.0.2.1", 9))  # nothing is sent
            addresses.append(probe.getsockname()[0])
        for address in addresses:
            assert refusal(address, port) in (Code.BLOCKED, Code.HOST_UNREACHABLE), address
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert refusal("x" * 56 + ".onion", 80) == Code.BLOCKED
    assert refusal("a..b", 80) == Code.HOST_UNREACHABLE


def test_direct_says_what_the_kernel_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "_is_ours", lambda *_: False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        with make(UpstreamSpec("direct"), {}).open(*address, Attempt()) as sock, listener.accept()[0] as far:
            far.sendall(b"hello")
            sock.setblocking(True)
            assert sock.recv(5) == b"hello"
    assert refusal(*address) == direct.ERRNO_BASE + errno.ECONNREFUSED
    upstream = make(UpstreamSpec("direct"), {})
    assert upstream.verdict(direct.ERRNO_BASE + errno.ECONNREFUSED) is Verdict.REFUSED
    assert upstream.verdict(direct.ERRNO_BASE + errno.ENETUNREACH) is Verdict.NETWORK_UNREACHABLE
    assert upstream.verdict(direct.ERRNO_BASE + errno.ETIMEDOUT) is Verdict.SILENCE


# ---- pages -----------------------------------------------------------------------------------


def ask(request: bytes, step: int = 1 << 20) -> tuple[int, dict[str, str], str]:
    page = Page(FACTS)
    answer = b""
    for at in range(0, len(request), step):
        assert not page.done
        answer += page.receive(request[at : at + step])
        if page.done:
            break
    if not page.done:
        answer += page.receive(b"")
    assert page.done
    head, _, body = answer.decode().partition("\r\n\r\n")
    first, *rest = head.split("\r\n")
    return int((first or "x 0").split(" ")[1]), dict(line.split(": ", 1) for line in rest), body


GET = b"GET %s HTTP/1.1\r\nHost: avne.internal\r\nAccept: %s\r\n\r\n"


@pytest.mark.parametrize("step", [1, 5, 1 << 20])
def test_the_pages(step: int) -> None:
    status, fields, body = ask(GET % (b"/", b"*/*"), step)
    assert (status, fields["Content-Type"]) == (200, "text/plain; charset=utf-8")
    assert "é" in body
    assert int(fields["Content-Length"]) == len(body.encode())
    status, fields, body = ask(GET % (b"/", b"text/html,*/*"), step)
    assert (status, fields["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "&lt;the desktop>" in body
    assert fields["Cache-Control"] == "no-store"
    assert fields["Content-Security-Policy"].startswith("default-src 'none'")
    status, _, body = ask(GET % (b"/status.json?x", b"*/*"), step)
    assert status == 200
    assert json.loads(body) == FACTS
    assert ask(b"GET http://avne.internal/ HTTP/1.0\r\nhost: AVNE.internal:80\n\n", step)[0] == 200
    status, fields, body = ask(b"HEAD / HTTP/1.1\r\nHost: avne.internal\r\n\r\n", step)
    assert (status, body) == (200, "")
    assert int(fields["Content-Length"]) > 0


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (GET % (b"/none", b"*/*"), 404), (b"POST / HTTP/1.1\r\nHost: avne.internal\r\n\r\n", 405),
        (b"GET / HTTP/1.1\r\n\r\n", 421), (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
        (b"GET / HTTP/1.1\r\nHost: avne.internal\r\nHost: x\r\n\r\n", 421), (b"x\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\n\r\n", 400), (b"GET / HTTP/2\r\n\r\n", 400), (b"\x16\x03\x01\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * MAX_REQUEST, 431), (b"GET / HT", 0), (b"", 0),
    ],
)  # fmt: skip
def test_what_the_pages_refuse(request_: bytes, status: int) -> None:
    assert ask(request_, 1000)[0] == status


@given(st.binary(max_size=60), st.integers(1, 60))
def test_any_request_gets_an_answer_or_an_end(data: bytes, step: int) -> None:
    assert ask(data, step)[0] in (0, 200, 400, 404, 405, 421)


def test_what_the_pages_are_told() -> None:
    pages = make(UpstreamSpec("pages"), {})
    about = {
        "version": "1.2",
        "session": FACTS["environment"],
        "upstream": "tor",
        "open": FACTS["open"],
        "log_names": 1,
    }
    pages.begin(lambda *_: None, about)
    assert isinstance(pages, Pages)
    service = pages.service("avne.internal", 80)
    assert service._facts == FACTS
    with pytest.raises(OpenError) as caught:
        pages.service("avne.internal", 443)
    assert caught.value.code == Code.CONNECTION_REFUSED


class Serving:
    """The loop, as far as services go."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.closing: list[socket.socket] = []
        self.services = Services(self.epoll, self.closing)

    def turn(self) -> None:
        for fd, _ in self.epoll.poll(0):
            assert self.services.on_event(fd)
        for sock in self.closing:
            sock.close()
        self.closing.clear()


def test_connections_that_the_worker_answers() -> None:
    loop = Serving()
    assert not loop.services.on_event(0)
    assert loop.services.poll_at() == float("inf")
    with loop.services.start(Page(FACTS)) as asks, loop.services.start(Page(FACTS)) as leaves:
        asks.send(b"GET / HTTP/1.1\r\n")
        loop.turn()
        asks.send(b"Host: avne.internal\r\n\r\n")
        leaves.close()
        loop.turn()
        asks.setblocking(True)
        asks.settimeout(10)
        assert asks.makefile("rb").read().startswith(b"HTTP/1.1 200 OK\r\n")
    assert loop.services.poll_at() == float("inf")
    idle = [loop.services.start(Page(FACTS)) for _ in range(MAX_SERVED)]
    with pytest.raises(OpenError):
        loop.services.start(Page(FACTS))
    loop.services.handle_timer(time.monotonic() + PATIENCE - 1)
    assert not loop.closing
    loop.services.handle_timer(time.monotonic() + PATIENCE + 1)
    assert len(loop.closing) == MAX_SERVED
    loop.turn()
    for sock in idle:
        assert sock.recv(1) == b""
        sock.close()
    loop.epoll.close()
