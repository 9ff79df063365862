# SPDX-License-Identifier: GPL-3.0-or-later
"""Nothing gets out of an environment, in any mode; and every probe would show it if something did."""

from __future__ import annotations

import json
import re

import pytest

from avne.probes.probe import LEAKED, STOPPED, UNKNOWN, load
from tests.bed import people
from tests.bed.tornet.network import REPOSITORY
from tests.leaks import matrix
from tests.leaks.matrix import AVNE, CONTROL, HOST, NETNS, STRICT, UNSHOWN, USERNS

pytestmark = pytest.mark.timeout(240)


def test_every_probe_leaks_on_the_host(rows):
    """The positive control.  What this machine cannot show has its reason, and is little."""
    missing = matrix.unshown(rows)
    assert [name for name in missing if name not in UNSHOWN] == []
    assert len(load()) - len(missing) >= 120


def test_the_host_s_packets_are_on_the_wire(rows):
    """The oracle's control: it hears each kind of packet that the probes send."""
    heard = " ".join(rows[HOST].packets)
    kinds = ["tcp 198", "tcp 2001", "udp 198", "udp 2001", "icmp 198", "icmpv6 2001", ":53", ":443", ":853"]
    for kind in [*kinds, "→ 224.0.0.251:5353", "→ ff02:", "→ 239.255.255.250:1900", "→ 255.255.255.255"]:
        assert kind in heard, kind


@pytest.mark.parametrize("mode", AVNE)
def test_nothing_leaks(rows, mode):
    row = rows[mode]
    assert row.leaks() == {}
    assert row.named(UNKNOWN) == {}


def test_the_documented_hole_is_closed_by_strict(rows):
    """Sockets that are made later; the kernel may close it in the default, too."""
    known = {name for name, probe in load().items() if probe.known}
    assert known == {"unix-home-late", "unix-home-dgram-late", "unix-cwd-late"}
    assert {rows[HOST].findings[name].kind for name in known} == {LEAKED}
    assert {*rows[STRICT].named(LEAKED)} == LIMITS


LIMITS = {"deferred"}


def test_the_documented_limit_is_closed_by_a_private_home(rows, machine, installed):
    """What others run later: in no mode it is stopped, and shown as that."""
    assert {name for name, probe in load().items() if probe.limit} == LIMITS
    for mode in (HOST, *AVNE):
        assert {rows[mode].findings[name].kind for name in LIMITS} == {LEAKED}, mode
    private = matrix.row(machine, installed, matrix.PRIVATE, LIMITS)
    assert {finding.kind for finding in private.findings.values()} == {STOPPED}


@pytest.mark.parametrize("mode", AVNE)
def test_as_many_were_tried_as_outside(rows, mode):
    """A probe that finds nothing to try inside was not stopped: its absence is the host's too."""
    control = rows[CONTROL.get(mode, HOST)]
    absent = set(rows[mode].named("absent"))
    if mode == matrix.ROOT:
        assert rows[mode].findings["direct-dial"].kind == STOPPED
    else:
        absent.discard("direct-dial")  # netstack and workers let only root look into them
    assert {name for name in absent if control.findings[name].kind == LEAKED} == set()


@pytest.mark.parametrize("mode", AVNE)
def test_no_packet_leaves(rows, mode):
    assert rows[mode].packets == []


def test_bare_namespaces_leak(rows):
    """What avne is for: a network namespace alone lets most of it out."""
    assert rows[NETNS].count(LEAKED) >= 80
    assert rows[USERNS].count(LEAKED) >= 80


def test_the_document_knows_every_probe():
    """docs/leaks.md is of this list: make leaktest."""
    text = (REPOSITORY / "docs" / "leaks.md").read_text()
    assert re.findall(r"^\| L\d\d \| `([a-z0-9-]+)`", text, re.MULTILINE) == list(load())


def _verify(machine, installed, person, helper, *options):
    done = machine.run([installed.avne, "verify", *options], person, {"AVNE_HELPER": helper})
    assert done.stdout, done.stderr
    return done


