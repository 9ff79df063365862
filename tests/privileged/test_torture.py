# SPDX-License-Identifier: GPL-3.0-or-later
"""The helper against a caller who stops, kills, starves and crowds it: a whole environment, or nothing.

The steps are a sample, another one for each way; ``AVNE_TORTURE=1`` takes every one.
"""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import pytest

from tests.privileged import stage, torture
from tests.privileged.stage import ROOTLESS, SETUID
from tests.privileged.torture import CONFESSION, LIMITS, Steps, Thief

MODES = pytest.mark.parametrize("mode", [ROOTLESS, SETUID], ids=lambda mode: mode.name)
SAMPLE = 1000 if os.environ.get("AVNE_TORTURE") else 8
CONFESSED = (
    f"Uid:\t{stage.UID}\t{stage.UID}\t{stage.UID}\t{stage.UID}\n"
    f"CapPrm:\t{0:016x}\nCapEff:\t{0:016x}\nNoNewPrivs:\t1\nSeccomp:\t2\n"
)
GOOD = [["Tun"], ["Started"], ["Exited", 0], ["Gone"]]


def _machine(helper, mode):
    """As root, on a machine of its own; gives the helper that the user is to start."""
    torture.subreaper()
    stage.private_mounts()
    stage.private_tun(mode.tun)
    return stage.setuid_copy(helper) if mode is SETUID else helper


def _walk(helper, mode, on_step):
    """One session, stepped through; how many steps, and what was told."""

    def work():
        steps = Steps(_machine(helper, mode), mode, on_step)
        told = steps.run()
        return [steps.count, told]

    return stage.apart(work)


