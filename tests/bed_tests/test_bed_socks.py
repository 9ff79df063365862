# SPDX-License-Identifier: GPL-3.0-or-later
"""The plain SOCKS server tells the truth, and so do the servers behind it."""

import select
import socket
import struct
import threading
import time

import pytest

from tests.bed import places
from tests.bed.servers import reset
from tests.bed.splicing import Relay
from tests.bed.tornet.dns import parse
from tests.bed.tornet.processes import poll
from tests.bed.tornet.socks_client import CONNECT, RESOLVE, SocksError, dial, receive_exactly, socks_request
from tests.bed.tornet.zone import wire_name

TRUTH = [
    ("www.test.example", places.REFUSED, 5),
    (places.V6, places.REFUSED, 5),
    ("nx.test.example", 80, 4),
    ("nodata.test.example", 80, 4),
    ("servfail.test.example", 80, 4),
    ("example.org", 80, 4),
    ("hostunreach.test.example", 80, 4),
    ("hostunreach6.test.example", 80, 4),
    ("netunreach.test.example", 80, 3),
    ("netunreach6.test.example", 80, 3),
    ("prohibited.test.example", 80, 2),
    ("blackhole.test.example", 80, 6),
    ("blackhole6.test.example", 80, 6),
    ("v4.test.example", places.NEVER_ACCEPTS, 6),
]


@pytest.mark.parametrize(("host", "port", "code"), TRUTH)
def test_the_reply_says_what_connect_said(bed, host, port, code):
    with pytest.raises(SocksError) as refusal:
        socks_request(bed.socks_path, CONNECT, host, port, 10)
    assert refusal.value.code == code


@pytest.mark.parametrize("host", ["www.test.example", "v6.test.example", places.V4, places.V6])
def test_names_and_addresses_of_both_families_are_reached(bed, host):
    sock, _ = socks_request(bed.socks_path, CONNECT, host, places.ECHO, 10)
    with sock:
        sock.sendall(b"hello")
        assert receive_exactly(sock, 5) == b"hello"


def test_what_it_cannot_do_is_refused(bed):
    with pytest.raises(SocksError) as refusal:
        socks_request(bed.socks_path, RESOLVE, "www.test.example", 0, 10)
    assert refusal.value.code == 7


def test_an_end_is_passed_on_alone(bed):
    """The answer comes after the end of what was sent: half-close."""
    sock, _ = socks_request(bed.socks_tcp, CONNECT, "www.test.example", places.DIGEST, 10)
    with sock:
        data = places.stream(3_000_000)
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        answer = sock.makefile().read()
    assert answer == f"3000000 {places.stream_sha256(3_000_000)}\n"


def test_a_reset_is_passed_on_as_a_reset(bed):
    sock, _ = socks_request(bed.socks_tcp, CONNECT, "www.test.example", places.RST_AFTER_DATA, 10)
    with sock:
        assert receive_exactly(sock, places.RST_AFTER) == places.stream(places.RST_AFTER)
        sock.sendall(b".")
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_a_reset_at_once_is_a_connection_that_was_reset(bed):
    """connect(2) of the server's itself may say so: it is no refusal."""
    for _ in range(20):
        sock, _ = socks_request(bed.socks_tcp, CONNECT, "www.test.example", places.RST_ON_ACCEPT, 10)
        with sock, pytest.raises(ConnectionResetError):
            sock.recv(1)


def _tcp_pair():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    for sock in (one, other):
        sock.settimeout(10)
    return one, other


@pytest.fixture
def joined():
    """A client and a server with a relay between them."""
    (client, near), (far, server) = _tcp_pair(), _tcp_pair()

    def work():
        with near, far:
            Relay(near, far, False).run()

    thread = threading.Thread(target=work)
    thread.start()
    yield client, server
    client.close()
    server.close()
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize("who", ["client", "server"])
def test_what_came_before_a_reset_comes_before_it(joined, who):
    one, other = joined if who == "client" else joined[::-1]
    one.sendall(b"last words")
    reset(one)
    assert receive_exactly(other, 10) == b"last words"
    with pytest.raises(ConnectionResetError):
        other.recv(1)


