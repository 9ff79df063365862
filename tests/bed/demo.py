# SPDX-License-Identifier: GPL-3.0-or-later
"""`make demo`: an unmodified wget fetches a page through avne and a Tor network of this machine's own.

Shows the page, the relays of the circuit, and what left on the host's own interfaces.  Exit status 0
when the page came, through three relays, and nothing of it was on a wire.
"""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import time
from pathlib import Path

from tests.bed import people, places
from tests.bed.bed import Bed, BedError
from tests.bed.people import Person
from tests.bed.tornet.control import Hop
from tests.bed.wire import Packet, Wire, of_the_world, open_connections

AVNE = Path(sys.executable).with_name("avne")
URL = f"http://www.{places.ZONE}/"
BOLD, PLAIN = ("\033[1m", "\033[0m") if sys.stdout.isatty() and "NO_COLOR" not in os.environ else ("", "")


def title(text: str) -> None:
    print(f"\n{BOLD}{text}{PLAIN}", flush=True)


def indent(text: str) -> None:
    for line in text.splitlines():
        print(f"    {line}", flush=True)


def fetch(person: Person, bed: Bed) -> str:
    """Run wget in avne; what it wrote.  SystemExit when it failed."""
    words = [str(AVNE), "run", "--upstream", bed.tor, "--resolver", places.RESOLVER, "wget", "-qO-", URL]
    title(f"$ avne run wget -qO- {URL}")
    indent(f"(as {person.name}; in full: {shlex.join(words)})")
    with tempfile.TemporaryDirectory() as scratch:
        os.chown(scratch, person.uid, person.gid)
        env = {"XDG_STATE_HOME": f"{scratch}/state", "XDG_CONFIG_HOME": f"{scratch}/config"}
        begin = time.monotonic()
        done = people.run_as(person, words, env=env, tun=_tun_for(person), cwd="/")
        took = time.monotonic() - begin
        indent(done.stdout)
        indent(done.stderr)
        if done.returncode:
            indent(f"avne ended with status {done.returncode}")
            for log in Path(scratch).rglob("*.log"):
                indent(log.read_text(errors="replace")[-3000:])
            raise SystemExit(1)
    indent(f"({took:.2f} s)")
    return str(done.stdout)


def _tun_for(person: Person) -> str:
    """Where this machine lets only root open the tun, the demo gives the program one of its own."""
    if person.uid == 0 or os.stat("/dev/net/tun").st_mode & 0o006 == 0o006:
        return "host"
    indent(f"(/dev/net/tun is for root only here: {person.name} gets a private one for this demo)")
    return "open"


def show_circuit(target: str, hops: list[Hop]) -> None:
    title("The way that Tor says it took")
    for hop, role in zip(hops, ("guard", "middle", "exit"), strict=False):
        indent(f"{role:7} {hop.nickname:8} {hop.fingerprint}")
    indent(f"{'server':7} {target}")


def show_wires(wire: Wire, packets: list[Packet], before: set[tuple[str, int, str, int]]) -> bool:
    """What left the machine meanwhile; true when none of it was ours."""
    title("On this machine's own interfaces meanwhile")
    for name, count in wire.sent().items():
        indent(f"{name}: {count} packets sent")
    ours = of_the_world(packets)
    others = [p for p in packets if p.flow not in before and p not in ours]
    indent(f"to the server, or with its name in them: {len(ours)}")
    indent(
        f"of connections that were open before (a remote shell …): {len(packets) - len(ours) - len(others)}"
    )
    indent(f"of other programs of this machine: {len(others)}")
    for packet in [*ours, *others][:10]:
        indent(f"  {packet}")
    if wire.lost():
        indent("some packets were not seen: this machine is too busy for the demo")
        return False
    return not ours


def demo() -> int:
    person = people.caller()
    if not AVNE.exists():
        print(f"{AVNE} is not there: make venv", file=sys.stderr)
        return 1
    title("A private Tor network, and a web server that only its exits can reach (about 15 s)")
    with Bed() as bed:
        begin = time.monotonic()
        bed.start_tor()
        nodes = [node["role"] for node in bed.network["nodes"].values()]
        counts = ", ".join(f"{nodes.count(role)} {role}" for role in dict.fromkeys(nodes))
        indent(f"{counts}: up after {time.monotonic() - begin:.0f} s")
        with Wire() as wire, bed.control() as control:
            control.command("SETEVENTS STREAM")
            before = open_connections()
            page = fetch(person, bed)
            packets = wire.packets()
            streams = [event for event in control.stream_events() if event[1] == "SUCCEEDED"]
            streams = [event for event in streams if event[3].endswith(f":{places.WEB}")]
            hops = control.circuit(streams[-1][2]) if streams else []
            show_circuit(streams[-1][3] if streams else "?", hops)
            quiet = show_wires(wire, packets, before)
    good = page == places.PAGE and len(hops) == 3 and quiet
    title(
        "The page came through three relays; nothing of it left this machine."
        if good
        else "Not as it should be."
    )
    return 0 if good else 1


if __name__ == "__main__":
    try:
        sys.exit(demo())
    except BedError as error:
        sys.exit(f"demo: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
