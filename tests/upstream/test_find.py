# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import socket
from pathlib import Path

from avne.ipc.messages import Code
from avne.upstream.base import OpenError
from avne.upstream.failure import explain
from avne.upstream.find import PLACES, find_tor
from avne.upstream.spec import UpstreamSpec
from tests.upstream.socks_server import SocksServer


def test_the_order_of_the_places() -> None:
    assert PLACES == ("/run/tor/socks", ("127.0.0.1", 9050), ("127.0.0.1", 9150))


def test_the_first_that_speaks_socks_is_taken(tmp_path: Path) -> None:
    path = str(tmp_path / "socks")
    with SocksServer(path), SocksServer() as other:
        assert find_tor([str(tmp_path / "none"), path, other.address]) == UpstreamSpec("tor", path)
        assert find_tor([other.address, path]) == UpstreamSpec("tor", other.address)


def test_what_does_not_answer_or_talks_nonsense_is_passed_over(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, SocksServer() as web, SocksServer() as good:
        web.method = b"HT"
        places = [silent.getsockname(), web.address, good.address]
        assert find_tor(places, timeout=0.1) == UpstreamSpec("tor", good.address)


def test_nothing_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = closed.getsockname()
    assert find_tor([str(tmp_path / "none"), address]) is None


def test_each_failure_has_a_cure_and_no_password() -> None:
    tor, proxy = UpstreamSpec("tor", "/s"), UpstreamSpec("socks5", ("h", 1), "user", "secret")
    for code, spec, problem, cure in (
        (Code.UPSTREAM_DOWN, tor, "cannot reach Tor at tor://unix:/s", "systemctl start tor"),
        (Code.UPSTREAM_DOWN, proxy, "cannot reach the proxy socks5://***@h:1", "address"),
        (Code.UPSTREAM_PROTOCOL, tor, "no SOCKS5 proxy", "9050"),
        (Code.UPSTREAM_TIMEOUT, proxy, "no SOCKS5 proxy", "port"),
        (Code.UPSTREAM_AUTH, proxy, "user name and password", "USER:PASSWORD"),
    ):
        said = explain(spec, OpenError(code, "why"))
        assert problem in said[0]
        assert cure in said[1]
        assert "secret" not in "".join(said)
