# SPDX-License-Identifier: GPL-3.0-or-later
"""The world's web server, by ordinary clients over the plain SOCKS server."""

import hashlib
import subprocess

import pytest

from tests.bed import pages, places

BYTES = 200_000_000


@pytest.fixture
def curl(bed):
    def run(*arguments, **settings):
        host, port = bed.socks_tcp
        command = ["curl", "-sS", "--socks5-hostname", f"{host}:{port}", "--max-time", "30", *arguments]
        return subprocess.run(command, capture_output=True, **settings)

    return run


@pytest.mark.parametrize("host", ["www.test.example", places.V4, f"[{places.V6}]"])
def test_the_page(curl, host):
    assert curl(f"http://{host}/").stdout == places.PAGE.encode()


def test_many_bytes_down(curl):
    answer = curl(f"http://www.test.example/bytes/{BYTES}").stdout
    assert len(answer) == BYTES
    assert hashlib.sha256(answer).hexdigest() == places.stream_sha256(BYTES)


@pytest.mark.parametrize("length", [[], ["-H", "Transfer-Encoding: chunked"]])
def test_many_bytes_up(curl, length):
    data = places.stream(BYTES)
    answer = curl("-T", "-", *length, "http://www.test.example/upload", input=data)
    assert answer.stdout.decode() == f"{BYTES} {places.stream_sha256(BYTES)}\n"


def test_a_reset_and_a_short_file_are_told_apart(curl):
    assert curl("http://www.test.example/reset/1000").returncode == 56  # "failure in receiving"
    assert curl("http://www.test.example/cut/1000").returncode == 18  # "partial file"


def test_a_slow_file_arrives(curl):
    assert curl("http://www.test.example/slow/5").stdout == places.stream(5)


def test_status(curl):
    assert b"503" in curl("-i", "http://www.test.example/status/503").stdout.splitlines()[0]
    assert b"404" in curl("-i", "http://www.test.example/nonsense").stdout.splitlines()[0]


def test_pages_for_browsers_are_listed_with_who_asked(bed, curl):
    before = len(bed.requests())
    assert curl("http://www.test.example/browser/data/some-text").stdout == b"some-text"
    assert b"404" in curl("-i", "http://www.test.example/browser/nonsense").stdout.splitlines()[0]
    rows = bed.requests()[before:]
    assert [row["path"] for row in rows] == ["/browser/data/some-text", "/browser/nonsense"]
    assert {(row["client"], row["host"]) for row in rows} <= {
        (client, "www.test.example") for client in (places.V4, places.V6)
    }


def test_the_key_of_a_websocket():
    """The example of RFC 6455 §1.3."""
    assert pages.accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_git_clone(bed, tmp_path):
    host, port = bed.socks_tcp
    command = ["git", "-c", f"http.proxy=socks5h://{host}:{port}", "clone", "-q"]
    subprocess.run([*command, "http://www.test.example/git/hello.git", tmp_path / "hello"], check=True)
    assert (tmp_path / "hello" / "README").read_text() == "hello from the test bed\n"
    assert (tmp_path / "hello" / "large.bin").read_bytes() == places.stream(3 << 20)


def test_the_stream_is_the_same_from_everywhere():
    assert places.stream(10, places.PERIOD - 5) == places.stream(places.PERIOD + 5)[-10:]
    assert hashlib.sha256(places.stream(3_000_000)).hexdigest() == places.stream_sha256(3_000_000)
