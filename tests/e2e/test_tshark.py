# SPDX-License-Identifier: GPL-3.0-or-later
"""`--capture`: tshark, which knows nothing of avne, reads the session and finds nothing wrong with it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests import pcapng
from tests.bed import places

# Everything that a session can hold: names, both families, super-segments both ways, what is refused.
SCRIPT = f"""
wget -qO- http://www.{places.ZONE}/
curl -sS http://[{places.V6}]/ http://[{places.V6}]/bytes/3000000 -o page6 -o bytes
wget -qO- http://www.{places.ZONE}/bytes/3000000 | cmp - bytes && echo the same
curl -4 -sS -T bytes http://www.{places.ZONE}/upload -o /dev/null
curl -sS http://{places.V4}:{places.REFUSED}/ 2>/dev/null; echo refused $?
for host in 203.0.113.68 [2001:db9::68]; do curl -sS http://$host/ 2>/dev/null; echo unreachable $?; done
getent ahosts v6.{places.ZONE} >/dev/null; echo found $?
getent ahosts nx.{places.ZONE}; echo not found $?
for host in {places.V4} {places.V6}; do
    python3 -c 'import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.connect((sys.argv[1], 443)); s.settimeout(5)
for size in 1, 2000:
    s.send(bytes(size))
    try: s.recv(1)
    except ConnectionRefusedError: print("no QUIC")' $host
    ping -q -c1 -W3 $host >/dev/null; echo ping $?
done
"""
SAID = places.PAGE + (
    "the same\nrefused 7\nunreachable 7\nunreachable 7\nfound 0\nnot found 2\n"
    + 2 * "no QUIC\nno QUIC\nping 1\n"
)
VALIDATE = ["ip", "tcp", "udp"]  # the checksums that are not validated unless tshark is told to
BAD = " || ".join(f'{layer}.checksum.status == "Bad"' for layer in ("ip", "tcp", "udp", "icmp", "icmpv6"))
WRONG = f"_ws.malformed || _ws.expert.severity == error || {BAD}"

SEGMENT = "tcp && !icmp && !icmpv6"
GOOD_SEGMENT = f'{SEGMENT} && tcp.checksum.status == "Good"'
SEEN = [
    f'http.request.full_uri == "http://www.{places.ZONE}/"',
    f'http.request.full_uri == "http://[{places.V6}]/"',
    "ipv6 && http.response",
    'icmp.code == 3 && udp && frame.packet_flags_direction == "Inbound"',
    "icmp.code == 13",
    "icmp.code == 0 && tcp",
    "icmpv6.code == 0 && tcp",
    "icmpv6.code == 1",
    "icmpv6.code == 4 && udp",
    "dns.flags.rcode == 3",
    "tcp.flags.reset == 1",
    "tcp.len > 60000 && ip.src == 10.213.0.2",
    "tcp.len > 60000 && ipv6.dst == fd61:766e:6500::2",
    'frame.packet_flags_direction == "Outbound"',
    'frame.interface_name matches "^avne [0-9a-f]{6}$"',
    'frame.comment contains "opened" && tcp.flags.syn == 1 && tcp.flags.ack == 1',
    'frame.comment contains "code 0x05: RST" && tcp.flags.reset == 1',
    'frame.comment contains "code 0x03: ICMP" && icmpv6',
]


@pytest.fixture
def tshark(tmp_path):
    """tshark(file, WORD…): its output's lines; it may not complain."""

    def run(file, *words):
        checks = [word for layer in VALIDATE for word in ("-o", f"{layer}.check_checksum:TRUE")]
        done = subprocess.run(
            ["tshark", "-n", *checks, "-r", str(file), *words],
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        complaints = [line for line in done.stderr.splitlines() if "Running as user" not in line]
        assert not complaints
        return done.stdout.splitlines()

    return run


@pytest.mark.parametrize("mode", ["rootless", "root"])
def test_tshark_finds_nothing_wrong_with_a_session(in_mode, bed, tmp_path_for, tshark, mode):
    avne = in_mode(mode)
    there = tmp_path_for(avne)
    file = there / "session.pcapng"
    done = avne.run(
        "sh", "-c", SCRIPT, upstream=bed.socks, options=["--capture", "session.pcapng"], cwd=there
    )
    assert (done.stdout, done.stderr, done.returncode) == (SAID, "", 0)
    status = file.stat()
    assert (status.st_mode & 0o777, status.st_uid) == (0o600, avne.person.uid)

    assert tshark(file, "-Y", WRONG) == []
    packets = pcapng.read(file.read_bytes()).packets
    count = counted(tshark, file, ["frame", SEGMENT, GOOD_SEGMENT])
    assert count["frame"] == len(packets)
    assert count[GOOD_SEGMENT] == count[SEGMENT] > 100
    assert [what for what, frames in counted(tshark, file, SEEN).items() if not frames] == []
    # Names by our name block: those of the DNS answers in the file are not used.
    hosts = tshark(file, "-N", "m", "-q", "-z", "hosts,ipv4")
    assert [line.split("\t")[1] for line in hosts if line.startswith("198.18.")] == [f"www.{places.ZONE}"]

    for copy in damaged_copies(file, packets):
        assert tshark(copy, "-Y", WRONG), copy.name
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(AssertionError, match="cut short"):
        tshark(file, "-Y", WRONG)


def counted(tshark, file, filters: list[str]) -> dict[str, int]:
    """How many frames pass each filter."""
    rows = tshark(file, "-q", "-z", ",".join(["io,stat,0", *filters]))
    (row,) = [row.split("|") for row in rows if "<>" in row]  # interval, then frames and bytes of each
    return dict(zip(filters, map(int, row[2:-1:2]), strict=True))


def damaged_copies(file: Path, packets: list[pcapng.Packet]) -> list[Path]:
    """The positive control: copies of a capture that have one bit changed each, somewhere in a packet."""
    large = next(packet for packet in packets if len(packet.data) > 60000 and packet.data[0] == 0x45)
    query = next(packet for packet in packets if packet.data[9] == 17 and packet.data[22:24] == b"\0\x35")
    error = next(packet for packet in packets if packet.data[9] == 1)
    places = {
        "payload": large.at + 50_000,
        "ip-ttl": large.at + 8,
        "tcp-checksum": large.at + 37,
        "udp-checksum": query.at + 27,
        "dns-length": query.at + 25,
        "icmp-code": error.at + 21,
    }
    copies = []
    for name, at in places.items():
        data = bytearray(file.read_bytes())
        data[at] ^= 1
        copies.append(file.with_suffix(f".{name}"))
        copies[-1].write_bytes(data)
    return copies
