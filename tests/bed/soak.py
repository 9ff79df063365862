# SPDX-License-Identifier: GPL-3.0-or-later
"""``make soak-browser``: a browser that never rests, and an uplink that must stay silent meanwhile.

    python -m tests.bed.soak [--seconds N] [--program chromium] [--mode rootless]

Pages that load again and again, fetches, WebSockets, names that are asked for in advance, QUIC and WebRTC,
and what the browser itself wants of its maker.  Prints what it did, as the receipt has it, and what was
heard.  Exit status 0 when no packet was, and one of the same browser without avne was.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from tests.bed import browsers, people, places
from tests.bed.bed import Bed
from tests.bed.installed import Installed
from tests.bed.people import Person
from tests.bed.runs import Avne, Place
from tests.bed.uplink import Uplink
from tests.bed.wire import Packet, Wire, of_the_world

OPTIONS = {"chromium": [f"--origin-to-force-quic-on=www.{places.ZONE}:443"]}
_TURN = 4000  # ms of a page's life
_CONTROL = 20.0  # until the browser without avne must have been heard


class Soak(NamedTuple):
    turns: int
    told: Counter[str]  # by the pages: what they did
    packets: list[Packet]  # on the uplink: none, or avne leaks
    betraying: list[Packet]  # on the machine's own network, with a name or an address of the world
    heard: int  # packets on the uplink of the same browser without avne
    receipt: dict[str, Any]


def control(avne: Avne, uplink: Uplink, program: str) -> int:
    """How many packets the uplink hears of the browser without avne; at the first it is ended."""
    with browsers.outside(avne, program) as browser:
        browser.tell(open=f"http://{places.V4}/")
        uplink.wait(_CONTROL)
        return len(uplink.packets())


def soak(avne: Avne, bed: Bed, upstream: str, program: str, seconds: float) -> Soak:
    """`avne` in a network of its own; the world's onion service is spoken to if there is one."""
    onion = bed.onion if bed.network else f"v6.{places.ZONE}"
    url = f"http://www.{places.ZONE}/browser/soak?other=v4.{places.ZONE}&onion={onion}"
    told: Counter[str] = Counter()
    turns = 0
    with Uplink() as uplink, Wire() as host, tempfile.TemporaryDirectory() as scratch:
        there = uplink.of(avne)
        heard = control(there, uplink, program)
        uplink.packets()
        Path(scratch).chmod(0o777)
        receipt = f"{scratch}/receipt"
        options = ["--receipt", receipt]
        with browsers.inside(there, upstream, program, *OPTIONS.get(program, ()), options=options) as browser:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                if error := browser.open(url):
                    raise RuntimeError(f"the page did not come: {error}")
                turns += 1
                title = browser.ask(f"new Promise(done => setTimeout(() => done(document.title), {_TURN}))")
                told.update(json.loads(title))
            browser.close()
        written = json.loads(Path(receipt).read_text())
        return Soak(turns, told, uplink.packets(), of_the_world(host.packets()), heard, written)


def show(found: Soak) -> bool:
    """Prints it; whether all is as it should be."""
    tried, network = found.receipt["tried"], found.receipt["network"]
    print(f"pages opened {found.turns}; they did: {dict(found.told)}")
    for name in (
        "connections",
        "opened",
        "refused",
        "reset",
        "names",
        "udp",
        "icmp",
        "multicast",
        "malformed",
    ):
        print(f"  {name}: {tried[name]}")
    print(f"  packets out of the tun, by kind: {network['packets']}")
    print(
        f"packets on the uplink: {len(found.packets)}; on the machine's own, of ours: {len(found.betraying)}"
    )
    print(f"(of the same browser without avne, at its first page: {found.heard})")
    for packet in [*found.packets, *found.betraying][:20]:
        print(f"  {packet}")
    return not found.packets and not found.betraying and found.heard > 0


def _avne(mode: str, installed: Installed, person: Person) -> tuple[Avne, Place]:
    tun = "0666" if mode == "rootless" else "0600"
    place = Place(tun, installed.avne if mode == "setuid" else "", person.name)
    return Avne(mode, installed.avne, person, place), place


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bed.soak")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--program", default="chromium", choices=["chromium", "firefox-esr"])
    parser.add_argument("--mode", default="rootless", choices=["rootless", "setuid"])
    chosen = parser.parse_args()
    person, made = people.add_person(people.TEST_USER)
    try:
        with Bed() as bed, Installed() as installed:
            bed.start_tor()
            avne, place = _avne(chosen.mode, installed, person)
            try:
                found = soak(avne, bed, bed.tor, chosen.program, chosen.seconds)
            finally:
                place.close()
    finally:
        if made:
            people.remove_person(person)
    print(f"{chosen.program}, {chosen.mode}, {chosen.seconds:.0f} s")
    return 0 if show(found) else 1


if __name__ == "__main__":
    sys.exit(main())
