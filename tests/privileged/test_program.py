# SPDX-License-Identifier: GPL-3.0-or-later
"""The program is who, where and what it would be without avne, in each mode."""

from __future__ import annotations

import json
import os
import signal

import pytest

from tests.privileged import stage

WHO = """
import json, os, sys
rows = dict(line.split(":\\t") for line in open("/proc/self/status") if ":\\t" in line)
print(json.dumps({
    "uid": os.getresuid(), "gid": os.getresgid(), "groups": sorted(os.getgroups()), "cwd": os.getcwd(),
    "umask": os.umask(0), "ignored": int(rows["SigIgn"], 16), "blocked": int(rows["SigBlk"], 16),
    "personality": open("/proc/self/personality").read(), "stdin": sys.stdin.read(),
    "nice": os.nice(0), "files": __import__("resource").getrlimit(7),
}))
sys.stderr.write("to stderr")
sys.exit(7)
"""
# Python itself ignores SIGPIPE and SIGXFSZ.
PYTHONS = 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)


def _mask(*numbers):
    return sum(1 << (number - 1) for number in numbers)


def test_everything_of_the_program_is_as_without_avne(helper, mode):
    ignored, blocked = _mask(signal.SIGHUP, signal.SIGUSR1), _mask(signal.SIGTERM, 40)

    def before():
        os.chdir("/usr/share")
        os.umask(0o027)
        os.nice(3)

    def as_caller():
        before()
        for number in (signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, [signal.SIGTERM, 40])
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)

    argv = [stage.PYTHON, "-I", "-S", "-c", WHO]
    got = stage.inside(helper, mode, argv, before, b"words", ignored=ignored, blocked=blocked)
    want = stage.outside(argv, mode, as_caller, b"words")
    assert got.events == [["Tun"], ["Started"], ["Exited", 7 << 8], ["Gone"]]
    assert (want.status, got.err, want.err) == (7 << 8, "to stderr", "to stderr")
    mine, theirs = json.loads(got.out), json.loads(want.out)
    assert mine["ignored"] & ~_mask(32, 33) == ignored | PYTHONS  # 32 and 33 are the C library's
    assert mine["blocked"] == blocked
    if mode is stage.ROOTLESS:
        # One group can be mapped; the others keep their effect, but have no number (user_namespaces(7)).
        assert set(mine.pop("groups")) <= set(theirs.pop("groups")) | {65534}
    assert mine == theirs


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, 40])
def test_death_by_a_signal_is_told(helper, mode, number):
    done = stage.inside(helper, mode, ["sh", "-c", f"kill -{int(number)} $$"])
    assert done.status == number, "and no core"


@pytest.mark.parametrize("name", ["/nowhere/x", "surely-not-a-program"])
def test_a_program_that_is_not_there(helper, mode, name):
    assert stage.inside(helper, mode, [name]).failed == ["EXEC", 2]


def test_a_program_that_may_not_be_executed(helper, mode):
    assert stage.inside(helper, mode, ["/etc/passwd"]).failed == ["EXEC", 13]


def test_the_path_is_that_of_the_program_s_environment(helper):
    env = {"PATH": "/nowhere:/usr/bin", "A": "b"}
    assert stage.inside(helper, stage.ROOT, ["env"], env=env).out == "PATH=/nowhere:/usr/bin\nA=b\n"
    assert stage.inside(helper, stage.ROOT, ["env"], env={"PATH": "/nowhere"}).failed == ["EXEC", 2]


def test_a_large_environment_and_many_arguments(helper):
    argv = ["sh", "-c", "echo $#; env | wc -c", *("x" * 20000)]
    done = stage.inside(helper, stage.ROOT, argv, env={"PATH": "/usr/bin:/bin", "LONG": "y" * 120_000})
    count, size = map(int, done.out.split())
    assert count == 20000 - 1
    assert size > 120_000


def test_too_large_an_environment_says_so(helper):
    done = stage.inside(helper, stage.ROOT, ["true"], env={"PATH": "/bin", "LONG": "y" * 200_000})
    assert done.failed == ["EXEC", 7]  # E2BIG: execve(2) takes strings of 128 KiB


def test_closed_standard_descriptors_lead_nowhere_inside(helper, mode):
    """To /dev/null; the C library gives a setuid program /dev/full (glibc's check_fds.c)."""

    def work():
        path = stage.prepare(helper, mode)
        test = "for n in 0 1 2; do case $(readlink /proc/$$/fd/$n) in /dev/null|/dev/full) ;; *) exit 1;"
        for number in (0, 1, 2):
            os.close(number)
        return stage.run_program(path, ["sh", "-c", test + " esac; done; exit 5"])

    assert ["Exited", 5 << 8] in stage.apart(work)


def test_a_lost_directory_becomes_the_root(helper, mode):
    def before():
        os.makedirs("/dev/shm/avne-test-lost", exist_ok=True)
        os.chdir("/dev/shm/avne-test-lost")
        os.rmdir("/dev/shm/avne-test-lost")

    assert stage.inside(helper, mode, ["pwd"], before).out == "/\n"


def test_a_directory_that_the_mounts_cover_becomes_the_root(helper, mode):
    """Relative names would still reach the host's sockets in there."""
    assert (
        stage.inside(helper, mode, ["sh", "-c", "pwd; ls -A /run"], lambda: os.chdir("/run")).out == "/run\n"
    )
    assert os.listdir("/run"), "the host has something there"
    done = stage.inside(helper, mode, ["sh", "-c", "ls -A ."], lambda: os.chdir("/run"))
    assert done.out == ""
