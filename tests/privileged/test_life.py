# SPDX-License-Identifier: GPL-3.0-or-later
"""Life and death of an environment: who may end it, what it survives, and that nothing is left of it."""

from __future__ import annotations

import os
import select
import signal
import time
from pathlib import Path

import pytest

from avne.privileged import launch
from tests.privileged import stage
from tests.privileged.stage import BOUND, ENVIRONMENT

FOR_EVER = ["sh", "-c", "sleep infinity & exec sleep infinity"]


class Running:
    """A program in an environment of this process; `guard`, `init` and `program` are pids of ours."""

    def __init__(self, helper, argv):
        self.environment = launch.Environment(os.fspath(helper))
        event = self.environment.receive()
        assert isinstance(event, launch.Tun), event
        self.tun = event.fd
        os.close(event.diag)
        self.environment.go(argv, ENVIRONMENT, 0, 0)
        assert self.environment.receive() == launch.Started()
        self.guard = self.environment.pid
        (self.init,) = _children(self.guard)
        (self.program, *_) = _children(self.init)
        self._watched = {pid: os.pidfd_open(pid) for pid in (self.guard, self.init, self.program)}

    def is_dead(self, pid, bound=BOUND):
        """Whether it ends within the bound (with 0: has ended).  A zombie has."""
        return bool(select.select([self._watched[pid]], [], [], bound)[0])

    def close(self):
        self.environment.close()
        if self.tun >= 0:
            os.close(self.tun)
        for fd in self._watched.values():
            os.close(fd)


def _children(pid):
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _network(pid):
    return os.stat(f"/proc/{pid}/ns/net").st_ino


def _users_of(network):
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if _network(int(entry.name)) == network:
                    found.append(int(entry.name))
            except OSError:
                pass
    return found


@pytest.fixture
def running(helper):
    running = Running(helper, FOR_EVER)
    yield running
    running.close()


def test_nothing_is_left_after_the_end(helper):
    running = Running(helper, FOR_EVER)
    network = _network(running.program)
    assert network != _network(os.getpid())
    assert {running.guard, running.init, running.program} <= set(_users_of(network))
    running.environment.end()
    assert running.environment.receive() == launch.Gone()
    running.close()
    assert _users_of(network) == []


@pytest.mark.parametrize("who", ["guard", "init", "program"])
def test_whoever_is_killed_all_end(running, who):
    network = _network(running.program)
    os.kill(getattr(running, who), signal.SIGKILL)
    event = running.environment.receive()
    assert event == (launch.Exited(signal.SIGKILL) if who == "program" else launch.Gone())
    assert running.is_dead(running.program)
    if who != "program":
        assert running.is_dead(running.init)
        assert running.is_dead(running.guard)
    running.environment.close()
    running.environment = launch.Environment(launch.find_helper())  # for the fixture to close
    assert _users_of(network) == []


def test_without_its_supervisor_it_ends(helper, mode):
    """The supervisor is killed: nobody says END."""

    def work():
        path = stage.prepare(helper, mode)
        answer, theirs = os.pipe()
        if (supervisor := os.fork()) == 0:
            running = Running(path, FOR_EVER)
            os.write(theirs, f"{running.guard} {running.init} {running.program}".encode())
            signal.pause()
        pids = list(map(int, os.read(answer, 100).split()))
        watched = [os.pidfd_open(pid) for pid in pids]
        os.kill(supervisor, signal.SIGKILL)
        os.waitpid(supervisor, 0)
        return [bool(select.select([fd], [], [], BOUND)[0]) for fd in watched]

    assert stage.apart(work) == [True] * 3


def test_the_terminal_s_signals_are_the_program_s_alone(running):
    for number in (
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTSTP,
        signal.SIGHUP,
        signal.SIGTERM,
        signal.SIGTTOU,
    ):
        os.kill(running.guard, number)
        os.kill(running.init, number)
    running.environment.signal(signal.SIGTERM)
    assert running.environment.receive() == launch.Exited(signal.SIGTERM), "the program alone ended"
    assert not running.is_dead(running.guard, 0)


