# SPDX-License-Identifier: GPL-3.0-or-later
"""The veth pair in the place of a tun: silent, alone at its other end, and gone with its descriptor."""

from __future__ import annotations

import fcntl
import glob
import json
import os
import select
import socket
import struct
import time

from avne.netstack.wire import ethernet, vnet
from avne.privileged import launch
from tests.privileged import stage
from tests.privileged.test_attach import SNIFF, Guest, Running

VETH = stage.Mode("veth", stage.UID, stage.GID, stage.GROUPS, 0o600)
FRAME = 70000
SIOCGSKNS = 0x894C  # <linux/sockios.h>


def test_it_says_why_it_is_no_tun(helper):
    def work():
        environment = launch.Environment(str(stage.prepare(helper, VETH)))
        event = environment.receive()
        environment.close()
        event.close()
        return launch.instead_of_tun(event)

    assert stage.apart(work) == ", over a veth pair, as /dev/net/tun cannot be opened (Permission denied)"


def test_the_network_is_as_verify_wants_it(helper, installed):
    done = stage.inside(helper, VETH, [installed.python, "-I", "-m", "avne.privileged.verify"])
    assert (done.out, done.err, done.status) == ("the environment's network is as it should be\n", "", 0)


def test_it_is_silent_until_the_program_speaks(helper):
    code = "import socket; socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto(b'x', ('2001:db8::1', 9))"

    def work():
        environment = launch.Environment(str(stage.prepare(helper, VETH)))
        packets = environment.receive().fd
        poll = select.poll()
        poll.register(packets, select.POLLIN)
        before = poll.poll(2000)
        environment.go([stage.PYTHON, "-I", "-S", "-c", code], stage.ENVIRONMENT, 0, 0)
        assert poll.poll(5000), "the control"
        frame = os.read(packets, FRAME)
        environment.close()
        os.close(packets)
        return [len(before), frame.hex()]

    silent, frame = stage.apart(work)
    assert silent == 0
    data = bytes.fromhex(frame)
    assert data[: vnet.SIZE] == vnet.partial(ethernet.SIZE + 40, 6)
    assert data[vnet.SIZE : vnet.SIZE + ethernet.SIZE] == ethernet.GUEST * 2 + b"\x86\xdd"
    assert data[24] >> 4 == 6


SPEAK = """
import socket, struct
packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
packets.bind(("tun0", 0))
stack, guest = bytes.fromhex("0261766e6501"), bytes.fromhex("0261766e6502")
def words(*parts):
    return struct.pack("!%dH" % len(parts), *parts)
def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data)) % 0xFFFF
    return ~total & 0xFFFF
def v4(protocol, body, target):
    head = words(0x4500, 20 + len(body), 1, 0, 0x4000 | protocol, 0) + socket.inet_aton("10.213.0.2") + target
    return head[:10] + words(checksum(head)) + head[12:] + body
echo = words(0x0800, 0, 1, 1); echo = echo[:2] + words(checksum(echo)) + echo[4:]
source = socket.inet_pton(socket.AF_INET6, "fd61:766e:6500::2")
nodes = socket.inet_pton(socket.AF_INET6, "ff02::1")
echo6 = words(0x8000, 0, 1, 1)
pseudo = source + nodes + words(0, len(echo6), 0, 58)
echo6 = echo6[:2] + words(checksum(pseudo + echo6)) + echo6[4:]
v6 = words(0x6000, 0, len(echo6), 0x3AFF) + source + nodes + echo6
arp = words(1, 0x0800, 0x0604, 1) + guest + socket.inet_aton("10.213.0.2") + bytes(6)
for to in (stack, b"\\xff" * 6, b"\\x33\\x33\\0\\0\\0\\1"):
    for target in ("10.213.0.1", "10.213.0.3", "127.0.0.1", "192.0.2.1"):
        target = socket.inet_aton(target)
        packets.send(to + guest + b"\\x08\\0" + v4(1, echo, target))
        packets.send(to + guest + b"\\x08\\0" + v4(17, words(9, 9, 8, 0), target))
        packets.send(to + guest + b"\\x08\\0" + v4(99, b"none", target))
        packets.send(to + guest + b"\\x08\\6" + arp + target)
    packets.send(to + guest + b"\\x86\\xdd" + v6)
    packets.send(to + guest + b"\\x88\\xb5" + bytes(46))
print(open("/sys/class/net/tun0/statistics/tx_packets").read().strip())
packets.settimeout(0.5)
packets.bind(("tun0", 3))
try: print("answered", packets.recv(2000).hex())
except TimeoutError: print(open("/sys/class/net/tun0/statistics/rx_packets").read().strip())
"""


