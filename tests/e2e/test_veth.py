# SPDX-License-Identifier: GPL-3.0-or-later
"""Where /dev/net/tun is out of reach: the same environment over a veth pair and a packet socket."""

from __future__ import annotations

import hashlib
import json

import pytest

from tests.bed import places

MANY = 20_000_000
CROWD = f"""
import hashlib, socket, sys, threading
size, count, address = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
data = memoryview(bytes(range(256)) * 256)
def one(results, number):
    sock = socket.create_connection((address, {places.ECHO}))
    def send():
        left = size
        while left:
            left -= sock.send(data[: min(left, len(data))])
        sock.shutdown(1)
    sender = threading.Thread(target=send); sender.start()
    got = 0
    while text := sock.recv(1 << 18):
        assert text == bytes(data[got % 256 :][: 256]) * 0 or text[0] == got % 256
        got += len(text)
    sender.join()
    results[number] = got
results = {{}}
threads = [threading.Thread(target=one, args=(results, number)) for number in range(count)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(sorted(set(results.values())), len(results))
"""


@pytest.fixture
def veth(in_mode):
    return in_mode("veth")


def test_it_is_said(veth, bed):
    done = veth.run("cat", "/sys/class/net/tun0/address", upstream=bed.socks, options=["-v"])
    assert "over a veth pair, as /dev/net/tun cannot be opened (Permission denied)" in done.stderr
    assert (done.stdout, done.returncode) == ("02:61:76:6e:65:02\n", 0)


@pytest.mark.parametrize("host", [places.V4, f"[{places.V6}]"], ids=["v4", "v6"])
def test_many_bytes(veth, bed, host):
    """Both ways, in super-segments with their checksums left to the kernel."""
    down = f"curl -sS http://{host}/bytes/{MANY} | sha256sum"
    up = f"curl -sS http://{host}/bytes/{MANY} | curl -sS -T - http://{host}/upload"
    done = veth.run("sh", "-c", f"{down}; {up}", upstream=bed.socks)
    digest = places.stream_sha256(MANY)
    assert (done.stdout, done.stderr) == (f"{digest}  -\n{MANY} {digest}\n", "")