def test_a_reset_after_an_end_is_both(joined):
    client, server = joined
    server.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    reset(server)
    poller = select.poll()
    poller.register(client, 0)
    assert poller.poll(10_000)[0][1] & select.POLLERR


def test_a_reset_is_heard_by_a_client_that_does_not_read(joined):
    client, server = joined
    server.setblocking(False)
    poller = select.poll()
    poller.register(server, select.POLLOUT)
    while poller.poll(200):
        server.send(bytes(1 << 20))
    reset(server)
    poller = select.poll()
    poller.register(client, 0)
    assert poller.poll(10_000)[0][1] & select.POLLERR


def test_urgent_data_stays_in_its_place(joined):
    client, server = joined
    server.sendall(b"abc")
    server.send(b"!", socket.MSG_OOB)
    server.sendall(b"def")
    server.close()
    assert client.makefile("rb").read() == b"abc!def"


def test_a_reset_of_the_client_ends_the_connection(bed):
    def await_open(count):
        deadline = time.monotonic() + 10
        poll(f"not {count} open", lambda: bed.socks_counters()["open"] == count, deadline)

    await_open(0)
    sock, _ = socks_request(bed.socks_tcp, CONNECT, "www.test.example", places.SILENT, 10)
    await_open(1)
    reset(sock)
    await_open(0)


def test_a_closed_connection_is_no_reset(bed):
    sock, _ = socks_request(bed.socks_tcp, CONNECT, "www.test.example", places.CLOSES, 10)
    with sock:
        assert sock.recv(1) == b""


def test_user_and_password(bed):
    user, password = bed.socks_credentials
    sock, _ = socks_request(bed.socks_auth_path, CONNECT, places.V4, places.ECHO, 10, (user, password))
    sock.close()
    with pytest.raises(SocksError):
        socks_request(bed.socks_auth_path, CONNECT, places.V4, places.ECHO, 10, (user, "wrong"))
    with pytest.raises(SocksError):
        socks_request(bed.socks_auth_path, CONNECT, places.V4, places.ECHO, 10)


def test_it_can_be_killed_and_comes_back_where_it_was(bed):
    sock, _ = socks_request(bed.socks_tcp, CONNECT, places.V4, places.ECHO, 10)
    with sock:
        bed.kill_socks()
        try:
            assert sock.recv(1) == b""
            with pytest.raises(ConnectionRefusedError):
                dial(bed.socks_tcp, 1)
            with pytest.raises(ConnectionRefusedError):
                dial(bed.socks_path, 1)
        finally:
            bed.start_socks()
    for proxy in (bed.socks_path, bed.socks_tcp):
        socks_request(proxy, CONNECT, places.V4, places.ECHO, 10)[0].close()


@pytest.mark.parametrize("name", ["www.test.example", "nx.test.example"])
def test_the_resolver_of_the_world_is_reached_over_tcp(bed, name):
    """As avne asks it; and the world remembers the question."""
    query = struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + wire_name(name) + struct.pack("!HH", 16, 1)
    sock, _ = socks_request(bed.socks_path, CONNECT, places.V4, places.DNS, 10)
    with sock:
        sock.sendall(struct.pack("!H", len(query)) + query)
        answer = receive_exactly(sock, struct.unpack("!H", receive_exactly(sock, 2))[0])
    ident, flags, questions, answers = struct.unpack("!4H", answer[:8])
    assert (ident, flags & 15, questions) == (7, 3 if "nx" in name else 0, 1)
    assert answers == (0 if "nx" in name else 1)
    assert parse(query)[2] == name
    assert (name, "TXT") in [(row["name"], row["type"]) for row in bed.queries()]
