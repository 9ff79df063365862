# SPDX-License-Identifier: GPL-3.0-or-later
"""A slow reader and a slow server cost a window, never memory."""

from __future__ import annotations

import time
from pathlib import Path

from tests.bed import places

# The bound that docs/ARCHITECTURE.md states: what one stalled flow may add to a process.
PER_FLOW = 8 << 20

READER = f"""
import socket, sys
s = socket.create_connection(("{places.V4}", {places.CHARGEN}))
print("open", flush=True)
sys.stdin.readline()
"""

WRITER = f"""
import socket, sys
s = socket.create_connection(("{places.V4}", {places.SILENT}))
s.settimeout(2)
sent, block = 0, bytes(1 << 20)
try:
    while sent < 1 << 30: sent += s.send(block)
except TimeoutError: pass
print("stuck", sent, flush=True)
sys.stdin.readline()
"""


def _pss(pid):
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no Pss")


def _settled(pids):
    """The memory of processes whose traffic has come to rest: three equal readings in a row."""
    seen = []
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        seen.append([_pss(pid) for pid in pids])
        if len(seen) >= 3 and seen[-1] == seen[-2] == seen[-3]:
            break
        time.sleep(0.3)
    return seen[-1]


def test_a_reader_that_does_not_read(avne, bed):
    """The server offers bytes without end; the program takes none."""
    with avne.start("sh", "-c", "echo open; cat", upstream=bed.socks, stdin=True) as idle:
        assert idle.stdout.readline() == "open\n"
        before = _settled([idle.part("net"), idle.part("socks5 1")])
        idle.stdin.close()
    with avne.start("python3", "-c", READER, upstream=bed.socks, stdin=True) as process:
        assert process.stdout.readline() == "open\n"
        after = _settled([process.part("net"), process.part("socks5 1")])
        process.stdin.write("\n")
    assert all(now - then < PER_FLOW for now, then in zip(after, before, strict=True)), (before, after)


def test_a_server_that_does_not_read(avne, bed):
    """The program offers a gigabyte; the server takes none of it."""
    with avne.start("sh", "-c", "echo open; cat", upstream=bed.socks, stdin=True) as idle:
        assert idle.stdout.readline() == "open\n"
        before = _settled([idle.part("net"), idle.part("socks5 1")])
        idle.stdin.close()
    with avne.start("python3", "-c", WRITER, upstream=bed.socks, stdin=True) as process:
        word, sent = process.stdout.readline().split()
        assert word == "stuck"
        assert int(sent) < 64 << 20
        after = _settled([process.part("net"), process.part("socks5 1")])
        process.stdin.write("\n")
    assert all(now - then < PER_FLOW for now, then in zip(after, before, strict=True)), (before, after)
