# SPDX-License-Identifier: GPL-3.0-or-later
"""--onion before and beside a real Tor: what is asked of the control port, what is said, what is refused."""

from __future__ import annotations

import os
import socket
import socketserver
import threading
from types import SimpleNamespace

import pytest

from avne.cli import onion
from avne.cli.console import Console
from avne.cli.loop import Loop
from avne.errors import AvneError
from avne.upstream import control
from avne.upstream.kinds import parse as parse_upstream
from avne.upstream.spec import UpstreamSpec

NAME = "v6mr3wrraqvbbjoowqiny5v7f564qwyslnyudawojwpb32oi24avz7id"
SOCKS = "127.0.0.1", 1  # nobody's
TOR = UpstreamSpec("tor", SOCKS)


class _Control(socketserver.StreamRequestHandler):
    """A control port without a lock (control-spec §3)."""

    def handle(self):
        self.server.line = self.connection
        for line in self.rfile:
            self.server.heard.append(line.decode().strip())
            verb = line.split()[0].decode()
            self.wfile.write(self.server.answers.get(verb, "250 OK").encode() + b"\r\n")


@pytest.fixture
def tor(monkeypatch):
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Control)
    server.daemon_threads = True
    server.heard = []
    server.answers = {
        "PROTOCOLINFO": "250-PROTOCOLINFO 1\r\n250-AUTH METHODS=NULL\r\n250 OK",
        "GETINFO": "250-process/uid=-1\r\n250 OK",
        "ADD_ONION": f"650 HS_DESC CREATED {NAME} UNKNOWN UNKNOWN x\r\n250-ServiceID={NAME}\r\n250 OK",
    }
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setitem(control.CONTROLS, SOCKS, (server.server_address,))
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def service(tmp_path):
    """service(WORD…): the context of a service of a Tor whose control port is `tor`'s."""
    session = SimpleNamespace(socket=lambda name: f"{tmp_path}/{name}")
    return lambda *words, upstream=TOR: onion.service(words, upstream, session, Console())


def _asked(tor):
    (line,) = [line for line in tor.heard if line.startswith("ADD_ONION")]
    return line.split()


def test_a_port_of_loopback_where_tor_is_another_user(tor, service):
    with service("80", "443:8443") as made:
        assert [opening.text for opening in made.openings] == [
            f"{NAME}.onion:80->80",
            f"{NAME}.onion:443->8443",
        ]
        places = ["{}:{}".format(*opening.sock.getsockname()) for opening in made.openings]
        assert all(place.startswith("127.0.0.1:") for place in places)
        assert _asked(tor) == [
            "ADD_ONION", "NEW:ED25519-V3", "Flags=DiscardPK", f"Port=80,{places[0]}", f"Port=443,{places[1]}"
        ]  # fmt: skip
        socket.create_connection(made.openings[0].sock.getsockname(), 5).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(tuple(places[0].split(":")), 5)


def test_a_socket_of_the_session_where_tor_is_the_same_user(tor, service, tmp_path):
    tor.answers["GETINFO"] = f"250-process/uid={os.geteuid()}\r\n250 OK"
    with service("80"):
        assert _asked(tor)[3] == f"Port=80,unix:{tmp_path}/onion80"


def test_it_is_said_when_it_can_be_found_and_when_it_is_gone(tor, service, capfd):
    with service("80:8080") as made:
        loop = Loop()
        made.watch(loop)
        tor.line.sendall(b"650 HS_DESC UPLOADED somebodyelse UNKNOWN x\r\n650 HS_DESC UPLO")
        loop.turn()
        assert capfd.readouterr().err == ""
        for _ in range(2):  # to several directories
            tor.line.sendall(f"ADED {NAME} UNKNOWN x\r\n650 HS_DESC UPLO".encode())
            loop.turn()
        line = f"avne: open: {NAME}.onion:80 leads to port 8080 inside, for all who know the address\n"
        assert capfd.readouterr().err == line
        tor.line.shutdown(socket.SHUT_RDWR)
        loop.turn()
        assert capfd.readouterr().err == f"avne: {NAME}.onion is gone: Tor has ended, or its control port\n"
        loop.close()


def test_it_is_said_when_it_cannot_be_found_for_long(tor, service, capfd, monkeypatch):
    monkeypatch.setattr(onion, "_PATIENCE", 0.0)
    with service("80") as made:
        loop = Loop()
        made.watch(loop)
        loop.turn()
        assert "cannot be found yet" in capfd.readouterr().err
        loop.close()


def test_a_tor_that_makes_none(tor, service):
    tor.answers["ADD_ONION"] = "512 Invalid VIRTPORT/TARGET"
    with pytest.raises(AvneError, match="makes no onion service: Invalid VIRTPORT/TARGET"), service("80"):
        pass


def test_a_control_port_with_a_password(tor, service):
    tor.answers["PROTOCOLINFO"] = "250-AUTH METHODS=HASHEDPASSWORD\r\n250 OK"
    with pytest.raises(AvneError, match="by a password only") as caught, service("80"):
        pass
    assert "CookieAuthentication 1" in caught.value.cure


def test_a_control_port_that_is_not_there(service):
    problems = {
        "/nonexistent/socks": "/nonexistent/control: No such file",
        ("192.0.2.1", 9050): "at no place that avne knows",
    }
    for address, problem in problems.items():
        spec = UpstreamSpec("tor", address)
        with pytest.raises(AvneError, match=problem), service("80", upstream=spec):
            pass


@pytest.mark.parametrize(
    "url", ["socks5://127.0.0.1:1", "socks5://127.0.0.1:1 over tor", "tor://h:1 over tor"]
)
def test_another_upstream_than_tor(url):
    with pytest.raises(AvneError, match="--onion needs Tor, and the upstream is"):
        onion.check(["80"], parse_upstream(url))


@pytest.mark.parametrize("url", ["tor", "limit:500K+tor", "log+limit:1M+tor://127.0.0.1:9050"])
def test_tor_with_filters_is_tor(url):
    onion.check(["80"], parse_upstream(url))


@pytest.mark.parametrize(
    "words", [["0"], ["80:"], ["x"], ["65536"], ["80:0"], ["80", "80:81"], ["127.0.0.1:1:2"]]
)
def test_what_is_no_port_of_a_service(words):
    with pytest.raises(AvneError, match="--onion"):
        onion.parse(words)


def test_without_the_option_nobody_is_asked(tor, service):
    with service() as made:
        assert made is None
    assert tor.heard == []
