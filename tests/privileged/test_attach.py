# SPDX-License-Identifier: GPL-3.0-or-later
"""Attaching: what a second program gets, and that nothing said to init ends it or is granted."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import select
import signal
import socket
import time
from pathlib import Path

import pytest

from avne.privileged import attach, launch
from avne.privileged.attach import Attachment, Ending, Terminal, Wish
from tests.privileged import stage
from tests.privileged.stage import BOUND, ENVIRONMENT

FOR_EVER = ["sleep", "infinity"]
PLAIN = Wish(["true"], ENVIRONMENT, "/", 0, 0, 0o022, 0, False)


class Guest(Attachment):
    """A connection to `running`'s init, over a socket pair instead of a supervisor's door."""

    def __init__(self, running, line=None):
        self._layout = launch.layout()
        self._first = None
        self._line, theirs = line or socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._line.settimeout(BOUND)
        running.guests.append(self)
        with theirs:
            running.environment.attach(theirs.fileno())

    def send(self, data, fds=()):
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            socket.send_fds(self._line, [data], fds)

    def run(self, *argv, **changes):
        """`argv` to its end: the exit code, and what it wrote."""
        output = os.memfd_create("output")
        try:
            self.request(PLAIN._replace(argv=list(argv), **changes), (0, output, output))
            assert self.receive() == launch.Started()
            event = self.receive()
            return os.waitstatus_to_exitcode(event.status), os.pread(output, 1 << 20, 0).decode()
        finally:
            os.close(output)
            self.close()


class Running:
    """An environment of this process with a program that lives until it is told otherwise."""

    def __init__(self, helper, argv=FOR_EVER):
        self.environment = launch.Environment(os.fspath(helper))
        event = self.environment.receive()
        assert isinstance(event, launch.Tun), event
        self.guests = []
        self.tun = event.fd
        os.close(event.diag)
        self.environment.go(argv, ENVIRONMENT, 0, 0)
        assert self.environment.receive() == launch.Started()

    def works(self):
        """Whether init still does what it is asked for, and the first program runs."""
        assert Guest(self).run("echo", "hi") == (0, "hi\n")
        assert not select.select([self.environment], [], [], 0)[0]
        return True

    def close(self):
        for guest in self.guests:
            guest.close()
        self.environment.close()
        os.close(self.tun)


@pytest.fixture
def running(helper):
    running = Running(helper)
    yield running
    running.close()


def _memory(data):
    fd = os.memfd_create("strings")
    os.write(fd, data)
    return fd


def _packed(**changes):
    fields = {
        "magic": launch.MAGIC, "type": launch.ATTACH, "layout": launch.layout(), "stage": 0, "value": 0,
        "ignored": 0, "blocked": 0, "argc": 1, "envc": 0, "umask": 0, "personality": 0,
        "terminal": 0, "raw": 0,
    }  # fmt: skip
    return attach.REQUEST.pack(*{**fields, **changes}.values())


# What it gets

FACTS = """
import json, os
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
kept = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")
print(json.dumps({
    **{name: status[name].split() for name in kept},
    "namespaces": {name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")},
    "limits": open("/proc/self/limits").read(),
    "mounts": open("/proc/self/mountinfo").read(),
    "securebits": __import__("ctypes").CDLL(None).prctl(27),
    "fds": sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:3],
}))
"""


def test_it_has_the_seal_of_the_first_program(helper, mode):
    def work():
        path = stage.prepare(helper, mode)
        facts = [stage.PYTHON, "-I", "-c", FACTS]
        output = os.memfd_create("first")
        keep = os.dup(1)
        os.dup2(output, 1)
        running = Running(path, ["sh", "-c", '"$@"; exec sleep infinity', "sh", *facts])
        os.dup2(keep, 1)
        while not (first := os.pread(output, 1 << 20, 0)).endswith(b"\n"):
            pass
        code, second = Guest(running).run(*facts)
        running.close()
        return code, json.loads(first), json.loads(second)

    code, first, second = stage.apart(work)
    assert code == 0
    assert first == second
    assert first["NoNewPrivs"] == ["1"]
    assert first["Seccomp"] == ["2"]
    assert set(first["CapBnd"] + first["CapPrm"]) == {"0" * 16}


def test_it_has_the_state_of_who_asked(running):
    script = 'pwd; umask; echo "$1-$WORD"; cat; exit 7'
    sent, theirs = os.pipe()
    os.write(theirs, b"typed\n")
    os.close(theirs)
    output = os.memfd_create("output")
    guest = Guest(running)
    argv = ["sh", "-c", script, "sh", "a word"]
    env = {**ENVIRONMENT, "WORD": "ä"}
    guest.request(PLAIN._replace(argv=argv, env=env, cwd="/usr/lib", umask=0o027), (sent, output, output))
    os.close(sent)
    assert [guest.receive(), guest.receive(), guest.receive()] == [
        launch.Started(), launch.Exited(7 << 8), launch.Gone()
    ]  # fmt: skip
    assert os.pread(output, 1000, 0).decode() == "/usr/lib\n0027\na word-ä\ntyped\n"


def test_signals_that_were_ignored_or_blocked_stay_so(running):
    bits = {"ignored": 1 << signal.SIGHUP - 1, "blocked": 1 << signal.SIGUSR1 - 1}
    code, text = Guest(running).run("grep", "-E", "Sig(Blk|Ign)", "/proc/self/status", **bits)
    assert code == 0
    # 32 and 33 are the C library's own, which it does not let anybody set.
    assert {int(line.split()[1], 16) & 0x7FFFFFFF for line in text.splitlines()} == set(bits.values())


def test_the_personality_is_passed_on(running):
    assert Guest(running).run("cat", "/proc/self/personality", personality=0x40000) == (0, "00040000\n")


def test_it_is_in_a_session_of_its_own(running):
    code, text = Guest(running).run("cut", "-d", " ", "-f", "1,5,6", "/proc/self/stat")
    pid, group, session = text.split()
    assert (code, pid, pid) == (0, group, session)


def test_a_terminal_has_the_settings_of_the_one_that_was_there(running):
    import fcntl
    import termios

    outer, inner = os.openpty()
    settings = termios.tcgetattr(inner)
    settings[6][termios.VERASE] = b"\7"
    termios.tcsetattr(inner, termios.TCSANOW, settings)
    fcntl.ioctl(inner, termios.TIOCSWINSZ, b"\x21\0\x43\0\0\0\0\0")
    guest = Guest(running)
    script = "stty size; stty -a; tty >&2; : < /dev/tty && echo controls"
    output = os.memfd_create("output")
    guest.request(PLAIN._replace(argv=["sh", "-c", script], terminal=True), (inner, inner, output))
    event = guest.receive()
    assert isinstance(event, Terminal)
    assert guest.receive() == launch.Started()
    assert guest.receive() == launch.Exited(0)
    text = b""
    with contextlib.suppress(OSError):
        while data := os.read(event.fd, 4096):
            text += data
    assert text.startswith(b"33 67\r\n")
    assert b"erase = ^G" in text
    assert text.endswith(b"controls\r\n")
    assert os.pread(output, 100, 0), "only what was a terminal is replaced"
    for fd in (event.fd, outer, inner, output):
        os.close(fd)


def test_a_terminal_instead_of_none_is_refused(running):
    guest = Guest(running)
    end = os.open("/dev/null", os.O_RDWR)
    guest.request(PLAIN._replace(terminal=True), (end, end, end))
    assert guest.receive() == launch.Failed("ATTACH", errno.ENOTTY)
    os.close(end)
    assert running.works()


@pytest.mark.parametrize(
    ("argv", "error"), [(["no-such-program"], errno.ENOENT), (["/etc/passwd"], errno.EACCES)]
)
def test_what_cannot_be_executed_is_told(running, argv, error):
    guest = Guest(running)
    guest.request(PLAIN._replace(argv=argv))
    assert guest.receive() == launch.Failed("EXEC", error)
    assert guest.receive() == launch.Gone()
    assert running.works()


# Life and death


def _started(running, *argv):
    guest = Guest(running)
    guest.request(PLAIN._replace(argv=list(argv)))
    assert guest.receive() == launch.Started()
    return guest


def test_signals_reach_the_program_or_its_group(running):
    ends = os.pipe()
    guest = Guest(running)
    child = "trap 'echo child; exit' USR1; echo up; while :; do sleep 0.01; done"
    script = f"trap 'echo parent' USR1; ({child}) & wait; wait; wait; exit 5"
    guest.request(PLAIN._replace(argv=["sh", "-c", script]), (0, ends[1], 2))
    os.close(ends[1])
    assert guest.receive() == launch.Started()
    with open(ends[0]) as said:
        assert said.readline() == "up\n"
        guest.signal(signal.SIGUSR1)
        assert said.readline() == "parent\n"
        guest.signal(signal.SIGUSR1, group=True)
        assert sorted(said) == ["child\n", "parent\n"]
    assert guest.receive() == launch.Exited(5 << 8)


def test_who_goes_takes_the_program_along(running):
    ends = os.pipe()
    guest = Guest(running)
    guest.request(PLAIN._replace(argv=["sh", "-c", "sleep infinity & exec sleep infinity"]), (0, ends[1], 2))
    os.close(ends[1])
    assert guest.receive() == launch.Started()
    assert not select.select([ends[0]], [], [], 0)[0]
    guest.close()
    assert select.select([ends[0]], [], [], BOUND)[0], "nobody of its group holds the pipe any more"
    os.close(ends[0])
    assert running.works()


def test_the_first_programs_end_ends_it(running):
    guest = _started(running, *FOR_EVER)
    late = Guest(running)
    running.environment.signal(signal.SIGTERM)
    assert guest.receive() == Ending()
    assert guest.receive() == launch.Exited(signal.SIGKILL)
    assert running.environment.receive() == launch.Exited(signal.SIGTERM)
    assert late.receive() == launch.Failed("ATTACH", errno.ESRCH)
    after = Guest(running)
    after.request(PLAIN)
    assert after.receive() == launch.Failed("ATTACH", errno.ESRCH)


def test_before_the_first_program_nobody_is_let_in(helper):
    environment = launch.Environment(os.fspath(helper))
    tun = environment.receive()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment.attach(theirs.fileno())
    assert environment.receive() == launch.Failed("GO", errno.EBADMSG)
    environment.close()
    tun.close()
    ours.close()
    theirs.close()


def test_as_many_as_there_is_room_for(running):
    guests = [_started(running, *FOR_EVER) for _ in range(32)]
    more = Guest(running)
    more.request(PLAIN)
    assert more.receive() == launch.Failed("ATTACH", errno.EUSERS)
    guests.pop().close()
    assert running.works()
    for guest in guests:
        guest.signal(signal.SIGKILL)
        assert guest.receive() == launch.Exited(signal.SIGKILL)


# Hostile


@pytest.mark.parametrize(
    "data",
    [
        _packed()[:-1],
        _packed() + b"\0",
        _packed(magic=0),
        _packed(layout=launch.layout() ^ 1),
        _packed(type=launch.GO),
        _packed(type=launch.SIGNAL),
        launch.MESSAGE.pack(launch.MAGIC, launch.GO, launch.layout(), 0, 0, 0, 0, 1, 0),
        b"\0",
        b"",
        bytes(60000),
    ],
    ids=["short", "long", "magic", "layout", "go", "signal", "plain", "byte", "empty", "large"],
)
def test_what_is_no_request(running, data):
    guest = Guest(running)
    guest.send(data, [0, 1, 2, _memory(b"true\0/\0")])
    assert guest.receive() in (launch.Failed("ATTACH", errno.EBADMSG), launch.Gone())
    assert running.works()


@pytest.mark.parametrize("count", [0, 1, 3, 6, 200])
def test_too_few_or_too_many_descriptors(running, count):
    guest = Guest(running)
    memory = _memory(b"true\0/\0")
    guest.send(_packed(), [memory] * count)
    os.close(memory)
    assert guest.receive() in (launch.Failed("ATTACH", errno.EBADMSG), launch.Gone())
    assert running.works()


@pytest.mark.parametrize(
    ("data", "argc", "envc"),
    [
        (b"", 1, 0),
        (b"true", 1, 0),
        (b"true\0/", 1, 0),
        (b"true\0", 1, 0),  # no directory
        (b"true\0/\0", 0, 1),
        (b"true\0/\0", 2, 0),
        (b"true\0/\0", 1, 1),
        (b"true\0/\0x\0", 1, 0),
        (b"true\0/\0", 0xFFFFFFFF, 0xFFFFFFFF),
        (b"true\0/\0", 1, 0xFFFFFFFF),
        (bytes(8 << 20) + b"x\0", 1, 0),
    ],
)
def test_bad_strings(running, data, argc, envc):
    guest = Guest(running)
    guest.send(_packed(argc=argc, envc=envc), [0, 1, 2, _memory(data)])
    event = guest.receive()
    assert event[0] == "ATTACH"
    assert event[1] in (errno.EBADMSG, errno.E2BIG)
    assert running.works()


def test_strings_that_change_meanwhile_or_are_no_memory(running):
    ends = os.pipe()
    guest = Guest(running)
    guest.send(_packed(), [0, 1, 2, ends[0]])
    assert guest.receive() == launch.Failed("ATTACH", errno.E2BIG)
    for end in ends:
        os.close(end)
    assert running.works()


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("kind", ["network", "directory", "pidfd", "netlink"])
def test_a_descriptor_that_leads_out_is_refused(running, number, kind):
    fd = {
        "network": lambda: socket.socket().detach(),
        "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).detach(),
        "directory": lambda: os.open("/run", os.O_RDONLY),
        "pidfd": lambda: os.pidfd_open(os.getpid()),
    }[kind]()
    standard = [0, 1, 2]
    standard[number] = fd
    guest = Guest(running)
    guest.request(PLAIN, tuple(standard))
    os.close(fd)
    assert guest.receive() == launch.Failed("STDIO", errno.EINVAL)
    assert running.works()


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (launch.SIGNAL, 0),
        (launch.SIGNAL, 65),
        (launch.SIGNAL, -65),
        (launch.SIGNAL, -(1 << 31)),
        (launch.ATTACH, 0),
        (launch.END, 0),
        (launch.GO, 0),
    ],
)
def test_nonsense_after_the_start_ends_the_attached_program_alone(running, kind, value):
    guest = _started(running, *FOR_EVER)
    guest.send(launch.MESSAGE.pack(launch.MAGIC, kind, launch.layout(), 0, value, 0, 0, 0, 0))
    assert guest.receive() == launch.Gone()
    assert running.works()


def test_a_forged_process_a_dead_one_and_something_that_is_none(running):
    inside = _started(running, *FOR_EVER)
    (init,) = _children(running.environment.pid)
    pids = {
        "init": init,
        "first": _children(init)[0],
        "attached": _children(init)[1],
        "ours": os.getpid(),
        "guard": running.environment.pid,
        "everybody's": 1,
    }
    found = {}
    fds = {name: os.pidfd_open(pid) for name, pid in pids.items()}
    inside.close()
    assert select.select([fds["attached"]], [], [], BOUND)[0]
    fds["file"] = os.open("/dev/null", os.O_RDWR)
    for name, fd in fds.items():
        guest = Guest(running)
        guest.request(PLAIN, target=fd)
        event = guest.receive()
        found[name] = event.errno if isinstance(event, launch.Failed) and event.stage == "TARGET" else event
        os.close(fd)
    assert found == {
        "init": launch.Started(),
        "first": launch.Started(),
        "attached": errno.ESRCH,
        "ours": errno.EINVAL,
        "guard": errno.EINVAL,
        "everybody's": errno.EINVAL,
        "file": errno.EBADF,
    }
    assert running.works()


def _children(pid):
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _fork_as(number):
    """A child of ours with this number, or None where somebody was faster."""
    with contextlib.suppress(OSError):
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(number - 1))
    pid = os.posix_spawnp("sleep", FOR_EVER, os.environ)
    if pid == number:
        return pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def test_a_number_that_has_been_given_to_somebody_else(running):
    """By a pidfd the old process is meant, and it is dead; the new one is not inside."""
    (init,) = _children(running.environment.pid)
    for _ in range(50):
        guest = _started(running, *FOR_EVER)
        number = _children(init)[-1]
        old = os.pidfd_open(number)
        guest.signal(signal.SIGKILL)
        assert guest.receive() == launch.Exited(signal.SIGKILL)
        if other := _fork_as(number):
            break
        os.close(old)
    else:
        raise AssertionError("no number could be used again in 50 tries")
    new = os.pidfd_open(number)
    for fd, error in ((old, errno.ESRCH), (new, errno.EINVAL)):
        guest = Guest(running)
        guest.request(PLAIN, target=fd)
        assert guest.receive() == launch.Failed("TARGET", error)
        os.close(fd)
    os.kill(other, signal.SIGKILL)
    os.waitpid(other, 0)


@pytest.mark.parametrize("stranger", [0, 54399, 65534])
def test_another_user_is_refused_by_the_kernels_word(helper, mode, stranger, tmp_path_factory):
    """Even with a connection that a supervisor should never have handed in."""
    if stranger == mode.uid:
        stranger = 54398
    directory = tmp_path_factory.mktemp("door")
    for one in (directory, *directory.parents):
        if "pytest" in str(one):
            one.chmod(0o711)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(f"{directory}/door")
    os.chmod(f"{directory}/door", 0o666)
    listener.listen()
    if (child := os.fork()) == 0:
        os.setresuid(stranger, stranger, stranger)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
            line.connect(f"{directory}/door")
            socket.send_fds(line, [_packed()], [0, 1, 2, _memory(b"true\0/\0")])
            data = line.recv(1000)
            os._exit(launch.MESSAGE.unpack(data)[4])
    connection, _ = listener.accept()

    def work():
        running = Running(stage.prepare(helper, mode))
        running.environment.attach(connection.fileno())
        good = running.works()
        running.close()
        return good

    assert stage.apart(work) is True
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == errno.EPERM
    connection.close()
    listener.close()


def test_a_line_that_is_no_such_socket_is_refused(running):
    for line in (
        socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM),
        socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM),
    ):
        guest = Guest(running, line)
        assert guest.receive()[:2] == ("ATTACH", errno.EPERM)
    assert running.works()


def _open_files(pid):
    return sorted(os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir())


def test_half_requests_leave_room_for_whole_ones(running):
    waiting = [Guest(running) for _ in range(100)]
    assert running.works()
    gone = [guest for guest in waiting if select.select([guest], [], [], 0)[0]]
    assert len(gone) >= 100 - 32
    for guest in waiting:
        guest.close()
    assert running.works()


def test_ten_thousand_requests_of_all_kinds(running):
    """Garbage, halves, mutations of a whole one, and now and then a good one; nothing piles up."""
    dice = random.Random(4)
    memory = _memory(b"true\0/\0")
    (init,) = _children(running.environment.pid)
    assert running.works()
    before = _open_files(init)
    started = 0
    for number in range(10_000):
        guest = Guest(running)
        data = bytearray(_packed())
        match number % 5:
            case 0:
                data = dice.randbytes(dice.randrange(200))
            case 1:
                data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
            case 2:
                data = data[: dice.randrange(len(data))]
            case 3:
                guest.close()
                continue
        guest.send(bytes(data), [0, 1, 2, memory][: 4 if dice.random() < 0.9 else dice.randrange(4)])
        if number % 50 == 4:
            assert guest.receive() in (launch.Started(), launch.Failed("ATTACH", errno.EBADMSG))
            started += 1
        guest.close()
    os.close(memory)
    assert started == 200
    assert running.works()
    until = time.monotonic() + BOUND
    while _open_files(init) != before:
        assert time.monotonic() < until, _open_files(init)
    while len(_children(init)) > 1:  # what was killed last may take a moment
        assert time.monotonic() < until, "zombies, or something still runs beside the first program"


# Packets

SNIFF = """
import ctypes, json, os, socket, sys
packets = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
packets.bind(("tun0", 0))
packets.settimeout(10)
probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
probe.sendto(b"seen", ("198.51.100.1", 9))
while b"seen" not in packets.recv(65536):
    pass
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
refused = []
for what in (
    lambda: os.setresuid(0, 0, 0),
    lambda: os.open("/dev/mem", os.O_RDWR),
    lambda: socket.sethostname("other"),
):
    try:
        what()
        refused.append(False)
    except OSError:
        refused.append(True)
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
held = {name: int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")}
print(json.dumps([refused, held]))
"""
NET_RAW = 1 << 13


def test_with_raw_it_sees_the_packets_and_may_do_nothing_else(helper):
    def work():
        running = Running(stage.prepare(helper, stage.ROOTLESS))
        answers = [Guest(running).run(stage.PYTHON, "-I", "-c", SNIFF, raw=raw) for raw in (True, False)]
        running.close()
        return answers

    (code, seen), (without, _) = stage.apart(work)
    assert code == 0, seen
    refused, held = json.loads(seen)
    assert refused == [True] * 3
    assert held == {"CapPrm": NET_RAW, "CapEff": NET_RAW, "CapBnd": 0, "CapAmb": NET_RAW}
    assert without == 1, "the control: the same without --raw"


def test_only_the_one_that_was_asked_for_has_it(helper):
    """Neither the first program, nor another attached one, nor by an exec or a file's capabilities."""

    def work():
        running = Running(stage.prepare(helper, stage.ROOTLESS))
        guest = Guest(running)
        guest.request(PLAIN._replace(argv=FOR_EVER, raw=True))
        assert guest.receive() == launch.Started()
        (init,) = _children(running.environment.pid)
        found = [_capabilities(pid) for pid in (init, *_children(init))]
        plain = Guest(running).run("grep", "^Cap", "/proc/self/status")
        running.close()
        return [*found, plain[1]]

    init, first, raw, plain = stage.apart(work)
    nothing = dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), 0)
    assert init == {**nothing, "CapInh": NET_RAW, "CapPrm": NET_RAW}, "held, not in force"
    assert first == nothing
    assert raw == {**nothing, "CapInh": NET_RAW, "CapPrm": NET_RAW, "CapEff": NET_RAW, "CapAmb": NET_RAW}
    assert {int(line.split()[1], 16) for line in plain.splitlines()} == {0}


def _capabilities(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1], 16) for line in lines if line.startswith("Cap")}


@pytest.mark.parametrize("mode", [stage.SETUID, stage.ROOT], ids=lambda mode: mode.name)
def test_where_it_would_be_the_hosts_capability_it_is_refused(helper, mode):
    def work():
        running = Running(stage.prepare(helper, mode))
        guest = Guest(running)
        guest.request(PLAIN._replace(raw=True))
        answer = stage.names(guest.receive())
        (init,) = _children(running.environment.pid)
        held = _capabilities(init)
        good = running.works()
        running.close()
        return [answer, set(held.values()) == {0}, good]

    assert stage.apart(work) == [["Failed", "ATTACH", errno.EOPNOTSUPP], True, True]