def _sample(helper, mode, shift):
    """Numbers of steps, evenly spread, `shift` of 1 away from those of another."""
    count, (events, out, _) = _walk(helper, mode, lambda steps, pid: None)
    assert events == GOOD
    assert out == CONFESSED
    assert count > 150
    apart = max(1, count // SAMPLE)
    return range(1 + int(apart * shift), count, apart)


def _nothing_wrong(told):
    """What a session that was disturbed may have told: nothing, or the truth."""
    if told is not None:
        events, out, _ = told
        assert torture.is_good(events), events
        assert out in ("", CONFESSED)


# ---- step by step ---------------------------------------------------------------------------


@MODES
@pytest.mark.parametrize(
    ("whom", "shift"), [("itself", 0), ("guard", 0.25), ("init", 0.5), ("supervisor", 0.75)]
)
def test_whoever_is_killed_at_any_step_nothing_is_left(helper, mode, whom, shift):
    """`Steps.run` comes back when every process has ended, whoever their parent was."""
    for at in _sample(helper, mode, shift):

        def kill(steps, pid, at=at):
            if steps.count == at:
                steps.kill({"itself": pid, **vars(steps)}[whom] or pid)

        count, told = _walk(helper, mode, kill)
        assert count == at
        _nothing_wrong(told)


@MODES
def test_stopped_at_any_step_it_goes_on_as_if_nothing_had_been(helper, mode):
    """And while it is stopped, nobody of the same user takes it over: not where it is setuid, nor once
    a rootless one has two processes.  The control: before, a rootless one is the user's own."""
    taken = set()
    for at in _sample(helper, mode, 0.1):

        def work(at=at):
            found = []
            path = _machine(helper, mode)
            thief = Thief(mode)

            def stop(steps, pid):
                if steps.count == at:
                    steps.stop(pid)
                    ours = _program(pid) == str(path)  # or that step was the program's exec
                    found.extend([bool(steps.init) and ours, ours, thief.takes(pid)])
                    thief.close()
                    torture.wake(pid)

            told = Steps(path, mode, stop).run()
            return [found, told]

        (forked, ours, ways), (events, out, _) = stage.apart(work)
        assert events == GOOD
        assert out == CONFESSED
        if forked or (mode is SETUID and ours):
            assert ways == [], f"step {at}"
        taken.update(ways if ours else ())
    assert taken == (set() if mode is SETUID else {*torture._TRIES} - {"attach"})  # it is seized by then


def _program(pid):
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""


@MODES
def test_stopped_and_left_alone_it_ends(helper, mode):
    """The supervisor is killed meanwhile: whatever the step, it does not go on without it."""
    for at in _sample(helper, mode, 0.6):

        def leave(steps, pid, at=at):
            if steps.count == at:
                steps.stop(pid)
                os.kill(steps.supervisor, signal.SIGKILL)
                torture.wake(pid)

        count, told = _walk(helper, mode, leave)
        assert (count, told) == (at, None)


def test_at_no_step_is_there_a_way_into_a_setuid_one(helper):
    """Every single one: the line cannot be got, nor memory, files and directories be looked at."""

    def work():
        path = _machine(helper, SETUID)
        thief = Thief(SETUID)
        found = []

        def look(steps, pid):
            ways = thief.takes(pid)
            if ways:
                found.append([steps.count, steps.number, ways])
            if steps.count == 1:
                found.append(thief.takes(thief.pid)[:1])  # the control: itself, it may

        steps = Steps(path, SETUID, look)
        while not steps.init or steps.count < 1000:
            try:
                pid, status = os.waitpid(-1, torture._WALL)
            except ChildProcessError:
                break
            if os.WIFSTOPPED(status):
                steps._stopped(pid, os.WSTOPSIG(status), status >> 16)
            elif pid == steps.supervisor:
                thief.close()
        return [steps.count, found]

    count, found = stage.apart(work)
    assert count > 150
    assert found == [["pidfd_getfd"]]


# ---- limits ---------------------------------------------------------------------------------


def _look_from_outside(environment):
    """As the same user: what /proc tells of pid 1, that is sealed."""
    words = Path(f"/proc/{environment.init}/status").read_text().splitlines()
    said = dict(line.split(":", 1) for line in words)
    assert said["Uid"].split() == [str(stage.UID)] * 4
    assert int(said["CapEff"], 16) == int(said["CapBnd"], 16) == int(said["CapAmb"], 16) == 0
    assert int(said["CapPrm"], 16) & ~(1 << 13) == 0  # CAP_NET_RAW of its own namespace
    assert said["NoNewPrivs"].split() == ["1"]
    assert said["Seccomp"].split() == ["2"]


MOUNTS = [
    "sh",
    "-c",
    "cut -d' ' -f5 /proc/self/mountinfo; grep -c tun0 /proc/net/dev; cut -f1,3 /proc/net/route",
]


@MODES
@pytest.mark.parametrize("value", [0, 1])
def test_with_any_limit_it_is_a_whole_environment_or_none(helper, mode, value):
    """What the program sees is compared with what it sees without the limit."""

    def work():
        path = _machine(helper, mode)
        outcomes = {}
        for name in (None, *LIMITS):

            def limit(name=name):
                if name:
                    resource.setrlimit(LIMITS[name], (value, value))

            def run(limit=limit):
                stage.become(mode)
                return torture.session(path, MOUNTS, before=limit, look=_look_from_outside)

            pid, answer = torture.fork(run)
            outcomes[name or ""] = torture.answer_of(answer)
            os.waitpid(pid, 0)
        return [outcomes, _are_there_children()]

    outcomes, left = stage.apart(work)
    assert not left
    events, whole, _ = outcomes.pop("")
    assert events == GOOD
    assert whole.count("\n") > 20
    done = 0
    for name, outcome in outcomes.items():
        assert outcome is not None, name
        events, out, _ = outcome
        if events == GOOD:
            done += 1
            assert out == whole, name
        elif ["Started"] in events:  # whole, and the program died of its limit
            assert events[0] == ["Tun"], name
            assert whole.startswith(out), name
        else:
            assert events[-1][0] in ("Failed", "Gone"), name
            assert out == "", name
    assert done >= 6, outcomes


def _are_there_children():
    try:
        while True:
            if os.waitpid(-1, 0) == (0, 0):
                return True
    except ChildProcessError:
        return False


# ---- what it is started with ----------------------------------------------------------------

_HUGE = {f"LD_PRELOAD{i}": "x" * 100_000 for i in range(15)}
_NASTY = {
    "GLIBC_TUNABLES": "glibc.malloc.mxfast=glibc.malloc.mxfast=A", "LD_PRELOAD": "/tmp/evil.so",
    "LD_AUDIT": "/tmp/evil.so", "LD_LIBRARY_PATH": "/tmp", "PATH": "/tmp", "MALLOC_CHECK_": "3",
    "TMPDIR": "/tmp", "LOCPATH": "/tmp",
}  # fmt: skip


@MODES
@pytest.mark.parametrize("env", [_HUGE, _NASTY], ids=["huge", "nasty"])
def test_its_environment_is_not_read(helper, mode, env):
    outcome = stage.apart(lambda: _as_user(_machine(helper, mode), mode, env=env))
    assert outcome[:2] == [GOOD, CONFESSED]


@MODES
@pytest.mark.parametrize("words", [["x", "y"], ["x"] * 20_000, ["x" * 100_000] * 15, ["", ""]])
def test_more_than_a_name_is_refused(helper, mode, words):
    outcome = stage.apart(lambda: _as_user(_machine(helper, mode), mode, words=words))
    assert outcome[:2] == [[["Gone"]], ""]


@MODES
@pytest.mark.parametrize("name", [" ", "x" * 100_000, "%s%n", "/"])
def test_whatever_its_name(helper, mode, name):
    outcome = stage.apart(lambda: _as_user(_machine(helper, mode), mode, words=[name]))
    assert outcome[:2] == [GOOD, CONFESSED]


@MODES
@pytest.mark.parametrize("closed", [[0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2], [3], [0, 3]], ids=str)
def test_closed_descriptors(helper, mode, closed):
    """Those of the program lead nowhere; without the line there is nobody to serve."""

    def close():
        for fd in closed:
            os.close(fd)

    events, out, _ = stage.apart(lambda: _as_user(_machine(helper, mode), mode, before=close))
    if 3 in closed:
        assert (events, out) == ([["Gone"]], "")
    else:
        # /dev/null is opened for reading and writing: nothing fails for want of it.
        assert events == GOOD
        assert out == ("" if 1 in closed else CONFESSED)


def _as_user(path, mode, **settings):
    stage.become(mode)
    return torture.session(path, CONFESSION, **settings)


def test_in_a_user_namespace_of_the_caller_s_the_bit_gives_nothing(helper):
    """With a /proc of the caller's own making, too: it is no setuid program there."""

    def work():
        path = _machine(helper, SETUID)
        stage.become(SETUID)
        torture.dumpable()
        stage.unshare(stage.CLONE_NEWUSER | stage.CLONE_NEWNS)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {stage.UID} 1")
        Path("/proc/self/gid_map").write_text(f"0 {stage.GID} 1")
        stage.mount("tmpfs", "/proc", "tmpfs", 0, "mode=0755")
        return torture.session(path, CONFESSION)[:2]

    (failed,), out = stage.apart(work)
    assert failed[0] == "Failed"
    assert out == ""


# ---- many at once ---------------------------------------------------------------------------


@MODES
@pytest.mark.parametrize("count", [2, 20])
def test_many_callers_at_once(helper, mode, count):
    """Each gets one of its own, whole, and nothing is left of any."""
    script = "readlink /proc/self/ns/net /proc/self/ns/mnt; touch /tmp/mark; ls -A /tmp"

    def work():
        path = _machine(helper, mode)
        ready, go = os.pipe()
        arrived, arrive = os.pipe()

        def meet(_environment):
            os.write(arrive, b"x")
            os.read(ready, 1)

        def run():
            os.close(go)
            stage.become(mode)
            return torture.session(path, ["sh", "-c", script], look=meet)

        callers = [torture.fork(run) for _ in range(count)]
        for _ in callers:
            os.read(arrived, 1)
        os.close(go)  # now that all are there
        return [[torture.answer_of(answer) for _, answer in callers], _are_there_children()]

    outcomes, left = stage.apart(work)
    assert not left
    assert [events for events, _, _ in outcomes] == [GOOD] * count
    lines = [out.splitlines() for _, out, _ in outcomes]
    assert [words[2:] for words in lines] == [["mark"]] * count
    assert len({words[0] for words in lines}) == len({words[1] for words in lines}) == count