def test_signals_reach_the_program(helper):
    script = "trap 'exit 3' USR2; echo ready; while :; do sleep 0.01; done"
    output, theirs = os.pipe()

    def work():
        os.dup2(theirs, 1)
        running = Running(helper, ["sh", "-c", script])
        assert os.read(output, 6) == b"ready\n"
        running.environment.signal(signal.SIGUSR2)
        event = running.environment.receive()
        running.environment.signal(signal.SIGTERM)  # to nobody: it has ended
        running.environment.end()
        return [stage.names(event), stage.names(running.environment.receive())]

    assert stage.apart(work) == [["Exited", 3 << 8], ["Gone"]]
    os.close(output)
    os.close(theirs)


def test_a_stopped_init_is_ended_all_the_same(helper, monkeypatch):
    monkeypatch.setattr(launch, "_END_BOUND", 0.1)
    running = Running(helper, FOR_EVER)
    os.kill(running.init, signal.SIGSTOP)
    network = _network(running.program)
    init = os.pidfd_open(running.init)
    running.close()
    assert select.select([init], [], [], BOUND)[0]
    os.close(init)
    assert _users_of(network) == []


def test_children_that_lost_their_parent_are_taken_in(helper):
    """They would stay zombies, and each keeps a number."""
    orphans = "for i in 1 2 3 4 5 6 7 8; do (true &) ; done"
    wait = "until [ $(grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l) = 0 ]; do :; done"
    done = stage.inside(helper, stage.ROOTLESS, ["sh", "-c", f"{orphans}; {wait}; exit 4"])
    assert done.status == 4 << 8


def test_the_program_s_end_is_told_once_and_after_all_else_has_ended(helper):
    running = Running(
        helper, ["sh", "-c", "sleep infinity & sleep infinity & setsid sleep infinity & exit 6"]
    )
    assert running.environment.receive() == launch.Exited(6 << 8)
    assert _children(running.init) == []
    assert not select.select([running.environment], [], [], 0.1)[0]
    assert Path(f"/proc/{running.init}/net/dev").read_text().count("tun0") == 1, "the network is still up"
    running.close()


def test_the_end_may_come_before_the_start(helper):
    environment = launch.Environment(str(helper))
    event = environment.receive()
    assert isinstance(event, launch.Tun)
    environment.end()
    assert environment.receive() == launch.Gone()
    environment.close()
    event.close()


def test_a_supervisor_that_goes_at_once_leaves_nothing(helper):
    environment = launch.Environment(str(helper))
    started = time.monotonic()
    environment.close()
    assert time.monotonic() - started < 4


def test_the_tun_s_descriptor_keeps_no_network_up(helper):
    """Init has closed its own: the device is gone with the supervisor's and the netstack's."""
    running = Running(helper, FOR_EVER)
    device = Path(f"/proc/{running.program}/net/dev")
    assert "tun0" in device.read_text()
    os.close(running.tun)
    running.tun = -1
    assert "tun0" not in device.read_text()
    running.close()


@pytest.mark.parametrize("who", ["guard", "init"])
def test_the_user_cannot_take_its_processes_over(helper, mode, who):
    """ptrace(2) would give the control socket, and before the drop a privilege."""

    def work():
        running = Running(stage.prepare(helper, mode), FOR_EVER)
        pid = getattr(running, who)
        tries = []
        for attempt in (
            lambda: stage.ptrace_seize(pid),
            lambda: os.readlink(f"/proc/{pid}/fd/3"),
            lambda: os.open(f"/proc/{pid}/mem", os.O_RDWR),
            lambda: os.open(f"/proc/{pid}/root/etc", os.O_RDONLY),
        ):
            try:
                attempt()
                tries.append(0)
            except OSError as error:
                tries.append(error.errno)
        running.close()
        return tries

    if mode is not stage.ROOT:  # the host's root may do all that
        assert stage.apart(work) == [1, 13, 13, 13]
