# SPDX-License-Identifier: GPL-3.0-or-later
"""The SOCKS5 and the CONNECT proxy at the gateway's address."""

from __future__ import annotations

import pytest
from guest import SERVER_V4, SERVER_V6, Net, Socket
from hypothesis import given
from hypothesis import strategies as st
from test_account import Counting, check

from avne.errors import Malformed
from avne.ipc import messages
from avne.ipc.messages import Capability, Code
from avne.netstack import addresses, proxy
from avne.netstack.handshake import MAX_HEAD, Connect, Handshake, Socks5

ONION = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion"
HELLO = b"\5\1\0"
ESTABLISHED = b"HTTP/1.1 200 Connection Established\r\n\r\n"
SUCCEEDED = b"\5\0\0\1" + bytes(6)


def by_name(name: str, port: int = 80) -> bytes:
    return b"\5\1\0\3" + bytes((len(name),)) + name.encode() + port.to_bytes(2, "big")


def by_address(address: bytes, port: int = 80) -> bytes:
    return b"\5\1\0" + (b"\1" if len(address) == 4 else b"\4") + address + port.to_bytes(2, "big")


def connect_to(authority: str) -> bytes:
    return f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: x\r\n\r\n".encode()


def client(net: Net, port: int = 1080, gateway: bytes = addresses.GATEWAY[0]) -> Socket:
    """A socket that is connected to the proxy."""
    socket = Socket(net, gateway, port).syn()
    assert not net.told()
    return socket.send()


def said(socket: Socket) -> bytes:
    data = bytes(socket.data)
    socket.data.clear()
    return data


def opens(net: Net) -> tuple[int, str, int]:
    """The flow, host and port of the one OPEN."""
    (message,) = net.told()
    assert message.name == "OPEN"
    return message.flow, *message.fields[:2]


# ---- SOCKS5 --------------------------------------------------------------------------


@pytest.mark.parametrize("gateway", addresses.GATEWAY)
@pytest.mark.parametrize("port", [1080, 9050])
def test_a_name_by_socks(gateway, port):
    net = Counting("tor")
    socket = client(net, port, gateway)
    assert said(socket.send(HELLO)) == b"\5\0"
    socket.send(by_name("www.example", 443))
    flow, host, asked = opens(net)
    assert (host, asked, said(socket)) == ("www.example", 443, b"")
    net.say(messages.OPENED, flow, 1 << 16)
    assert said(socket) == SUCCEEDED
    socket.send(b"hello")
    assert [(m.name, m.payload) for m in net.told()] == [("DATA", b"hello")]
    net.say(messages.DATA, flow, payload=b"answer")
    assert said(socket) == b"answer"
    socket.send_fin()
    net.say(messages.SHUT, flow)
    socket.send()
    assert socket.fin
    assert not net.stack.connections
    found = check(net.account())
    assert (found["up"]["to_upstream"], found["down"]["acknowledged"]) == (5, 6)


@pytest.mark.parametrize(("address", "text"), [(SERVER_V4, "192.0.2.80"), (SERVER_V6, "2001:db8::80")])
def test_an_address_by_socks(address, text):
    net = Net("tor")
    client(net).send(HELLO).send(by_address(address))
    assert opens(net)[1:] == (text, 80)


def test_a_mapped_address_is_its_name_and_held():
    net = Net("tor")
    names = net.stack.port53.names
    mapped = names.map("www.example", 60, net.now)[0]
    socket = client(net).send(HELLO).send(by_address(mapped))
    assert opens(net)[1] == "www.example"
    assert names._holds
    socket.send_reset()
    assert not names._holds


def test_everything_in_one_write_and_in_single_bytes():
    """Optimistic data waits for the connection, and comes in its order."""
    stream = HELLO + by_name(ONION) + b"GET / HTTP/1.0\r\n\r\n"
    for pieces in ([stream], [stream[n : n + 1] for n in range(len(stream))]):
        net = Counting("tor")
        socket = client(net)
        for piece in pieces:
            socket.send(piece)
        flow, host, _ = opens(net)
        assert (host, said(socket)) == (ONION, b"\5\0")
        net.say(messages.OPENED, flow, 1 << 14)
        assert [(m.name, m.payload) for m in net.told()] == [("DATA", b"GET / HTTP/1.0\r\n\r\n")]
        assert said(socket) == SUCCEEDED
        check(net.account())


def test_the_window_is_what_the_upstream_takes():
    net = Net("tor")
    socket = client(net).send(HELLO).send(by_name("a.example")).send(b"x" * 1000)
    flow, _, _ = opens(net)
    net.say(messages.OPENED, flow, 1 << 14)
    socket.send()
    assert socket.window == ((1 << 14) - 1000) & ~255
    socket.send(b"y" * socket.window)
    assert sum(len(m.payload) for m in net.told()) == 1000 + (((1 << 14) - 1000) & ~255)
    net.say(messages.CREDIT, flow, 1 << 14)
    assert socket.window >= 1 << 14


