# SPDX-License-Identifier: GPL-3.0-or-later
"""--optimistic: connect() succeeds at once, a refusal is a reset, and only Tor is asked so."""

from __future__ import annotations

import time

import pytest

from tests.bed import places

# What becomes of a connection, call by call.
CALLS = """
import socket, sys
for place in sys.argv[1:]:
    host, port = place.split("/")
    s = socket.create_connection((host, int(port)), timeout=40)
    try:
        s.sendall(b"HEAD / HTTP/1.0\\r\\n\\r\\n")
        print("connected, then", s.recv(5).decode())
    except OSError as error:
        print("connected, then", type(error).__name__)
"""


@pytest.mark.parametrize("host", [places.V4, places.V6, f"www.{places.ZONE}"])
def test_a_page_and_a_refusal(avne, tor, host):
    done = avne.run(
        "python3", "-c", CALLS, f"{host}/80", f"{host}/{places.REFUSED}",
        upstream=tor, options=["--optimistic", f"80,{places.REFUSED}"],
    )  # fmt: skip
    assert (done.stdout, done.stderr) == (
        "connected, then HTTP/\nconnected, then ConnectionResetError\n", ""
    )  # fmt: skip


# More than may go early, there and back; then a request by a program that ends before anybody has answered.
MUCH = """
import socket, sys
s = socket.create_connection((sys.argv[1], 7), timeout=40)
sent = bytes(range(256)) * 1000
s.sendall(sent)
got = b""
while len(got) < len(sent):
    got += s.recv(65536)
print(got == sent)
"""
LEAVES = """
import socket, sys
s = socket.create_connection((sys.argv[1], 80), timeout=40)
s.sendall(b"GET /left-early HTTP/1.0\\r\\n\\r\\n")
"""


def test_more_than_may_go_early(any_avne, tor):
    done = any_avne.run("python3", "-c", MUCH, places.V4, upstream=tor, options=["--optimistic", "7"])
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_a_program_that_leaves_before_the_answer_has_said_its_word(avne, bed, tor):
    done = avne.run("python3", "-c", LEAVES, places.V4, upstream=tor, options=["--optimistic", "80"])
    assert (done.returncode, done.stderr) == (0, "")
    until = time.monotonic() + 10
    while not any(row["path"] == "/left-early" for row in bed.requests()):
        assert time.monotonic() < until, "its request is lost"


def test_other_ports_still_hear_the_truth(avne, tor):
    done = avne.run("python3", "-c", CALLS, f"{places.V4}/{places.REFUSED}",
                    upstream=tor, options=["--optimistic", "80"])  # fmt: skip
    assert "ConnectionRefusedError" in done.stderr


def test_a_plain_proxy_is_not_asked_so(avne, bed):
    done = avne.run("true", upstream=bed.socks, options=["--optimistic", "80"])
    assert done.returncode == 125
    assert "may lose bytes" in done.stderr
