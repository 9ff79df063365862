# SPDX-License-Identifier: GPL-3.0-or-later
"""SOCKS4A, HTTP CONNECT and chains: what is said, byte by byte, and against real servers on loopback."""

from __future__ import annotations

import base64
import contextlib
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avne.ipc.messages import Code
from avne.upstream.base import Attempt, Negotiation, OpenError
from avne.upstream.http import MAX_HEAD, Connect, authority, code_of
from avne.upstream.kinds import make, parse
from avne.upstream.proxy import PEEK, Chain
from avne.upstream.socks4a import REPLY_BASE, Request
from avne.upstream.socks5 import COMMAND_CONNECT, Dialogue
from avne.upstream.spec import UpstreamSpec
from tests.upstream.socks_server import SocksServer, reply_bytes

ANONYMOUS = UpstreamSpec("socks5", ("h", 1))


def converse(negotiation: Negotiation, script: bytes, step: int) -> tuple[bytes, bytes]:
    """Feed `script`, peeked at in pieces of `step`, as the loop does; what was said, and what was left."""
    said = negotiation.output
    at = 0
    while not negotiation.done:
        data = script[at : at + step]
        taken = negotiation.receive(data)
        assert 0 <= taken <= len(data)
        if not taken and data:
            step += 1  # it wants to see more at once
        at += taken
        said += negotiation.output
    return said, script[at:]


STEPS = [1, 2, 3, 7, PEEK]


# ---- SOCKS4A ---------------------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
def test_socks4a_sends_names_and_addresses(step: int) -> None:
    good = b"\0\x5a\1\2\3\4\5\6rest"
    me = UpstreamSpec("socks4a", ("h", 1), "me")
    said = b"\4\1\0\x50\0\0\0\1me\0" + b"n" * 63 + b".example\0"
    assert converse(Request(me, "n" * 63 + ".example", 80), good, step) == (said, b"rest")
    said = b"\4\1\1\xbb\xc6\x33\x64\x07\0"
    assert converse(Request(ANONYMOUS, "198.51.100.7", 443), good, step) == (said, b"rest")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"\0\x5b" + bytes(6), REPLY_BASE + 0x5B), (b"\0\x5d" + bytes(6), REPLY_BASE + 0x5D),
        (b"\0\x99" + bytes(6), REPLY_BASE + 0x99), (b"\5\0" + bytes(6), Code.UPSTREAM_PROTOCOL),
        (b"", Code.UPSTREAM_DOWN), (b"\0\x5a\0", Code.UPSTREAM_DOWN),
    ],
)  # fmt: skip
def test_socks4a_s_refusals(answer: bytes, code: int, step: int) -> None:
    with pytest.raises(OpenError) as caught:
        converse(Request(ANONYMOUS, "host.test", 80), answer, step)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("2001:db8::1", Code.ADDRESS_TYPE_NOT_SUPPORTED), ("127.1", Code.BAD_NAME), ("0x7f000001",
        Code.BAD_NAME), ("1", Code.BAD_NAME), ("", Code.BAD_NAME), ("a..b", Code.BAD_NAME), ("x" * 64,
        Code.BAD_NAME), ("a b", Code.BAD_NAME), ("a\0b", Code.BAD_NAME), ("é", Code.BAD_NAME), ("a." * 128,
        Code.BAD_NAME),
    ],
)  # fmt: skip
def test_what_socks4a_cannot_carry(host: str, code: int) -> None:
    with pytest.raises(OpenError) as caught:
        Request(ANONYMOUS, host, 80)
    assert caught.value.code == code