def test_a_client_that_is_done_sending_before_there_is_a_connection():
    net = Net("tor")
    socket = client(net).send(HELLO).send(by_name("a.example")).send_fin(b"all")
    flow, _, _ = opens(net)
    assert not socket.fin
    net.say(messages.OPENED, flow, 1 << 16)
    assert [(m.name, m.payload) for m in net.told()] == [("DATA", b"all"), ("SHUT", None)]


@pytest.mark.parametrize(
    ("code", "reply"),
    [
        (Code.CONNECTION_REFUSED, 5), (Code.GENERAL_FAILURE, 5), (Code.HOST_UNREACHABLE, 4),
        (Code.NOT_ALLOWED, 2), (Code.NETWORK_UNREACHABLE, 3), (Code.TTL_EXPIRED, 6),
        (Code.UPSTREAM_TIMEOUT, 6), (Code.BAD_NAME, 4),
    ],
)  # fmt: skip
def test_a_refusal_is_told(code, reply):
    net = Counting("socks5")
    socket = client(net).send(HELLO).send(by_name("a.example")).send(b"optimistic")
    flow, _, _ = opens(net)
    net.say(messages.REFUSED, flow, int(code), "")
    assert said(socket) == b"\5\0" + bytes((5, reply, 0, 1)) + bytes(6)
    assert socket.fin
    socket.send_fin()
    net.wait(1.0)  # TIME-WAIT
    assert not net.stack.connections
    check(net.account())


@pytest.mark.parametrize(
    ("request_", "reply"),
    [
        (b"\4\1\0\x50\x7f\0\0\1\0", b""),  # SOCKS4
        (b"GET / HTTP/1.0\r\n", b""),
        (b"\5\1\2", b"\5\xff"),  # with a password only
        (b"\5\0", b"\5\xff"),
        (HELLO + b"\5\2" + by_name("a.b")[2:], b"\5\0\5\7\0\1" + bytes(6)),  # BIND
        (HELLO + b"\5\3" + by_name("a.b")[2:], b"\5\0\5\7\0\1" + bytes(6)),  # UDP ASSOCIATE
        (HELLO + b"\5\1\0\2" + bytes(6), b"\5\0\5\10\0\1" + bytes(6)),
        (HELLO + by_name("localhost"), b"\5\0\5\4\0\1" + bytes(6)),
        (HELLO + by_name("a.local"), b"\5\0\5\4\0\1" + bytes(6)),
        (HELLO + by_name("avne.internal"), b"\5\0\5\4\0\1" + bytes(6)),
        (HELLO + by_name("x.i2p"), b"\5\0\5\4\0\1" + bytes(6)),
        (HELLO + by_name("short.onion"), b"\5\0\5\4\0\1" + bytes(6)),
        (HELLO + by_name("a b.example"), b"\5\0\5\4\0\1" + bytes(6)),
        (HELLO + by_name(""), b"\5\0\5\4\0\1" + bytes(6)),
        (HELLO + by_name("127.0.0.1"), b"\5\0\5\4\0\1" + bytes(6)),
        (HELLO + by_address(bytes((127, 0, 0, 1))), b"\5\0\5\4\0\1" + bytes(6)),
        (HELLO + by_address(bytes(10) + b"\xff\xff\x7f\0\0\1"), b"\5\0\5\4\0\1" + bytes(6)),
        (HELLO + by_address(bytes(4)), b"\5\0\5\4\0\1" + bytes(6)),
        (HELLO + by_address(addresses.GATEWAY[0]), b"\5\0\5\4\0\1" + bytes(6)),
        (HELLO + by_address(addresses.TUN[1]), b"\5\0\5\4\0\1" + bytes(6)),
        (HELLO + by_address(bytes((198, 18, 9, 9))), b"\5\0\5\4\0\1" + bytes(6)),  # stands for no name
    ],
)
def test_what_goes_nowhere(request_, reply):
    net = Net("tor")
    socket = client(net).send(request_)
    assert said(socket) == reply
    assert socket.fin
    assert not net.told(), "nothing of it is told to anybody"


def test_onion_names_are_for_tor_only():
    net = Net("socks5", capabilities=Capability.HALF_CLOSE)
    assert said(client(net).send(HELLO).send(by_name(ONION)))[2:4] == b"\5\4"
    assert not net.told()


def test_without_a_worker():
    assert said(client(Net()).send(HELLO).send(by_name("a.example")))[2:4] == b"\5\1"


# ---- CONNECT -------------------------------------------------------------------------


