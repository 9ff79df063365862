# SPDX-License-Identifier: GPL-3.0-or-later
"""The receipt of real programs, compared with what the upstream itself has counted."""

from __future__ import annotations

import json
import os
import signal

from tests.bed import places

TRIES = f"""
import socket
def udp(address, port, family=socket.AF_INET):
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.connect((address, port)); s.send(b"x" * 100)
    try: s.settimeout(2); s.recv(1)
    except OSError: pass
udp("{places.V4}", 443); udp("{places.V4}", 123); udp("{places.V4}", 5000)
udp("{places.V6}", 443, socket.AF_INET6)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.sendto(b"x", ("224.0.0.251", 5353))
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 1); s.connect(("{places.V4}", 0))
s.send(bytes((8, 0, 0, 0, 0, 0, 0, 1)))
try: socket.create_connection(("{places.V4}", {places.REFUSED}))
except ConnectionRefusedError: pass
for size in (0, 1, 1000, 3_000_000):
    s = socket.create_connection(("{places.V4}", {places.ECHO}))
    s.sendall(b"u" * size); left = size
    while left: left -= len(s.recv(65536))
    s.shutdown(1)
    while data := s.recv(65536): left -= len(data)
    assert left == 0, (size, left)
s = socket.create_connection(("{places.V4}", {places.CHARGEN})); s.recv(10); s.close()
for _ in range(3):
    try: socket.getaddrinfo("www.{places.ZONE}", 80)
    except OSError: pass
"""


def _receipt(avne, tmp_path_for, upstream, code, *options):
    path = tmp_path_for(avne) / "receipt"
    settings = ["--receipt", str(path), *options]
    done = avne.run("/usr/bin/python3", "-c", code, upstream=upstream, options=settings)
    assert (done.stderr, done.returncode) == ("", 0)
    return json.loads(path.read_text())


def _hold_the_sums(found):
    network = found["network"]
    assert sum(network["bytes"].values()) == network["tun"]["in"]["bytes"] > 0
    assert sum(network["packets"].values()) == network["tun"]["in"]["packets"] > 0
    up, down = network["up"], network["down"]
    assert up["accepted"] == up["to_upstream"] + up["discarded"]
    assert down["from_upstream"] == down["acknowledged"] + down["lost"]


def test_what_a_program_tried_and_where_its_bytes_went(any_avne, bed, tmp_path_for):
    """The SOCKS server's own count of bytes is the independent witness."""
    before = bed.socks_counters()
    found = _receipt(any_avne, tmp_path_for, bed.socks, TRIES, "--log-names")
    after = bed.socks_counters()
    _hold_the_sums(found)
    network, tried = found["network"], found["tried"]
    assert found["mode"] == any_avne.mode
    assert found["upstream"] == "socks5"
    assert set(found["layers"].values()) == {True}
    assert tried["udp"] == {"other": 1, "123": 1, "443": 2}
    assert (tried["icmp"], tried["multicast"], tried["opened"]) == ({"echo": 1}, 1, 5)
    assert tried["refused"] == {"0x05": 1}
    assert tried["names"] >= 1
    assert f"www.{places.ZONE}" in tried["asked"]
    assert network["up"] == {"accepted": 3_001_001, "to_upstream": 3_001_001, "discarded": 0}
    assert network["down"]["acknowledged"] >= 3_001_001 + 10
    sent = network["up"]["to_upstream"] + network["resolver"]["to_upstream"]
    assert after["up"] - before["up"] == sent, "the upstream has had every byte, and no other"


def test_names_are_counted_and_not_kept(avne, bed, tmp_path_for):
    code = f"import socket; socket.getaddrinfo('www.{places.ZONE}', 80)"
    found = _receipt(avne, tmp_path_for, bed.socks, code)
    _hold_the_sums(found)
    assert found["tried"]["asked"] is None
    assert found["tried"]["names"] >= 1
    assert places.ZONE not in json.dumps(found)


def test_a_program_whose_network_has_died_has_no_account(avne, bed, tmp_path_for):
    path = tmp_path_for(avne) / "receipt"
    with avne.start(
        "sh",
        "-c",
        "echo up; exec sleep 60",
        upstream=bed.socks,
        options=["--receipt", str(path), "--on-failure", "kill"],
    ) as process:
        assert process.stdout.readline() == "up\n"
        os.kill(process.part("net"), signal.SIGKILL)
        assert process.wait(20) == 125
        assert process.stderr.read().count("\n") == 2, "the problem and its cure, and no traceback"
    found = json.loads(path.read_text())
    assert found["network"] is None
    assert found["exit"] == 125
