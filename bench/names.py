# SPDX-License-Identifier: GPL-3.0-or-later
"""From a name to the first byte, through Tor: avne in each mode beside torsocks and curl's own SOCKS.

``python -m bench.names [--count N] [--latency SECONDS] [--no-conflux]``, as root.  All use one Tor client of
the private network, and fetch the same page by turns, once by names that nobody has asked for, then by one
and the same.  The time is curl's own, from its start to the first byte of the answer.  All but torsocks,
which has a port of its own, have the same user name and password, so that they share circuits: two circuits
differ by more than what is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from typing import Self

from avne.cli import isolation
from avne.config import Config
from tests.bed import places
from tests.bed.bed import Bed

_FETCH = "curl -s -o /dev/null -w '%{{time_starttransfer}}\\n' {options} "
_LOOP = "while read url; do {fetch} $url; done"
MODES = ("truthful", "fast", "resolve", "tcp")
OPTIMISTIC = ("truthful", "fast")
NAME = "name=bench"
TO = "curl --socks5-hostname"


class Contestant:
    """A shell that fetches a URL a line, and answers with the seconds."""

    def __init__(self, name: str, prefix: list[str], fetch: str) -> None:
        self.name = name
        self.samples: dict[str, list[float]] = {"first": [], "again": []}
        self._process = subprocess.Popen(
            [*prefix, "sh", "-c", _LOOP.format(fetch=fetch)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def fetch(self, host: str) -> float:
        assert self._process.stdin
        assert self._process.stdout
        print(f"http://{host}/", file=self._process.stdin, flush=True)
        seconds = float(self._process.stdout.readline())
        if not seconds:
            raise SystemExit(f"{self.name}: no answer from {host}")
        return seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.communicate(timeout=60)


def contestants(bed: Bed) -> list[Contestant]:
    avne = [sys.executable, "-m", "avne", "run", "-q", "--upstream", bed.tor, "--resolver", places.RESOLVER]
    avne += ["--isolate", NAME]
    config = Config()
    config.set("isolate", NAME, "--isolate")
    user = ":".join(isolation.credentials(config))
    port = bed.network["socks_port"]
    direct = _FETCH.format(options="")
    proxy = shlex.quote(f"socks5h://localhost{bed.tor_path}")
    return [
        Contestant(TO, [], _FETCH.format(options=f"--proxy {proxy} --proxy-user {user}")),
        Contestant("torsocks curl", bed.inside(), f"torsocks -a 127.0.0.1 -P {port} {direct}"),
        *(Contestant(f"avne, {mode}", [*avne, "--dns", mode, "--"], direct) for mode in MODES),
        *(
            Contestant(
                f"avne, {mode}, optimistic", [*avne, "--dns", mode, "--optimistic", "80", "--"], direct
            )
            for mode in OPTIMISTIC
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=100, help="fetches of each kind by each")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds on the Tor client's links")
    parser.add_argument("--no-conflux", action="store_true", help="ConfluxEnabled 0 at the Tor client")
    options = parser.parse_args()
    with Bed() as bed, tempfile.TemporaryDirectory() as state, contextlib.ExitStack() as stack:
        os.environ["XDG_STATE_HOME"] = state  # where the secret of the name is
        torrc = (("client", "ConfluxEnabled 0"),) if options.no_conflux else ()
        bed.start_tor(torrc, latency=options.latency)
        everybody = [stack.enter_context(one) for one in contestants(bed)]
        for number, one in enumerate(everybody):
            one.fetch(f"warm{number}.www.{places.ZONE}")
        for n in range(options.count):
            for number, one in enumerate(everybody):
                one.samples["first"].append(one.fetch(f"f{n}-{number}.www.{places.ZONE}"))
        for _ in range(options.count):
            for number, one in enumerate(everybody):
                one.samples["again"].append(one.fetch(f"f0-{number}.www.{places.ZONE}"))
        report(everybody)


def report(everybody: list[Contestant]) -> None:
    base = {kind: statistics.median(samples) for kind, samples in everybody[0].samples.items()}
    print(f"{'median':26} {'first visit':>16} {'again':>16}")
    for one in everybody:
        cells = []
        for kind, samples in one.samples.items():
            median = statistics.median(samples)
            cells.append(f"{median * 1e3:7.1f} ms {median / base[kind]:4.2f} ×")
        print(f"{one.name:26} {cells[0]:>16} {cells[1]:>16}")


if __name__ == "__main__":
    main()