@pytest.mark.parametrize("port", [8080, 8118])
@pytest.mark.parametrize(
    ("authority", "host"),
    [
        ("www.Example.:443", "www.example"), ("192.0.2.80:443", "192.0.2.80"),
        ("[2001:db8::80]:443", "2001:db8::80"), (f"{ONION}:443", ONION),
    ],
)  # fmt: skip
def test_connect(port, authority, host):
    net = Counting("tor")
    socket = client(net, port).send(connect_to(authority) + b"\x16\3\1")
    flow, asked, asked_port = opens(net)
    assert (asked, asked_port) == (host, 443)
    net.say(messages.OPENED, flow, 1 << 16)
    assert said(socket) == ESTABLISHED
    assert [m.payload for m in net.told()] == [b"\x16\3\1"]
    check(net.account())


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET http://a.example/ HTTP/1.1\r\n\r\n", "405 Method Not Allowed"),
        (b"CONNECT a.example HTTP/1.1\r\n\r\n", "400 Bad Request"),
        (b"CONNECT a.example:99999 HTTP/1.1\r\n\r\n", "400 Bad Request"),
        (b"CONNECT user@a.example:80 HTTP/1.1\r\n\r\n", "400 Bad Request"),
        (b"CONNECT a.example:80 HTTP/2.0\r\n\r\n", "400 Bad Request"),
        (b"\x16\3\1\0\r\n\r\n", "400 Bad Request"),
        (b"CONNECT localhost:80 HTTP/1.1\r\n\r\n", "502 Bad Gateway"),
        (b"CONNECT a.example:80 HTTP/1.1\r\nx: " + b"y" * MAX_HEAD, "431 Request Header Fields Too Large"),
    ],
)
def test_requests_that_go_nowhere(request_, status):
    net = Net("tor")
    socket = client(net, 8080).send(request_)
    assert said(socket).startswith(f"HTTP/1.1 {status}\r\n".encode())
    assert socket.fin
    assert not net.told()


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        (Code.CONNECTION_REFUSED, 502, "connection_refused"),
        (Code.HOST_UNREACHABLE, 502, "destination_unavailable"),
        (Code.NETWORK_UNREACHABLE, 502, "destination_ip_unroutable"),
        (Code.NOT_ALLOWED, 403, "destination_ip_prohibited"),
        (Code.TTL_EXPIRED, 504, "connection_timeout"),
    ],
)
def test_a_refusal_is_told_in_http(code, status, error):
    """RFC 9209 §2.3."""
    net = Net("socks5")
    socket = client(net, 8080).send(connect_to("a.example:80"))
    net.say(messages.REFUSED, opens(net)[0], int(code), "")
    answer = said(socket).decode()
    assert answer.startswith(f"HTTP/1.1 {status} ")
    assert f"Proxy-Status: avne; error={error}\r\n" in answer
    assert said(client(Net(), 8080).send(connect_to("a.example:80"))).startswith(b"HTTP/1.1 503 ")


# ---- both ----------------------------------------------------------------------------


@pytest.mark.parametrize("port", [1081, 80, 9051])
def test_other_ports_of_the_gateway_are_refused(port):
    assert Socket(Net("tor"), addresses.GATEWAY[0], port).syn().reset


@pytest.mark.parametrize("port", [1080, 8080])
def test_the_ports_of_other_addresses_are_theirs(port):
    net = Net("tor")
    Socket(net, SERVER_V4, port).syn()
    assert opens(net)[1:] == ("192.0.2.80", port)


@pytest.mark.parametrize("port", [1080, 8080])
def test_a_client_that_asks_for_nothing_is_closed_with_it(port):
    net = Net("tor")
    socket = client(net, port).send_fin()
    assert socket.fin
    socket.send()
    assert not net.stack.connections


def test_the_worker_dies_while_it_connects():
    net = Net("tor")
    socket = client(net).send(HELLO).send(by_name("a.example"))
    net.told()
    net.gone()
    assert socket.reset
    assert not net.stack.connections


def test_a_client_that_gives_up_is_told_on():
    net = Counting("tor")
    socket = client(net).send(HELLO).send(by_name("a.example")).send(b"data")
    flow, _, _ = opens(net)
    socket.send_reset()
    assert [(m.name, m.flow) for m in net.told()] == [("RESET", flow)]
    check(net.account())


def test_a_worker_that_grants_next_to_nothing_breaks_the_rules():
    net = Net("tor")
    client(net).send(HELLO).send(by_name("a.example"))
    with pytest.raises(Malformed, match="wire-credit"):
        net.say(messages.OPENED, opens(net)[0], 1000)


@given(st.sampled_from([Socks5, Connect]), st.lists(st.binary(max_size=300), max_size=12))
def test_whatever_a_client_says_is_bounded(kind, pieces):
    handshake: Handshake = kind()
    for piece in pieces:
        if handshake.over or handshake.wanted:
            break
        handshake.receive(piece)
        assert handshake.over or handshake.wanted or len(handshake.rest) <= MAX_HEAD


def test_the_ports_are_those_that_the_documents_name():
    assert {port: kind.__name__ for port, kind in proxy.PORTS.items()} == {
        1080: "Socks5", 9050: "Socks5", 8080: "Connect", 8118: "Connect",
    }  # fmt: skip
