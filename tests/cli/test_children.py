# SPDX-License-Identifier: GPL-3.0-or-later
"""Parts are real processes here: what they write is logged, their end is seen, none outlives us."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from avne.cli import children as kids
from avne.cli import start as starting
from avne.cli.children import Part, Parts, died_early
from avne.cli.loop import Loop
from avne.errors import AvneError

CONTROL = """
import os, sys, time
from avne.ipc.control import Control
control = Control.from_fd(3)
"""


class MemoryLog:
    """Keeps what a Log would write."""

    def __init__(self):
        self.events, self.outputs = [], []

    def event(self, level, part, event, fields=None):
        self.events.append((level, part, event, fields))

    def output(self, part, line, safe):
        self.outputs.append((part, line, safe))


@pytest.fixture
def start(monkeypatch):
    """start(code): a part that runs it; each is ended after the test."""
    started = []

    def start(code):
        argv = [sys.executable, "-c", f"import sys; sys.path.insert(0, {os.getcwd()!r})\n{code}"]
        monkeypatch.setattr(starting, "python", lambda module, *arguments: argv)
        part = Part("the test part", "test", starting.start("ignored"))
        started.append(part.pid)
        return part

    yield start
    for pid in started:
        with pytest.raises(ChildProcessError):  # reaped by what was tested
            os.waitpid(pid, os.WNOHANG)


class Watched:
    """A loop with one part; `until_end` turns it until the part is gone."""

    def __init__(self, part):
        self.log, self.loop, self.messages, self.ended = MemoryLog(), Loop(), [], False
        self.parts = Parts(self.loop, self.log)
        self.parts.watch(part, lambda _, message: self.messages.append(message), self.on_end)

    def on_end(self, part):
        self.ended = True

    def until(self, condition):
        self.loop.after(20, "bound", lambda: pytest.fail("nothing happened"))
        while not condition():
            self.loop.turn()

    def until_end(self):
        self.until(lambda: self.ended)


def test_messages_logs_and_output_go_where_they_belong(start):
    watched = Watched(start(CONTROL + """
control.send("ready")
control.send("log", "info", "event", {"k": 1})
print("out", flush=True)
sys.stderr.write("first\\nsecond")
"""))  # fmt: skip
    watched.until_end()
    assert watched.messages == [["ready"]]
    assert watched.log.events == [("info", "test", "event", {"k": 1}), ("info", "test", "ended", {"code": 0})]
    assert watched.log.outputs == [("test", line, True) for line in ("out", "first", "second")]


def test_a_traceback_is_logged_and_its_last_line_told(start):
    part = start("import nothing_of_this_name")
    watched = Watched(part)
    watched.until_end()
    assert watched.log.events == [("error", "test", "ended", {"code": 1})]
    assert part.last_words == "ModuleNotFoundError: No module named 'nothing_of_this_name'"
    error = died_early(part, "/x.log")
    assert error.problem.endswith("ended before it was ready: " + part.last_words)
    assert "/x.log" in error.cure
    assert "-vv" in died_early(part, "").cure


def test_once_names_are_possible_the_log_is_told(start):
    watched = Watched(start("print('x')"))
    watched.parts.names_possible = True
    watched.until_end()
    assert watched.log.outputs == [("test", "x", False)]


def test_a_part_that_said_why_it_failed_is_quoted(start):
    part = start("pass")
    Watched(part).until_end()
    part.failed = AvneError("no proxy", "start it")
    assert died_early(part, "") is part.failed


def test_the_signal_that_killed_a_part_is_logged(start):
    part = start("import time; time.sleep(60)")
    watched = Watched(part)
    os.kill(part.pid, signal.SIGKILL)
    watched.until_end()
    assert watched.log.events == [("error", "test", "ended", {"code": -9})]


def test_a_part_that_closes_its_line_and_lives_on_is_killed(start, monkeypatch):
    monkeypatch.setattr(kids, "LINGER", 0.1)
    watched = Watched(start("import os, time; os.close(3); time.sleep(60)"))
    watched.until_end()
    assert watched.log.events == [("error", "test", "ended", {"code": -9})]


def test_end_asks_first_and_takes_the_last_words(start):
    part = start(CONTROL + "control.send('ready'); control.receive(wait=True); print('bye')")
    watched = Watched(part)
    watched.until(lambda: watched.messages)
    watched.parts.end()
    assert watched.log.outputs == [("test", "bye", True)]
    assert watched.parts.running == []


def test_a_part_has_its_own_session_and_only_its_four_descriptors(start):
    leak = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(leak, True)  # as from a shell's exec 9<file
    starting.settle_descriptors()
    code = """
import os
own = [fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]
print(os.getsid(0) == os.getpid(), *sorted(own), os.readlink("/proc/self/fd/0"), *sorted(os.environ))
"""
    watched = Watched(start(code))
    watched.until_end()
    os.close(leak)
    assert watched.log.outputs[0][1].startswith("True 0 1 2 3 /dev/null LC_ALL MALLOC")


def test_a_line_without_end_is_not_waited_for_for_ever(start):
    watched = Watched(
        start("import sys, time; sys.stdout.write('x' * 5000); sys.stdout.flush(); time.sleep(60)")
    )
    watched.until(lambda: sum(len(line) for _, line, _ in watched.log.outputs) == 5000)
    os.kill(watched.parts.running[0].pid, signal.SIGKILL)
    watched.until_end()


def test_a_part_that_cannot_be_started_is_an_error_with_a_cure(monkeypatch):
    monkeypatch.setattr(starting, "python", lambda module, *arguments: ["/nowhere/python"])
    with pytest.raises(AvneError, match=r"cannot start avne\.module: No such file or directory"):
        starting.start("avne.module")


def test_the_loops_timers():
    loop, seen = Loop(), []
    loop.after(0, "a", lambda: seen.append("replaced"))
    loop.after(0, "a", lambda: seen.append("a"))
    loop.after(0, "b", lambda: (seen.append("b"), loop.cancel("c")))
    loop.after(0, "c", lambda: seen.append("c"))
    start = time.monotonic()
    loop.turn()
    assert seen == ["a", "b"]
    loop.after(0.05, "d", lambda: seen.append("d"))
    loop.turn()
    assert seen == ["a", "b", "d"]
    assert time.monotonic() - start >= 0.05
    loop.after(9, "e", lambda: None)
    loop.cancel()
    loop.after(0, "f", lambda: seen.append("f"))
    loop.turn()
    assert seen[-1] == "f"
    loop.close()


def test_an_action_may_forget_another_descriptor_of_the_same_turn():
    loop, seen = Loop(), []
    pipes = [os.pipe() for _ in range(2)]
    for number, (readable, writable) in enumerate(pipes):
        os.write(writable, b"x")
        other = pipes[1 - number][0]
        loop.watch(readable, lambda number=number, other=other: (seen.append(number), loop.forget(other)))
    loop.turn()
    assert len(seen) == 1
    loop.close()
    for pipe in pipes:
        for fd in pipe:
            os.close(fd)
