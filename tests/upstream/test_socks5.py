# SPDX-License-Identifier: GPL-3.0-or-later
"""SOCKS5 and Tor's extensions on the wire, against a server that says what the test wants."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import socks

from avne.ipc.messages import Code, ResolveKind
from avne.upstream import proxy as proxies
from avne.upstream.base import Attempt, OpenError, Upstream
from avne.upstream.socks5 import Socks5, encode_address
from avne.upstream.spec import UpstreamSpec
from avne.upstream.tor import Tor
from tests.upstream.socks_server import RESOLVE, RESOLVE_PTR, SocksServer, reply_bytes

IPV6 = b"\x04" + bytes(16)


@pytest.fixture
def server() -> Iterator[SocksServer]:
    with SocksServer() as server:
        yield server


def upstream(server: SocksServer, **credentials: str) -> Socks5:
    return Socks5(UpstreamSpec("socks5", server.address, **credentials))


def tor(server: SocksServer) -> Tor:
    return Tor(UpstreamSpec("tor", server.address, "avne-run", "token"))


def failure(action: Callable[[], object]) -> OpenError:
    with pytest.raises(OpenError) as caught:
        action()
    return caught.value


def echoes(sock: socket.socket) -> bool:
    assert sock.gettimeout() == 0
    with sock:
        sock.settimeout(10)
        sock.sendall(b"ping")
        return sock.recv(4) == b"ping"


def test_pysocks_is_the_one_whose_insides_are_known() -> None:
    assert socks.__version__ == "1.7.1"


@pytest.mark.parametrize(
    ("host", "atyp", "address"),
    [
        ("example.org", 3, b"example.org"),
        ("198.51.100.7", 1, bytes((198, 51, 100, 7))),
        ("2001:db8::7", 4, socket.inet_pton(socket.AF_INET6, "2001:db8::7")),
        ("127.1", 3, b"127.1"),
        ("_srv._tcp.example.", 3, b"_srv._tcp.example."),
        ("x" * 64 + ".org", 3, b"x" * 64 + b".org"),  # PySocks' IDNA would refuse the label
        ("xn--bcher-kva.example", 3, b"xn--bcher-kva.example"),
        *(("n" * size, 3, b"n" * size) for size in (1, 127, 128, 194, 253, 255)),
    ],
)
@pytest.mark.parametrize("split", [False, True])
def test_destinations_on_the_wire(
    server: SocksServer, host: str, atyp: int, address: bytes, split: bool
) -> None:
    server.split = split
    assert echoes(upstream(server).open(host, 443, Attempt()))
    (request,) = server.requests
    assert request[:4] == (1, atyp, address, 443)


@pytest.mark.parametrize("host", ["", "n" * 256, "é.org", "a b", "a\0b", "a\nb", "\x7f", "fe80::1%lo é"])
def test_names_that_no_request_can_carry(server: SocksServer, host: str) -> None:
    assert failure(lambda: upstream(server).open(host, 80, Attempt())).code == Code.BAD_NAME
    assert server.greetings == 0


def test_nothing_is_resolved_locally(server: SocksServer, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def only_the_proxy(host: str, *rest: object, **named: object) -> object:
        assert host == "127.0.0.1"
        return real(host, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", only_the_proxy)
    assert echoes(upstream(server).open("localhost", 80, Attempt()))


@pytest.mark.parametrize("code", [*range(1, 10), 0x7F, 0x80, *range(0xF0, 0xF8), 0xFF])
def test_reply_codes_are_numbers(server: SocksServer, code: int) -> None:
    server.reply = reply_bytes(code)
    error = failure(lambda: upstream(server).open("secret.example", 80, Attempt()))
    assert error.code == code
    assert error.detail == {0x01: "general failure", 0xF6: "onion bad address", 0x7F: "reply 0x7f"}.get(
        code, error.detail
    )
    assert "secret" not in error.detail


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("address", [b"\x01\0\0\0\0", IPV6, b"\x03\x04name"])
def test_bytes_after_the_reply_belong_to_the_stream(server: SocksServer, address: bytes, split: bool) -> None:
    server.reply = reply_bytes(0, address)
    server.trailing = b"\x05\x00 early bytes"
    server.split = split
    server.stream = lambda sock, host: None
    with upstream(server).open("h", 80, Attempt()) as sock:
        sock.settimeout(10)
        data = b""
        while more := sock.recv(100):
            data += more
    assert data == server.trailing


def test_a_unix_socket_and_its_reply_of_type_4(tmp_path: Path) -> None:
    with SocksServer(str(tmp_path / "socks")) as server:
        server.reply = reply_bytes(0, IPV6)
        assert echoes(upstream(server).open("host", 1, Attempt()))
        tor(server).check()


def test_credentials_reach_the_server(server: SocksServer) -> None:
    name, word = "é" * 63, "p" * 127
    server.credentials = name.encode(), word.encode()
    assert echoes(upstream(server, username=name, password=word).open("h", 80, Attempt()))
    assert server.requests[0].methods == b"\x00\x02"
    upstream(server, username=name, password=word).check()


def test_refused_credentials(server: SocksServer) -> None:
    server.credentials = b"user", b"right"
    wrong = upstream(server, username="user", password="wrong")
    assert failure(lambda: wrong.open("h", 80, Attempt())).code == Code.UPSTREAM_AUTH


def test_missing_credentials(server: SocksServer) -> None:
    server.credentials = b"user", b"right"
    assert failure(lambda: upstream(server).open("h", 80, Attempt())).code == Code.UPSTREAM_AUTH
    assert failure(upstream(server).check).code == Code.UPSTREAM_AUTH


def test_credentials_that_nobody_asked_for_are_not_sent(server: SocksServer) -> None:
    server.method = b"\x05\x00"
    assert echoes(upstream(server, username="u", password="p").open("h", 80, Attempt()))
    assert server.requests[0].username is None


@pytest.mark.parametrize(
    ("method", "code"),
    [
        (b"HT", Code.UPSTREAM_PROTOCOL),
        (b"\x04\x00", Code.UPSTREAM_PROTOCOL),
        (b"\x05\x07", Code.UPSTREAM_PROTOCOL),
    ],
)
def test_what_does_not_speak_socks5(server: SocksServer, method: bytes, code: Code) -> None:
    server.method = method
    assert failure(lambda: upstream(server).open("h", 80, Attempt())).code == code
    assert failure(upstream(server).check).code == code


@pytest.mark.parametrize("reply", [b"\x04\0\0\x01" + bytes(6), b"\x05\0\0\x09" + bytes(6)])
def test_a_reply_that_is_none(server: SocksServer, reply: bytes) -> None:
    server.reply = reply
    assert failure(lambda: upstream(server).open("h", 80, Attempt())).code == Code.UPSTREAM_PROTOCOL


def test_an_answer_to_the_credentials_that_is_none(server: SocksServer) -> None:
    server.method, server.auth_reply = b"\x05\x02", b"\x05\x00"
    named = upstream(server, username="u", password="p")
    assert failure(lambda: named.open("h", 80, Attempt())).code == Code.UPSTREAM_PROTOCOL


@pytest.mark.parametrize("reply", [b"", b"\x05", b"\x05\0\0\x01\0\0"])
def test_a_proxy_that_goes_in_mid_negotiation_is_down(server: SocksServer, reply: bytes) -> None:
    server.reply = reply or b"\x05\0\0"
    server.stream = lambda sock, host: None
    assert failure(lambda: upstream(server).open("h", 80, Attempt())).code == Code.UPSTREAM_DOWN


def test_a_proxy_that_closes_at_the_greeting(server: SocksServer) -> None:
    server.method = b""
    server.credentials = b"u", b"p"
    server.close()
    assert failure(upstream(server).check).code == Code.UPSTREAM_DOWN


def _silent() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def test_silence_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxies, "REPLY_TIMEOUT", 0.1)
    monkeypatch.setattr(proxies, "CHECK_TIMEOUT", 0.1)
    with _silent() as silent:
        proxy = Socks5(UpstreamSpec("socks5", silent.getsockname()))
        assert failure(lambda: proxy.open("h", 80, Attempt())).code == Code.UPSTREAM_TIMEOUT
        assert failure(proxy.check).code == Code.UPSTREAM_TIMEOUT


def test_an_end_at_the_greeting_and_a_reset() -> None:
    def serve() -> None:
        with silent.accept()[0] as first:
            first.recv(3)
        with silent.accept()[0] as second:
            second.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            second.recv(1)
        with silent.accept()[0] as third:
            third.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            third.recv(1)

    with _silent() as silent:
        thread = threading.Thread(target=serve)
        thread.start()
        proxy = Socks5(UpstreamSpec("socks5", silent.getsockname()))
        assert failure(proxy.check).code == Code.UPSTREAM_PROTOCOL
        assert failure(proxy.check).code == Code.UPSTREAM_DOWN
        assert failure(lambda: proxy.open("h", 80, Attempt())).code == Code.UPSTREAM_DOWN
        thread.join()


def test_a_proxy_that_is_not_there(tmp_path: Path) -> None:
    with _silent() as gone:
        address = gone.getsockname()
    for place in (address, str(tmp_path / "none")):
        proxy = Socks5(UpstreamSpec("socks5", place))
        assert failure(lambda proxy=proxy: proxy.open("h", 80, Attempt())).code == Code.UPSTREAM_DOWN
        assert failure(proxy.check).code == Code.UPSTREAM_DOWN


def test_an_attempt_can_be_cancelled_while_it_waits(server: SocksServer) -> None:
    server.gate = threading.Event()
    attempt = Attempt()
    errors: list[OpenError] = []
    thread = threading.Thread(
        target=lambda: errors.append(failure(lambda: upstream(server).open("h", 80, attempt)))
    )
    thread.start()
    while not server.requests:
        thread.join(0.005)
    attempt.cancel()
    thread.join(5)
    assert [error.code for error in errors] == [Code.UPSTREAM_DOWN]


def test_a_cancelled_attempt_asks_nothing(server: SocksServer) -> None:
    attempt = Attempt()
    attempt.cancel()
    assert failure(lambda: upstream(server).open("h", 80, attempt)).code == Code.UPSTREAM_TIMEOUT
    assert server.greetings == 0
    attempt.release()
    attempt.cancel()


# Tor.


@pytest.mark.parametrize(
    ("address", "answer"),
    [
        (b"\x01\xc6\x33\x64\x07", "198.51.100.7"),
        (b"\x04" + socket.inet_pton(10, "2001:db8::1"), "2001:db8::1"),
    ],
)
def test_tor_resolves_a_name(server: SocksServer, address: bytes, answer: str) -> None:
    server.answers[RESOLVE] = reply_bytes(0, address)
    resolved = tor(server).resolve(ResolveKind.ADDRESS, "n" * 200, Attempt())
    assert resolved.answers == [answer]
    assert resolved.ttl > 0
    (request,) = server.requests
    assert request[:4] == (RESOLVE, 3, b"n" * 200, 0)


@pytest.mark.parametrize(("what", "atyp"), [("198.51.100.7", 1), ("2001:db8::1", 4)])
def test_tor_resolves_an_address(server: SocksServer, what: str, atyp: int) -> None:
    server.answers[RESOLVE_PTR] = reply_bytes(0, b"\x03\x08host.tld")
    assert tor(server).resolve(ResolveKind.NAME, what, Attempt()).answers == ["host.tld"]
    assert server.requests[0][:2] == (RESOLVE_PTR, atyp)


def test_tor_s_refusal_to_resolve(server: SocksServer) -> None:
    server.answers[RESOLVE] = reply_bytes(4)
    assert failure(lambda: tor(server).resolve(ResolveKind.ADDRESS, "nx", Attempt())).code == 4


@pytest.mark.parametrize(
    ("kind", "command", "address"),
    [
        (ResolveKind.ADDRESS, RESOLVE, b"\x03\x04name"),
        (ResolveKind.NAME, RESOLVE_PTR, b"\x01\1\2\3\4"),
        (ResolveKind.NAME, RESOLVE_PTR, b"\x03\x01\xff"),
        (ResolveKind.NAME, RESOLVE_PTR, b"\x03\x00"),
    ],
)
def test_an_answer_of_the_wrong_kind(
    server: SocksServer, kind: ResolveKind, command: int, address: bytes
) -> None:
    server.answers[command] = reply_bytes(0, address)
    assert failure(lambda: tor(server).resolve(kind, "192.0.2.1", Attempt())).code == Code.UPSTREAM_PROTOCOL


def test_tor_s_streams_are_isolated_by_the_run_s_token(server: SocksServer) -> None:
    server.credentials = b"avne-run", b"token"
    assert echoes(tor(server).open("h", 80, Attempt()))
    assert server.requests[0][4:6] == (b"avne-run", b"token")


def test_a_plain_proxy_resolves_nothing(server: SocksServer) -> None:
    error = failure(lambda: upstream(server).resolve(ResolveKind.ADDRESS, "n", Attempt()))
    assert error.code == Code.COMMAND_NOT_SUPPORTED


def test_knocking_at_tor(server: SocksServer, tmp_path: Path) -> None:
    with tor(server).knock() as sock:
        assert sock.gettimeout() == 0
    with pytest.raises(FileNotFoundError):
        Tor(UpstreamSpec("tor", str(tmp_path / "none"))).knock()


def test_urgent_data_of_a_proxy_stays_in_the_stream() -> None:
    """Without SO_OOBINLINE its last byte would not be read, and the stream would be short of it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        spec = UpstreamSpec("socks5", listener.getsockname())
        for dialled in (proxies.connect(spec, 10), Socks5(spec).knock()):
            with dialled, listener.accept()[0] as proxy:
                proxy.send(b"abc", socket.MSG_OOB)
                proxy.close()
                dialled.settimeout(10)
                assert dialled.makefile("rb").read() == b"abc"


def test_the_contract_is_abstract() -> None:
    for call in (
        Upstream(UpstreamSpec("x")).knock,
        lambda: Upstream(UpstreamSpec("x")).open("h", 1, Attempt()),
    ):
        with pytest.raises(NotImplementedError):
            call()


def test_encode_address_is_what_rfc_1928_says() -> None:
    assert encode_address("1.2.3.4") == b"\x01\1\2\3\4"
    assert encode_address("::1") == b"\x04" + bytes(15) + b"\1"
    assert encode_address("a.b") == b"\x03\x03a.b"