def test_the_kernel_at_its_other_end_answers_nothing(helper):
    """Not even frames that are forged to reach it: its address, everybody's, all nodes'."""

    def work():
        running = Running(stage.prepare(helper, VETH))
        answer = Guest(running).run(stage.PYTHON, "-I", "-c", SPEAK, raw=True)
        seen = 0
        while select.select([running.tun], [], [], 0)[0]:
            seen += len(os.read(running.tun, FRAME)) > 0
        running.close()
        return [*answer, seen]

    code, said, seen = stage.apart(work)
    assert (code, said) == (0, "54\n0\n")
    assert seen == 54, "all of them have arrived, where they are refused or dropped"


def test_capturing_inside_works(helper):
    def work():
        running = Running(stage.prepare(helper, VETH))
        answers = [Guest(running).run(stage.PYTHON, "-I", "-c", SNIFF, raw=raw) for raw in (True, False)]
        running.close()
        return answers

    (code, seen), (without, _) = stage.apart(work)
    assert code == 0, seen
    assert all(json.loads(seen)[0])
    assert without != 0


def _holders(space):
    """The processes that are in a network namespace or hold it by a descriptor, as root sees them."""
    found = []
    for path in [*glob.glob("/proc/[0-9]*/ns/net"), *glob.glob("/proc/[0-9]*/fd/*")]:
        try:
            if os.stat(path).st_ino == space.st_ino and os.stat(path).st_dev == space.st_dev:
                found.append(path)
        except OSError:
            continue
    return found


def test_nobody_is_in_the_namespace_at_its_other_end(helper):
    """No process, and no descriptor of it: the packet socket alone keeps it."""
    ours, theirs = socket.socketpair()

    def work():
        running = Running(stage.prepare(helper, VETH))
        socket.send_fds(theirs, [struct.pack("=i", running.environment.init)], [running.tun])
        theirs.recv(1)
        running.close()

    with ours, theirs:
        pid = os.fork()
        if pid == 0:
            work()
            os._exit(0)
        data, (packets,), _, _ = socket.recv_fds(ours, 4, 1)
        (init,) = struct.unpack("=i", data)
        space = fcntl.ioctl(packets, SIOCGSKNS)
        status = os.fstat(space)
        os.close(space)
        holders = _holders(status)
        links = [os.readlink(path) for path in glob.glob(f"/proc/{init}/fd/*")]
        own = os.stat(f"/proc/{init}/ns/net")
        control = _holders(own)
        ours.send(b"x")
        os.waitpid(pid, 0)
        os.close(packets)
    assert holders == []
    assert f"/proc/{init}/ns/net" in control
    assert own.st_ino != status.st_ino
    assert not [link for link in links if link.startswith("net:")]
    assert len([link for link in links if link.startswith("socket:")]) == 1, "its line to the supervisor"


def test_with_its_last_descriptor_the_pair_is_gone(helper):
    """As a tun: the supervisor's copy and the netstack's are all that keep it."""

    def work():
        running = Running(stage.prepare(helper, VETH))
        copy = os.dup(running.tun)
        os.close(running.tun)
        links = Guest(running).run("cat", "/proc/net/dev")[1]
        assert "tun0" in links, "one is left"
        os.close(copy)
        running.tun = os.open("/dev/null", os.O_RDONLY)
        until = time.monotonic() + stage.BOUND / 2
        while "tun0" in links and time.monotonic() < until:
            links = Guest(running).run("cat", "/proc/net/dev")[1]
        errors = Guest(running).run(
            stage.PYTHON, "-I", "-c",
            "import socket\nfor f, a in ((2, '192.0.2.1'), (10, '2001:db8::1')):\n"
            " print(socket.socket(f, 2).connect_ex((a, 9)))",
        )[1]  # fmt: skip
        running.close()
        return [links, errors]

    links, errors = stage.apart(work)
    assert "tun0" not in links
    assert errors == "101\n101\n", "ENETUNREACH"
