# SPDX-License-Identifier: GPL-3.0-or-later
"""The private Tor network carries streams to the world, and nothing else does."""

import time

import pytest

from tests.bed import places
from tests.bed.tornet.processes import poll
from tests.bed.tornet.socks_client import CONNECT, RESOLVE, SocksError, dial, receive_exactly, socks_request

pytestmark = [pytest.mark.tor, pytest.mark.usefixtures("tor")]


def get(proxy, host, path="/"):
    sock, _ = socks_request(proxy, CONNECT, host, places.WEB, 60)
    with sock, sock.makefile("rb") as file:
        sock.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        return file.read()


@pytest.mark.parametrize("host", ["www.test.example", "v6.test.example", places.V4, places.V6])
def test_the_page_through_three_hops(bed, host):
    with bed.control() as control:
        control.command("SETEVENTS STREAM")
        assert get(bed.tor_path, host).endswith(places.PAGE.encode())
        circuits = [circuit for _, state, circuit, _ in control.stream_events() if state == "SUCCEEDED"]
        hops = control.circuit(circuits[-1])
    assert len({hop.fingerprint for hop in hops}) == 3
    assert hops[-1].nickname.startswith("relay")


def test_the_onion_service(bed):
    assert get(bed.tor_path, bed.onion).endswith(places.PAGE.encode())


def test_names_are_resolved_by_the_exits(bed):
    sock, address = socks_request(bed.tor_path, RESOLVE, "v4.fresh.test.example", 0, 30)
    sock.close()
    assert address == places.V4
    assert "v4.fresh.test.example" in [row["name"] for row in bed.queries()]


def test_what_does_not_exist(bed):
    with pytest.raises(SocksError) as refusal:
        socks_request(bed.tor_path_extended, RESOLVE, "nx.test.example", 0, 30)
    assert refusal.value.code == 4


def _listens(path):
    try:
        dial(path, 1).close()
    except OSError:
        return False
    return True


def test_a_node_can_be_killed_and_started(bed):
    sock, _ = socks_request(bed.tor_path, CONNECT, places.V4, places.ECHO, 30)
    with sock:
        bed.act_on_tor("client", "kill")
        try:
            assert sock.recv(1) == b""  # Tor's death looks like an end
            # Its threads end one after the other, and the last one closes what listened.
            poll("Tor's socket to close", lambda: not _listens(bed.tor_path), time.monotonic() + 5)
        finally:
            bed.act_on_tor("client", "start")
    sock, _ = socks_request(bed.tor_path, CONNECT, places.V4, places.ECHO, 60)
    with sock:
        sock.sendall(b"again")
        assert receive_exactly(sock, 5) == b"again"
