# SPDX-License-Identifier: GPL-3.0-or-later
"""The two arms: a client with a wire to the world, and a client inside avne; each with its puppet.

The wire's client has the addresses that a program inside avne has, and the same MTU, so that what
is left to differ is what carries the bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from avne.limits import TUN_MTU
from avne.netstack.addresses import GATEWAY_V4, GATEWAY_V6, TUN_V4, TUN_V6
from tests.bed import people
from tests.bed.bed import Bed
from tests.bed.installed import Installed
from tests.bed.people import Person
from tests.bed.runs import Avne
from tests.bed.tornet.network import REPOSITORY

RUN_SECONDS = 90
Transcripts = dict[tuple[str, str], dict[str, list[str]]]  # by ("direct" or "avne", family), then case

# The world answers for the addresses that fail, as often as it is asked.  A route of type unreachable is
# "no route" in a forwarder's ICMPv6; a neighbour that does not answer is a host that is not there.
WORLD = f"""
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
echo 0 > /proc/sys/net/ipv4/icmp_ratelimit
echo 0 > /proc/sys/net/ipv6/icmp/ratelimit
ip link add wire mtu {TUN_MTU} type veth peer name wire mtu {TUN_MTU} netns $1
ip addr add {GATEWAY_V4}/30 dev wire
ip addr add {GATEWAY_V6}/64 dev wire nodad
ip link set wire up
ip link add dead type veth peer name end
ip link set dead up
ip link set end up
echo 1 > /proc/sys/net/ipv6/neigh/dead/mcast_solicit
echo 50 > /proc/sys/net/ipv6/neigh/dead/retrans_time_ms
ip route del unreachable 2001:db8::67
ip route add 2001:db8::67 dev dead
"""
CLIENT = f"""
ip link set lo up
ip addr add {TUN_V4}/30 dev wire
ip addr add {TUN_V6}/64 dev wire nodad
ip link set wire up
ip route add default via {GATEWAY_V4}
ip route add default via {GATEWAY_V6}
"""


@contextlib.contextmanager
def wired(bed: Bed) -> Iterator[list[str]]:
    """A network namespace whose only way out is a wire to the world; gives what enters it."""
    holder = subprocess.Popen(
        ["unshare", "--net", "--", "sh", "-c", "echo ready; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdin
    assert holder.stdout
    try:
        assert holder.stdout.readline() == b"ready\n"
        enter = ["nsenter", "-t", str(holder.pid), "-n", "--"]
        world = ["nsenter", "-t", str(bed.pid), "-n", "--"]
        for where, script in ((world, WORLD), (enter, CLIENT)):
            subprocess.run([*where, "sh", "-ec", script, "sh", str(holder.pid)], check=True)
        yield enter
    finally:
        holder.stdin.close()
        holder.wait(10)
        holder.stdout.close()


@contextlib.contextmanager
def library(installed: Installed) -> Iterator[Path]:
    """The client's modules, where an ordinary user inside avne can read them."""
    directory = Path(installed.dir) / "differential"
    for part in ("tests/__init__.py", "tests/bed/__init__.py", "tests/bed/places.py", "tests/differential"):
        source, target = REPOSITORY / part, directory / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    subprocess.run(["chmod", "-R", "u=rwX,go=rX", directory], check=True)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


class Arm:
    """One client, on its way through all cases, and its puppet."""

    def __init__(self, bed: Bed, argv: Sequence[str], directory: Path, name: str) -> None:
        self._file = directory / f"{name}.jsonl"
        self._log = directory / f"{name}.log"
        to_puppet, from_client = os.pipe()
        to_client, from_puppet = os.pipe()
        puppet = [sys.executable, "-m", "tests.differential.puppet", str(self._file)]
        with self._log.open("ab") as log:
            self._puppet = subprocess.Popen(
                ["nsenter", "-t", str(bed.pid), "-n", "--", *puppet],
                stdin=to_puppet,
                stdout=from_puppet,
                stderr=log,
                cwd=REPOSITORY,
            )
            self._client = subprocess.Popen(
                argv, stdin=to_client, stdout=from_client, stderr=log, start_new_session=True
            )
        for fd in (to_puppet, from_client, to_client, from_puppet):
            os.close(fd)

    def end(self) -> None:
        """Whatever it is doing; the supervisor ends the environment with it."""
        self._client.kill()
        self._client.wait()
        self._puppet.wait(10)

    def transcripts(self) -> dict[str, list[str]]:
        """Of all cases, when they are through."""
        status = self._client.wait(RUN_SECONDS)
        assert status == 0, self._log.read_text()
        return dict(json.loads(line) for line in self._file.read_text().splitlines())


def client_words(installed: Installed, modules: Path, family: str, cases: Sequence[str]) -> list[str]:
    return [
        "env", f"PYTHONPATH={modules}", "PYTHONDONTWRITEBYTECODE=1",
        installed.python, "-m", "tests.differential.client", family, *cases,
    ]  # fmt: skip


def run_both(
    bed: Bed, avne: Avne, installed: Installed, user: Person, directory: Path, cases: Sequence[str] = ()
) -> Transcripts:
    """All cases, directly and through avne, over IPv4 and IPv6; by (arm, family), then case."""
    arms = {}
    with library(installed) as modules, wired(bed) as enter, contextlib.ExitStack() as stack:
        for family in ("v4", "v6"):
            words = client_words(installed, modules, family, cases)
            direct = [*enter, *people.command_as(user, words, tun="host")]
            host, port = bed.socks_tcp
            through = avne.as_person(avne.argv(words, f"socks5://{host}:{port}", ()))
            for name, argv in (("direct", direct), ("avne", through)):
                arm = arms[name, family] = Arm(bed, argv, directory, f"{name}-{family}")
                stack.callback(arm.end)
        return {key: arm.transcripts() for key, arm in arms.items()}