def test_verify_says_so_in_json(machine, installed):
    done = _verify(machine, installed, people.ROOT, "auto", "--json", "--strict")
    report = json.loads(done.stdout)
    unproven = {probe["name"] for probe in report["probes"] if probe["result"] == "proves nothing"}
    assert unproven <= {*UNSHOWN, "setuid-program", "dev-kmsg"}
    assert (done.returncode, report["good"]) == (0, True)
    assert (report["counts"]["leaked"], report["counts"]["unknown"]) == (0, 0)
    assert report["mode"] == "root"
    assert report["counts"]["stopped"] >= 100
    assert report["upstream_requests"] >= 3, "the TCP probes came to the upstream"
    assert machine.packets() == [], "the controls of packets are not sent on a real wire"


def _column(line):
    """Where the sentence begins, which may hold the probe's name again."""
    name = line.split()[2]
    return line.index(load()[name].sentence[:20], line.index(name) + len(name))


def test_verify_prints_a_board(machine, installed):
    """Exit 1 as long as the kernel leaves the documented hole open, and it says what closes it."""
    done = _verify(machine, installed, machine.user, "setuid")
    *board, total, about = done.stdout.splitlines()
    leaks = [line for line in board if "LEAKS" in line]
    assert all("LEAKS, as documented; what stops it: Linux 7.1, --strict" in line for line in leaks)
    assert done.returncode == (1 if leaks else 0), done.stdout + done.stderr
    assert re.match(
        rf"\d+ ways out that are open outside: \d+ stopped, {len(leaks)} leak, 1 documented limit; \d+ could",
        total,
    )
    assert "setuid" in about
    lines = [line for line in board if line.startswith("  ✓ ")]
    assert len(lines) >= 100
    assert len({_column(line) for line in lines}) == 1, "aligned"
    assert any(line.startswith("Not tried (shows a leak to root only): ") for line in board)


_LOOK = """
import json, subprocess, sys, tempfile
from avne.probes.upstream import Refuser
avne = sys.argv[1]
with tempfile.TemporaryDirectory() as place:
    upstream = Refuser(place + "/upstream")
    run = [avne, "run", "--quiet", "--upstream", upstream.url, "--name", "looked-at"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([*run, "sh", "-c", "echo up; read end"], **pipes) as one:
        assert one.stdout.readline() == b"up\\n"
        look = [avne, "verify", "--json", "--session", "looked-at"]
        done = subprocess.run(look, capture_output=True, text=True)
        one.stdin.close()
    print(json.dumps([done.returncode, done.stdout, done.stderr, upstream.asked]))
    upstream.close()
"""


def test_verify_looks_at_one_that_runs(machine, installed):
    """By attach; its upstream is asked nothing, and what cannot be tried there is said."""
    words = [installed.python, "-I", "-c", _LOOK, installed.avne]
    done = machine.run(words, people.ROOT, {"AVNE_HELPER": "auto"})
    assert done.returncode == 0, done.stderr
    code, text, errors, asked = json.loads(done.stdout)
    assert text, errors
    report = json.loads(text)
    known = {probe["name"] for probe in report["probes"] if probe["known"]}
    leaks = {probe["name"] for probe in report["probes"] if probe["result"] == "leaked"}
    assert leaks <= known, text
    assert (code, report["good"]) == ((1, False) if leaks else (0, True))
    assert report["session"] == "looked-at"
    assert report["counts"]["unknown"] == 0
    assert report["counts"]["stopped"] >= 80
    assert (report["upstream_requests"], asked) == (None, 0)
    reasons = {probe["name"]: probe["how"] for probe in report["probes"] if probe["result"] == "absent"}
    assert "upstream" in reasons["tcp4"]
    assert machine.packets() == []


def test_verify_of_one_that_is_not_there(machine, installed):
    done = machine.run([installed.avne, "verify", "--session", "nobody"], people.ROOT, {})
    assert done.returncode != 0
    assert "there is no environment 'nobody' of yours" in done.stderr
