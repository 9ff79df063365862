# SPDX-License-Identifier: GPL-3.0-or-later
"""Where /dev/net/tun is out of reach: the same environment over a veth pair and a packet socket."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from tests.bed import places

MANY = int(os.environ.get("VETH_BYTES", "20000000"))  # 200 MB by hand


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


TRUTH = f"""
import socket
def error_of(call):
    try: return call() and 0 or 0
    except OSError as error: return error.errno
def datagram(family, address):
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.settimeout(5); s.connect((address, 9)); s.send(b"x"); s.recv(1)
for family, server, unreachable in ((2, "{places.V4}", "198.51.100.67"), (10, "{places.V6}", "2001:db8::67")):
    name = socket.getaddrinfo("www.{places.ZONE}", 80, family)[0][4][0]
    print(error_of(lambda: socket.create_connection((name, 80), 5)),
          error_of(lambda: socket.create_connection((server, {places.REFUSED}), 5)),
          error_of(lambda: socket.create_connection((unreachable, 80), 5)),
          error_of(lambda: datagram(family, server)))
"""


def test_names_and_errors(veth, bed):
    """DNS over UDP, a RST, and the ICMP errors that answer a SYN and a datagram, in both families."""
    done = veth.run("/usr/bin/python3", "-c", TRUTH, upstream=bed.socks)
    expected = f"0 {errno.ECONNREFUSED} {errno.EHOSTUNREACH} {errno.ECONNREFUSED}\n"
    assert (done.stdout, done.stderr) == (expected * 2, "")


CROWD = f"""
import hashlib, socket, threading
data = bytes(range(256)) * 1200
good = []
def one():
    with socket.create_connection(("{places.V4}", {places.DIGEST})) as sock:
        sock.sendall(data); sock.shutdown(1)
        answer = b""
        while text := sock.recv(4096): answer += text
    good.append(answer.decode() == f"{{len(data)}} {{hashlib.sha256(data).hexdigest()}}\\n")
threads = [threading.Thread(target=one) for _ in range(100)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(good), all(good))
"""


def test_a_hundred_at_once_lose_nothing(veth, bed):
    """No frame, where the kernel's bound for a socket's queue is that of Linux 6.18; no byte anywhere."""
    done = veth.run("/usr/bin/python3", "-c", CROWD, upstream=bed.socks, options=["-vv"])
    assert done.stdout == "100 True\n"
    (counters,) = [line for line in done.stderr.splitlines() if "counters" in line]
    assert "tcp-syn" in counters
    if int(Path("/proc/sys/net/core/rmem_max").read_text()) >= 4 << 20:
        assert "tun-lost" not in counters


CLIENT = f"""
import socket
s = socket.create_connection(("{places.V4}", {places.ECHO})); s.sendall(b"x"); s.recv(1)
print("open", flush=True)
s.recv(1)
"""


def test_without_a_netstack_the_run_ends(veth, bed):
    with veth.start("python3", "-c", CLIENT, upstream=bed.socks) as process:
        assert process.stdout.readline() == "open\n"
        os.kill(process.part("net"), signal.SIGKILL)
        assert process.wait(15) == 125
        assert "network process died" in process.stderr.read()