# ---- HTTP ------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 Connection established\r\n\r\n", b"HTTP/1.0 200\r\n\r\n", b"HTTP/1.1 204 \n\n",
        b"HTTP/1.1 200 OK\r\nVia: x\r\nContent-Length: 4\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ],
)  # fmt: skip
def test_http_takes_the_answer_to_its_end_and_no_byte_more(answer: bytes, step: int) -> None:
    spec = UpstreamSpec("http", ("h", 1), "user", "pass:word")
    said, rest = converse(Connect(spec, "host.test", 443), answer + b"\r\nrest", step)
    assert rest == b"\r\nrest"
    lines = said.decode().split("\r\n")
    assert lines[:2] == ["CONNECT host.test:443 HTTP/1.1", "Host: host.test:443"]
    assert lines[2] == f"Proxy-Authorization: Basic {base64.b64encode(b'user:pass:word').decode()}"
    assert lines[3:] == ["", ""]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", code_of(403)), (b"HTTP/1.1 407 x\r\n\r\n", Code.UPSTREAM_AUTH),
        (b"HTTP/1.1 502 \r\nA: b\r\n\r\nbody", code_of(502)), (b"HTTP/1.1 302 Found\r\n\r\n", code_of(302)),
        (b"HTTP/1.1 101 Switching\r\n\r\n", code_of(101)), (b"SSH-2.0-OpenSSH\r\n", Code.UPSTREAM_PROTOCOL),
        (b"HTTP/2 200\r\n\r\n", Code.UPSTREAM_PROTOCOL), (b"HTTP/1.1 2000\r\n\r\n", Code.UPSTREAM_PROTOCOL),
        (b"HTTP/1.1 099 x\r\n\r\n", Code.UPSTREAM_PROTOCOL), (b"", Code.UPSTREAM_DOWN),
        (b"HTTP/1.1 200 OK\r\n", Code.UPSTREAM_DOWN), (b"HTTP/1.1 100 x\r\n\r\n" * 20,
        Code.UPSTREAM_PROTOCOL),
    ],
)  # fmt: skip
def test_http_s_refusals(answer: bytes, code: int, step: int) -> None:
    with pytest.raises(OpenError) as caught:
        converse(Connect(ANONYMOUS, "host.test", 80), answer, step)
    assert caught.value.code == code


def test_a_header_without_an_end_is_bounded() -> None:
    with pytest.raises(OpenError) as caught:
        converse(Connect(ANONYMOUS, "h", 80), b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * MAX_HEAD, PEEK)
    assert caught.value.code == Code.UPSTREAM_PROTOCOL


@given(
    st.binary(max_size=80).map(lambda tail: b"HTTP/1.1 2" + tail) | st.binary(max_size=80), st.integers(1, 80)
)
def test_http_s_answer_means_the_same_however_it_comes(data: bytes, step: int) -> None:
    def outcome(step: int) -> object:
        try:
            return converse(Connect(ANONYMOUS, "h", 80), data, step)
        except OpenError as error:
            return error.code

    assert outcome(step) == outcome(PEEK)


def test_http_targets() -> None:
    assert authority("2001:db8::1", 80) == "[2001:db8::1]:80"
    assert authority("a_b.example", 1) == "a_b.example:1"
    for bad in ("", "a b", "a\r\nb", "a/b", "a@b", "é", "x" * 256):
        with pytest.raises(OpenError) as caught:
            Connect(ANONYMOUS, bad, 80)
        assert caught.value.code == Code.BAD_NAME


# ---- chains ----------------------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
def test_a_chain_speaks_to_one_after_the_other(step: int) -> None:
    def chain() -> Chain:
        first = Dialogue(ANONYMOUS, COMMAND_CONNECT, "proxy.test", 8080)
        return Chain(first, Connect(ANONYMOUS, "host.test", 443))

    socks = b"\5\0" + reply_bytes(0)
    said, rest = converse(chain(), socks + b"HTTP/1.1 200 OK\r\n\r\nrest", step)
    assert rest == b"rest"
    assert said.startswith(b"\5\1\0\5\1\0\3\x0aproxy.test\x1f\x90CONNECT host.test:443 HTTP/1.1\r\n")
    # What the first one says is about the proxy; what the second one says, about the destination.
    for answer, code in (
        (b"\5\0" + reply_bytes(5), Code.UPSTREAM_DOWN),
        (socks + b"HTTP/1.1 502 x\r\n\r\n", code_of(502)),
        (socks, Code.UPSTREAM_DOWN),
    ):
        with pytest.raises(OpenError) as caught:
            converse(chain(), answer, step)
        assert caught.value.code == code


