# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest that asks for a million random names: what it costs, and what others notice.

``python -m bench.million [--names N]``, as root.  In one real environment a program asks for random names as
fast as they are answered, with 256 questions under way: the first half exist, each for itself, the second
half do not.  Beside it another thread looks up honest names all the time.  Told are the netstack's memory as
it grows, the rate, and the honest look-ups: how many, how many failed, and how long they took.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
from pathlib import Path

from tests.bed import places
from tests.bed.bed import Bed
from tests.bed.runs import Run

# What runs inside.  Questions that are not answered within 5 s are asked again.
GUEST = r"""
import collections, json, os, select, socket, struct, sys, threading, time
names, zone = int(sys.argv[1]), sys.argv[2]
tail = b"".join(bytes((len(l),)) + l.encode() for l in zone.split(".")) + b"\0\0\1\0\1"
server = ("10.213.0.1", 53)
done = threading.Event()
honest = {"good": 0, "bad": 0, "seconds": []}

def look_up():
    n = 0
    while not done.is_set():
        n += 1
        began = time.monotonic()
        try:
            socket.getaddrinfo(f"honest{n}.www.{zone}", 80, socket.AF_INET)
            honest["good"] += 1
        except OSError:
            honest["bad"] += 1
        honest["seconds"].append(time.monotonic() - began)
        done.wait(0.05)

def question(n):
    label = b"%012x" % (n * 0x9E3779B97F4A7C15 % (1 << 48))
    middle = b"" if n < names // 2 else b"\2nx"
    return struct.pack("!6H", n & 0xFFFF, 0x100, 1, 0, 0, 0) + b"\x0c" + label + middle + tail

threading.Thread(target=look_up).start()
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
sock.connect(server)
asked, under_way, rcodes, again = 0, {}, collections.Counter(), 0
began = time.monotonic()
while asked < names or under_way:
    while asked < names and len(under_way) < 256:
        under_way[asked & 0xFFFF] = asked
        sock.send(question(asked))
        asked += 1
    if select.select([sock], [], [], 5)[0]:
        answer = sock.recv(4096)
        if under_way.pop(int.from_bytes(answer[:2], "big"), None) is not None:
            rcodes[("exists" if answer[7] else "") + str(answer[3] & 15)] += 1
            if sum(rcodes.values()) % (names // 20) == 0:
                print(json.dumps({"answered": sum(rcodes.values())}), flush=True)
                sys.stdin.readline()
    else:
        for n in under_way.values():
            again += 1
            sock.send(question(n))
seconds = time.monotonic() - began
done.set()
honest["seconds"].sort()
took = honest.pop("seconds")
honest.update(median_ms=took[len(took) // 2] * 1e3, p99_ms=took[len(took) * 99 // 100] * 1e3)
honest.update(longest_ms=took[-1] * 1e3)
print(json.dumps({"seconds": seconds, "asked_again": again, "rcodes": rcodes, "honest": honest}), flush=True)
"""


def memory_mib(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--names", type=int, default=1_000_000)
    parser.add_argument("--dns", default="truthful")
    options = parser.parse_args()
    with Bed() as bed:
        words = ["run", "--upstream", bed.socks, "--resolver", places.RESOLVER, "--dns", options.dns, "--"]
        guest = ["/usr/bin/python3", "-c", GUEST, str(options.names), places.ZONE]
        with Run(
            [sys.executable, "-m", "avne", *words, *guest],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as run:
            _watch(run)


def _watch(run: Run) -> None:
    assert run.stdin
    assert run.stdout
    ended = threading.Timer(3600, run.kill)
    ended.start()
    try:
        for line in run.stdout:
            said = json.loads(line)
            if "answered" in said:
                print(
                    f"{said['answered']:9,} answered   netstack {memory_mib(run.part('net')):6.1f} MiB",
                    flush=True,
                )
                run.stdin.write("\n")
                run.stdin.flush()
            else:
                print(json.dumps(said, indent=2))
        run.wait(60)
    finally:
        ended.cancel()


if __name__ == "__main__":
    main()
