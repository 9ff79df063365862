# SPDX-License-Identifier: GPL-3.0-or-later
"""connect(2) tells the program what the upstream told us, and what a direct connection would have said."""

from __future__ import annotations

import errno

import pytest

from tests.bed import places

PROBE = """
import socket, sys, time
host, port = sys.argv[1], int(sys.argv[2])
try:
    info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
except socket.gaierror as error:
    print("gaierror", error.errno); sys.exit()
s = socket.socket(*info[:3]); s.settimeout(float(sys.argv[3]))
try:
    s.connect(info[4]); print("connected")
except TimeoutError: print("silence")
except OSError as error: print(error.errno)
"""

ZONE = places.ZONE
SOCKS_ROWS = [
    (places.V4, places.REFUSED, errno.ECONNREFUSED),
    (places.V6, places.REFUSED, errno.ECONNREFUSED),
    (f"www.{ZONE}", places.REFUSED, errno.ECONNREFUSED),
    ("198.51.100.67", 80, errno.EHOSTUNREACH),
    ("2001:db8::67", 80, errno.EHOSTUNREACH),
    (f"hostunreach.{ZONE}", 80, errno.EHOSTUNREACH),
    ("203.0.113.68", 80, errno.ENETUNREACH),
    ("2001:db9::68", 80, errno.ENETUNREACH),
    (f"netunreach.{ZONE}", 80, errno.ENETUNREACH),
]
EAI_NONAME, EAI_AGAIN, EAI_NODATA = -2, -3, -5


def _probe(avne, upstream, host, port, patience=8.0):
    done = avne.run("python3", "-c", PROBE, host, str(port), str(patience), upstream=upstream, timeout=60)
    assert done.stderr == ""
    return done.stdout.strip()


@pytest.mark.parametrize(("host", "port", "expected"), SOCKS_ROWS)
def test_a_plain_socks_server_tells_the_truth(avne, bed, host, port, expected):
    assert _probe(avne, bed.socks, host, port) == str(expected)


@pytest.mark.parametrize("host", ["198.51.100.66", "2001:db8::66"])
def test_a_host_that_does_not_answer_is_silent(avne, bed, host):
    """The server gives up after 2 s and says 06; the program goes on waiting, as it would directly."""
    assert _probe(avne, bed.socks, host, 80, patience=4.0) == "silence"


@pytest.mark.parametrize("name", ["nx", "x17.nx"])
def test_a_name_that_does_not_exist(avne, upstream_kind, name):
    assert _probe(avne, upstream_kind, f"{name}.{ZONE}", 80) == f"gaierror {EAI_NONAME}"


def test_a_name_without_addresses(avne, upstream_kind):
    assert _probe(avne, upstream_kind, f"nodata.{ZONE}", 80) in (
        f"gaierror {EAI_NODATA}",
        f"gaierror {EAI_NONAME}",
    )


def test_a_resolver_that_fails_is_a_temporary_failure(avne, upstream_kind):
    assert _probe(avne, upstream_kind, f"servfail.{ZONE}", 80) == f"gaierror {EAI_AGAIN}"


@pytest.fixture(params=["tor", "socks"])
def upstream_kind(request, bed):
    return request.getfixturevalue("tor") if request.param == "tor" else bed.socks


def test_wget_and_curl_report_what_they_would_without_us(avne, upstream_kind):
    """wget: 4 = network failure; curl: 6 = could not resolve, 7 = could not connect."""
    nx = f"http://nx.{ZONE}/"
    refused = f"http://www.{ZONE}:{places.REFUSED}/"
    done = avne.run("wget", "-q", nx, upstream=upstream_kind)
    assert done.returncode == 4
    done = avne.run("wget", "-nv", "-t1", nx, upstream=upstream_kind)
    assert "unable to resolve host address" in done.stderr
    assert avne.run("curl", "-sS", nx, upstream=upstream_kind).returncode == 6
    assert avne.run("curl", "-sS", refused, upstream=upstream_kind).returncode == 7
    done = avne.run("wget", "-nv", "-t1", refused, upstream=upstream_kind)
    assert "Connection refused" in done.stderr


TOR_ROWS = [
    (places.V4, places.REFUSED, errno.ECONNREFUSED),  # 01
    (places.V6, places.REFUSED, errno.ECONNREFUSED),  # 01
]


@pytest.mark.parametrize(("host", "port", "expected"), TOR_ROWS)
def test_tor_tells_what_it_can(avne, tor, host, port, expected):
    assert _probe(avne, tor, host, port) == str(expected)


@pytest.mark.parametrize(
    "name",
    [
        "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53aid.onion",  # the checksum is wrong: 01
        "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion",  # no descriptor: 04
    ],
)
def test_an_onion_that_cannot_be_reached(avne, tor, name):
    assert _probe(avne, tor, name, 80, patience=30.0) in (str(errno.ECONNREFUSED), str(errno.EHOSTUNREACH))


def test_an_onion_service_port_that_is_not_there(avne, bed, tor):
    assert _probe(avne, tor, bed.onion, 9999, patience=30.0) == str(errno.ECONNREFUSED)


def test_udp_is_refused_at_once(avne, bed):
    """QUIC and the like fall back within one round trip."""
    script = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "s.connect(('198.51.100.80', 443))\n"
        "s.send(b'x'); s.settimeout(5)\n"
        "try: s.recv(1)\n"
        "except ConnectionRefusedError: print('refused')"
    )
    assert avne.run("python3", "-c", script, upstream=bed.socks).stdout == "refused\n"


@pytest.mark.parametrize(("family", "host"), [("AF_INET", "198.51.100.80"), ("AF_INET6", "2001:db8::80")])
def test_udp_that_comes_in_fragments_is_refused_too(avne, bed, family, host):
    """The largest datagram there is does not fit into the tun's MTU."""
    script = (
        f"import socket; s = socket.socket(socket.{family}, socket.SOCK_DGRAM)\n"
        f"s.connect(({host!r}, 443))\n"
        "s.send(bytes(65507)); s.settimeout(5)\n"
        "try: s.recv(1)\n"
        "except ConnectionRefusedError: print('refused')"
    )
    assert avne.run("python3", "-c", script, upstream=bed.socks).stdout == "refused\n"


def test_ping_is_told_that_it_is_prohibited(avne, bed):
    done = avne.run("ping", "-c1", "-W3", places.V4, upstream=bed.socks)
    assert done.returncode == 1
    assert "filtered" in done.stdout.lower() or "prohibited" in done.stdout.lower()


def test_a_server_reset_is_a_reset(avne, bed):
    done = avne.run(
        "curl",
        "-sS",
        "-o",
        "/dev/null",
        f"http://{places.V4}/reset/100000",
        upstream=f"socks5://127.0.0.1:{bed.socks_tcp[1]}",
    )
    assert done.returncode == 56
    assert "reset" in done.stderr.lower()
