# SPDX-License-Identifier: GPL-3.0-or-later
"""What the bed does to the host: nothing; and it would notice if something did."""

import os
import select
import socket
import stat
import subprocess
import sys
import time

import pytest

from tests.bed import people, places
from tests.bed.bed import Bed
from tests.bed.namespaces import fresh_network, open_tun
from tests.bed.tornet.network import REPOSITORY
from tests.bed.tornet.processes import poll
from tests.bed.wire import Wire, of_the_world, open_connections


def test_the_wire_notices_a_packet_to_the_world():
    """The positive control of every test that says that nothing leaves."""
    with fresh_network():
        tun = open_tun("leaky0")
        for line in ("link set lo up", "link set leaky0 up", "route add default dev leaky0"):
            subprocess.run(["ip", *line.split()], check=True)
        subprocess.run(["ip", "addr", "add", "10.9.9.9/32", "dev", "leaky0"], check=True)
        with Wire() as wire, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"to myself", ("127.0.0.1", 9))
            assert of_the_world(wire.packets()) == []
            sock.sendto(b"by address", (places.V4, 9))
            sock.sendto(b"\x03www\x04test\x07example\x00", ("192.0.2.53", 53))
            sock.sendto(b"innocent", ("192.0.2.1", 123))
            packets = [packet for packet in wire.packets() if packet.kind == "udp"]
            assert [packet.target for packet in packets] == [places.V4, "192.0.2.53", "192.0.2.1"]
            assert of_the_world(packets) == packets[:2]
            on_the_wire = 0
            while on_the_wire < 3:
                on_the_wire += os.read(tun, 2048)[0] >> 4 == 4  # IPv4
            assert wire.sent()["leaky0"] >= 3
            assert wire.lost() == 0
        os.close(tun)


def test_the_world_leaves_no_packet_on_the_wire(bed, wire):
    """Whatever a server or a relay does: the world has no line to the host's interfaces."""
    probe = f"import socket; socket.socket(2, 2).sendto(b'x', ('{places.V4}', 9))"
    subprocess.run(bed.inside(sys.executable, "-c", probe), check=True)
    done = subprocess.run(bed.inside("ip", "-br", "link"), check=True, capture_output=True, text=True)
    assert sorted(row.split()[0] for row in done.stdout.splitlines()) == ["lo", "nobody"]
    assert of_the_world(wire.packets()) == []


def test_open_connections_are_known():
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as c,
    ):
        assert (*c.getsockname(), *c.getpeername()) in open_connections()


@pytest.mark.parametrize("sudden", [False, True])
def test_a_world_goes_with_whoever_made_it(sudden):
    program = (
        "import os, sys; from tests.bed.bed import Bed\n"
        "with Bed() as bed: print(bed.dir, bed.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        directory, pid = owner.stdout.readline().split()
        init = os.pidfd_open(int(pid))
        if sudden:
            owner.kill()
        else:
            owner.stdin.close()
        assert select.select([init], [], [], 20)[0], "the world lives on"
        os.close(init)
        owner.wait(20)
    assert os.path.exists(directory) is sudden
    with Bed():  # the next one clears away what the kill left
        assert not os.path.exists(directory)


def test_a_program_of_an_ordinary_user(user, monkeypatch):
    monkeypatch.setenv("SECRET", "of the test run")
    before = os.stat("/dev/net/tun")
    script = "id -un; id -Gn; pwd; umask; stat -c %a /dev/net/tun; exec env"
    done = people.run_as(user, ["sh", "-c", script], env={"AVNE_WORKERS": "2"})
    name, groups, cwd, umask, mode, *variables = done.stdout.splitlines()
    assert (name, groups, cwd, umask, mode) == (user.name, user.name, str(user.home), "0022", "666")
    environment = dict(line.split("=", 1) for line in variables)
    assert environment.keys() - {"PWD", "_", "SHLVL", "OLDPWD", "TERM"} == {
        *("HOME", "SHELL", "USER", "LOGNAME", "PATH", "LANG", "AVNE_WORKERS")
    }
    assert environment["HOME"] == str(user.home)
    assert stat.S_IMODE(os.stat("/dev/net/tun").st_mode) == stat.S_IMODE(before.st_mode)


def test_a_program_without_a_tun(user):
    assert people.run_as(user, ["ls", "/dev/net"], tun="none").stdout == ""


def test_an_installation_runs_as_an_ordinary_user(installed, user):
    program = "import avne, dnslib, msgpack, pyroute2, socks, sys, zmq; print(avne.__file__)"
    done = people.run_as(user, [installed.python, "-I", "-c", program])
    assert done.stdout.startswith(str(installed.dir)), done.stderr


def test_what_a_run_leaves_is_found_and_ended():
    program = (
        "from tests.bed import leftovers; import subprocess\n"
        "leftovers.watch_over(); before = leftovers.Snapshot()\n"
        "daemon = ['setsid', '--fork', 'sh', '-c', 'echo up; sleep 600; true']\n"
        "with subprocess.Popen(daemon, stdout=subprocess.PIPE) as starter: starter.stdout.readline()\n"
        "print(before.leftovers()); print(before.leftovers())"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    first, second = done.stdout.splitlines()
    assert "sleep 600" in first, done
    assert second == "[]"


def test_a_run_ends_as_its_child_ends():
    program = "from tests.bed import leftovers; import os; leftovers.watch_over(); os._exit(7)"
    assert subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY).returncode == 7


def test_an_orphan_is_reaped():
    """A test may ask whether a process is gone: an orphan must not stay as a zombie."""
    done = subprocess.run(["sh", "-c", "sleep 0.1 >/dev/null & echo $!"], capture_output=True, text=True)
    deadline = time.monotonic() + 10
    poll("it is still there", lambda: not os.path.exists(f"/proc/{int(done.stdout)}"), deadline)