# ---- against servers -------------------------------------------------------------------------


class Relays:
    """A SOCKS5 server that connects to where it is asked to."""

    def __enter__(self) -> SocksServer:
        def stream(sock: socket.socket, host: str) -> None:
            with socket.create_connection((host, self.server.requests[-1].port)) as far:
                copy = threading.Thread(target=_copy, args=(far, sock))
                copy.start()
                _copy(sock, far)
                copy.join()

        self.server = SocksServer(stream=stream)
        return self.server

    def __exit__(self, *_: object) -> None:
        self.server.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def destination() -> Iterator[tuple[str, int]]:
    """An echo server, as SOCKS servers of the tests are once they are asked."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def echo(sock: socket.socket) -> None:
            with sock:
                _copy(sock, sock)

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    sock, _ = listener.accept()
                    threading.Thread(target=echo, args=(sock,), daemon=True).start()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def echoes(sock: socket.socket) -> bool:
    with sock:
        sock.settimeout(10)
        sock.sendall(b"ping")
        return sock.recv(4) == b"ping"


@pytest.mark.parametrize("split", [False, True])
def test_a_proxy_behind_a_proxy(destination: tuple[str, int], split: bool) -> None:
    with Relays() as inner, Relays() as outer:
        inner.split = outer.split = split
        inner.credentials = b"u", b"p"
        outside, within = (f"127.0.0.1:{server.address[1]}" for server in (outer, inner))
        upstream = make(parse(f"socks5://u:p@{within} over socks5://{outside}"), {})
        upstream.check()
        assert echoes(upstream.open(*destination, Attempt()))
        assert [request.port for request in outer.requests] == [inner.address[1]]
        assert [request.port for request in inner.requests] == [destination[1]]
        assert upstream.dialogue(*destination) is not None
        wrong = make(parse(f"socks5://u:q@{within} over socks5://{outside}"), {})
        with pytest.raises(OpenError) as caught:
            wrong.open(*destination, Attempt())
        assert caught.value.code == Code.UPSTREAM_AUTH
        outer.reply = reply_bytes(4)
        with pytest.raises(OpenError) as caught:
            upstream.open(*destination, Attempt())
        assert caught.value.code == Code.UPSTREAM_DOWN, "not that the destination cannot be reached"


@pytest.fixture
def tinyproxy(tmp_path: Path) -> Iterator[int]:
    """Debian's, with a user name and a password; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = tmp_path / "tinyproxy.conf"
    config.write_text(
        f"Port {port}\nListen 127.0.0.1\nTimeout 20\nMaxClients 10\nBasicAuth user word\nLogLevel Critical\n"
        f'LogFile "{tmp_path}/log"\nPidFile "{tmp_path}/pid"\n'
    )
    program = shutil.which("tinyproxy")
    assert program, "scripts/deps installs tinyproxy-bin"
    with subprocess.Popen([program, "-d", "-c", str(config)], stdout=subprocess.DEVNULL) as process:
        while True:
            assert process.poll() is None
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
        yield port
        process.terminate()


def test_against_tinyproxy(tinyproxy: int, destination: tuple[str, int]) -> None:
    upstream = make(parse(f"http://user:word@127.0.0.1:{tinyproxy}"), {})
    upstream.check()
    assert echoes(upstream.open(*destination, Attempt()))
    with socket.create_server(("127.0.0.1", 0)) as gone:
        refused = gone.getsockname()
    for spec, place, code in (
        (f"http://user:word@127.0.0.1:{tinyproxy}", refused, code_of(500)),
        (f"http://user:wrong@127.0.0.1:{tinyproxy}", destination, code_of(401)),
        (f"http://127.0.0.1:{tinyproxy}", destination, Code.UPSTREAM_AUTH),
        ("http://127.0.0.1:1", destination, Code.UPSTREAM_DOWN),
    ):
        with pytest.raises(OpenError) as caught:
            make(parse(spec), {}).open(*place, Attempt())
        assert caught.value.code == code, caught.value.detail
