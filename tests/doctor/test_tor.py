# SPDX-License-Identifier: GPL-3.0-or-later
"""What is told of a Tor: by its SocksPort, and by its control port where that lets us in."""

from __future__ import annotations

import hashlib
import hmac
import socketserver
import threading

import pytest

from avne.doctor import Limited, tor
from avne.errors import AvneError
from avne.upstream import control as control_port

COOKIE = bytes(range(32))
PHASE = 'NOTICE BOOTSTRAP PROGRESS={} TAG=x SUMMARY="Loading relay descriptors"'


class _Control(socketserver.StreamRequestHandler):
    """As much of a control port as is asked (control-spec §3)."""

    def handle(self):
        allowed, proof = False, None
        for line in self.rfile:
            words = line.decode().split()
            if words[0] == "PROTOCOLINFO":
                self._say(f"250-PROTOCOLINFO 1\r\n250-AUTH METHODS={self.server.auth}\r\n250 OK")
            elif words[0] == "AUTHENTICATE":
                allowed = self.server.auth == "NULL" or words[1:] == [COOKIE.hex()] or words[1:] == proof
                self._say("250 OK" if allowed else "515 Bad authentication")
            elif words[0] == "AUTHCHALLENGE" and "SAFECOOKIE" in self.server.auth:
                both = self.server.cookie + bytes.fromhex(words[2]) + bytes(32)
                shown = hmac.digest(control_port._TO_US, both, hashlib.sha256).hex()
                proof = [hmac.digest(control_port._TO_TOR, both, hashlib.sha256).hex()]
                self._say(f"250 AUTHCHALLENGE SERVERHASH={shown.upper()} SERVERNONCE={'00' * 32}")
            elif allowed and words[1] in self.server.told:
                self._say(f"250-{words[1]}={self.server.told[words[1]]}\r\n250 OK")
            else:
                self._say(f'552 Unrecognized key "{words[1]}"')

    def _say(self, text):
        self.wfile.write(text.encode() + b"\r\n")


class _Socks(socketserver.BaseRequestHandler):
    """Greets, and answers a RESOLVE (socks-extensions)."""

    def handle(self):
        self.request.recv(100)
        self.request.sendall(b"\x05\x00")
        asked = self.request.recv(300)
        if asked:
            code = 0 if b"good.example" in asked else 4
            self.request.sendall(bytes([5, code, 0, 1, 192, 0, 2, 7, 0, 0]))


@pytest.fixture
def serve():
    """serve(handler): a server on loopback for the test."""
    servers = []

    def start(handler):
        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def control(serve, socks, monkeypatch):
    server = serve(_Control)
    server.auth, server.cookie = "NULL", COOKIE
    server.told = {"version": "0.4.9.3 (git-x)", "status/bootstrap-phase": PHASE.format(100)}
    monkeypatch.setitem(
        control_port.CONTROLS, socks.server_address, (("127.0.0.1", 1), server.server_address)
    )
    return server


@pytest.fixture
def socks(serve, monkeypatch):
    server = serve(_Socks)
    monkeypatch.setenv("AVNE_UPSTREAM", f"tor://127.0.0.1:{server.server_address[1]}")
    return server


def test_a_tor_that_is_ready(socks, control):
    assert tor.upstream().startswith("Tor 0.4.9.3 answers at tor://127.0.0.1:")


def test_one_that_is_not_says_how_far_it_is(socks, control):
    control.told["status/bootstrap-phase"] = PHASE.format(45) + ' WARNING="Clock skew"'
    with pytest.raises(AvneError) as error:
        tor.upstream()
    assert "45 % (Loading relay descriptors): Clock skew" in error.value.problem
    assert "clock" in error.value.cure


def test_one_without_a_circuit(socks, control):
    control.told["status/circuit-established"] = "0"
    with pytest.raises(Limited, match="no circuit"):
        tor.upstream()


def test_a_cookie_that_may_be_read_lets_us_in(socks, control, tmp_path, monkeypatch):
    cookie = tmp_path / "cookie"
    cookie.write_bytes(COOKIE)
    control.auth = f'COOKIE COOKIEFILE="{cookie}"'
    assert "no control port" in tor.upstream(), "it could name any file"
    monkeypatch.setattr(control_port, "COOKIES", (str(cookie),))
    assert "0.4.9.3" in tor.upstream()
    cookie.unlink()
    assert "no control port" in tor.upstream()


def test_a_cookie_that_nobody_is_told(socks, control, tmp_path):
    """SAFECOOKIE: the port proves first that it knows what is in the file that it names."""
    cookie = tmp_path / 'a "cookie"'
    cookie.write_bytes(COOKIE)
    control.auth = 'COOKIE,SAFECOOKIE COOKIEFILE="{}"'.format(str(cookie).replace('"', '\\"'))
    assert "0.4.9.3" in tor.upstream()
    control.cookie = bytes(32)
    assert "no control port" in tor.upstream()
    cookie.write_bytes(COOKIE + b"x")
    assert "no control port" in tor.upstream()


def test_a_password_is_not_ours_to_know(socks, control):
    control.auth = "HASHEDPASSWORD"
    assert "no control port" in tor.upstream()


def test_a_name_is_resolved_where_that_is_asked_for(socks):
    assert tor.resolves("good.example") == "good.example has 192.0.2.7, by Tor"
    with pytest.raises(AvneError, match=r"does not resolve bad\.example"):
        tor.resolves("bad.example")


def test_another_proxy_resolves_nothing_for_us(monkeypatch):
    monkeypatch.setenv("AVNE_UPSTREAM", "socks5://127.0.0.1:1")
    with pytest.raises(Limited):
        tor.resolves("good.example")


def test_the_version_of_the_tor_that_would_be_started():
    assert tor.program().split()[-1].startswith("0.4."), tor.program()


def test_a_tor_that_does_not_run(tmp_path, monkeypatch):
    fake = tmp_path / "tor"
    fake.write_text("#!/bin/sh\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AvneError, match="does not run"):
        tor.program()


def test_no_tor_anywhere_names_the_command(monkeypatch):
    for name in ("AVNE_UPSTREAM", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tor, "find_tor", lambda: None)
    monkeypatch.setattr(tor.shutil, "which", lambda name, path: None)
    with pytest.raises(AvneError) as error:
        tor.upstream()
    assert error.value.cure == "sudo apt install tor"
    assert "not installed" in tor.program()
