# SPDX-License-Identifier: GPL-3.0-or-later
"""Names in real environments: the modes, and the proxies at the gateway.

docs/resolvers.md has what each client's resolver makes of them.
"""

from __future__ import annotations

import pytest

from tests.bed import places

WWW = f"www.{places.ZONE}"
GETENT = "getent ahosts {} | cut -d' ' -f1 | sort -u | tr '\\n' ' '"


@pytest.fixture(params=["tor", "socks"])
def upstream(request, bed):
    return request.getfixturevalue("tor") if request.param == "tor" else bed.socks


@pytest.mark.parametrize(
    ("mode", "addresses"),
    [
        ("truthful", "198.18.1.0 fd61:766e:6500:1::100 "),
        ("fast", "198.18.1.0 fd61:766e:6500:1::100 "),
        ("resolve", f"{places.V4} {places.V6} "),
        ("tcp", f"{places.V4} {places.V6} "),
    ],
)
def test_a_page_by_name_in_every_mode(avne, upstream, mode, addresses):
    script = f"{GETENT.format(WWW)}; curl -sS http://{WWW}/"
    done = avne.run("sh", "-c", script, upstream=upstream, options=["--dns", mode])
    assert (done.stdout, done.stderr) == (addresses + places.PAGE, "")


@pytest.mark.parametrize(
    ("mode", "queries"),
    [
        # What is asked over TCP is the configured resolver's, over UDP the exit's own.
        ("truthful", {("tcp", "A"), ("tcp", "AAAA"), ("udp", "A")}),
        ("fast", {("udp", "A")}),
        ("tcp", {("tcp", "A"), ("tcp", "AAAA")}),
    ],
)
def test_who_learns_a_name(avne, bed, tor, mode, queries):
    name = f"x{mode}.www.{places.ZONE}"
    done = avne.run("curl", "-sS", f"http://{name}/", upstream=tor, options=["--dns", mode])
    assert (done.stdout, done.stderr) == (places.PAGE, "")
    seen = {(row["proto"], row["type"]) for row in bed.queries() if row["name"] == name}
    assert seen - {("udp", "AAAA")} == queries  # an exit may ask for both of its own accord


def test_environments_share_no_answer(avne, bed):
    name = f"shared.www.{places.ZONE}"
    for _ in range(2):
        script = f"for i in 1 2 3; do getent ahostsv4 {name}; done"
        assert avne.run("sh", "-c", script, upstream=bed.socks).returncode == 0
    rows = [row for row in bed.queries() if row["name"] == name and row["type"] == "A"]
    assert len(rows) == 2, "one for each environment, however often it is asked there"


# ---- the proxies ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "proxy",
    ["socks5h://10.213.0.1:1080", "socks5h://[fd61:766e:6500::1]:9050", "http://avne.internal:8118"],
)
def test_an_onion_service_by_the_gateway_s_proxy(avne, bed, tor, proxy):
    done = avne.run("curl", "-sSp", "--proxy", proxy, f"http://{bed.onion}/", upstream=tor)
    assert (done.stdout, done.stderr) == (places.PAGE, "")


def test_proxy_env_is_all_that_curl_needs_and_loopback_keeps_working(avne, bed, tor):
    listen = (
        "import socket as s; l = s.create_server(('127.0.0.1', 8123)); print(flush=True); c, _ = l.accept()"
    )
    server = f"{listen}; c.recv(999); c.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\nloopback')"
    script = (
        f'python3 -c "$0" | {{ read ready; curl -sS http://127.0.0.1:8123/; }}; curl -sS http://{bed.onion}/;'
        f" curl -sS http://{WWW}/; env -u ALL_PROXY -u all_proxy curl -sS http://{WWW}/"
    )
    done = avne.run("sh", "-c", script, server, upstream=tor, options=["--proxy-env"])
    assert (done.stdout, done.stderr) == ("loopback" + 3 * places.PAGE, "")


@pytest.mark.parametrize(
    ("url", "proxy", "said"),
    [
        (f"http://nx.{places.ZONE}/", "socks5h://10.213.0.1:1080", "(4)"),
        (f"http://{places.V4}:{places.REFUSED}/", "socks5h://10.213.0.1:1080", "(5)"),
        (f"http://{places.V4}:{places.REFUSED}/", "http://10.213.0.1:8080", "502"),
        ("http://localhost:80/", "socks5h://10.213.0.1:1080", "(4)"),
    ],
)
def test_a_refusal_by_the_proxy(avne, bed, url, proxy, said):
    done = avne.run("curl", "-sSp", "--noproxy", "", "--proxy", proxy, url, upstream=bed.socks)
    assert done.returncode in (56, 97), "a proxy's refusal (curl(1))"
    assert said in done.stderr


def test_a_program_is_told_of_no_proxy_unasked(avne, bed):
    assert "proxy" not in avne.run("env", upstream=bed.socks).stdout.lower()
