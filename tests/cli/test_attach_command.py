# SPDX-License-Identifier: GPL-3.0-or-later
"""``avne attach``, ``ps`` and ``stop`` as commands: who is found, what is told, what is handed on."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from avne.cli.ps import age
from tests.cli.conftest import COMMAND
from tests.cli.test_run import TELL_SIGNALS, children

FOR_EVER = ("sh", "-c", "echo up; exec sleep 60")


@pytest.fixture
def one(start):
    """An environment called one, with its program up."""
    process = start(*FOR_EVER, options=("--name", "one"))
    assert process.stdout.readline() == "up\n"
    return process


@pytest.fixture
def avne(environ):
    """avne(WORD…): any command to its end."""

    def avne(*words, env=None, **settings):
        settings = {
            "stdin": subprocess.DEVNULL,
            "capture_output": True,
            "start_new_session": True,
            **settings,
        }
        return subprocess.run(
            [*COMMAND, *words], env={**environ, **(env or {})}, text=True, timeout=60, check=False, **settings
        )

    return avne


@pytest.fixture
def attached(environ):
    """attached(WORD…): `avne attach one` with a pipe for its output, killed at the end."""
    with contextlib.ExitStack() as stack:

        def attached(*words):
            process = subprocess.Popen(
                [*COMMAND, "attach", "one", *words], env=environ, text=True, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            stack.callback(_end, process)
            return process

        yield attached


def _end(process):
    if process.poll() is None:
        process.kill()
    process.communicate()


def listed(avne):
    return json.loads(avne("ps", "--json").stdout)


# Who is meant


def test_by_name_by_id_and_by_a_process(avne, one):
    (about,) = listed(avne)
    (guard,) = [pid for pid in children(one.pid) if children(pid)]
    (init,) = children(guard)
    (program,) = children(init)
    assert about["init"] == init
    inside = avne("attach", "one", "readlink", "/proc/self/ns/net")
    assert inside.returncode == 0
    assert inside.stdout != os.readlink("/proc/self/ns/net") + "\n"
    for target in (about["id"], str(program), str(init), str(one.pid)):
        assert avne("attach", target, "--", "readlink", "/proc/self/ns/net").stdout == inside.stdout
    for target in (str(guard), str(os.getpid()), "1"):
        done = avne("attach", target, "true")
        assert (done.returncode, done.stdout) == (125, "")
        assert f"process {target} is in none of your environments" in done.stderr
        assert f"{about['id']} (one)" in done.stderr


def test_the_right_one_of_several(avne, one, start):
    other = start(*FOR_EVER, options=("--name", "two"))
    assert other.stdout.readline() == "up\n"
    networks = [avne("attach", name, "readlink", "/proc/self/ns/net").stdout for name in ("one", "two")]
    assert networks[0] != networks[1]
    for process, network in zip((one, other), networks, strict=True):
        (guard,) = [pid for pid in children(process.pid) if children(pid)]
        (program,) = children(children(guard)[0])
        assert avne("attach", str(program), "readlink", "/proc/self/ns/net").stdout == network
    assert [about["name"] for about in listed(avne)] == ["one", "two"]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("nobody", "there is no environment 'nobody' of yours"),
        ("abcdef", "there is no environment 'abcdef' of yours"),
        ("", "there is no environment '' of yours"),
        ("../one", "there is no environment '../one' of yours"),
        ("4194305", "there is no process 4194305"),
        ("9" * 40, "there is no process 9"),
        ("0", "there is no process 0"),
    ],
)
def test_who_is_not_found(avne, target, said):
    done = avne("attach", target, "true")
    problem, cure = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (125, "")
    assert said in problem
    assert cure.startswith("  ")
    if not target.isdigit():
        done = avne("stop", target)
        assert (done.returncode, done.stdout) == (125, "")
        assert said in done.stderr


def test_without_a_target_the_usage_is_told(avne):
    done = avne("attach")
    assert done.returncode == 125
    assert "avne attach --help" in done.stderr
    assert avne("stop").returncode == 2


def test_who_asks_before_the_program_has_started_waits_for_it(avne, start, environ, runtime):
    process = start(*FOR_EVER, options=("--name", "early"))
    until = time.monotonic() + 20
    while not (found := list(Path(runtime).glob("avne/*/attach"))):
        assert time.monotonic() < until
    assert not (found[0].parent / "meta").exists(), "the test came too late to show anything"
    assert avne("attach", "early", "echo", "hi").stdout == "hi\n"
    assert process.stdout.readline() == "up\n"


# What is handed on


def test_state_and_exit_code(avne, one):
    script = 'pwd; umask; echo "$WORD-$AVNE-$AVNE_ID"; cat; echo err >&2; exit 3'
    done = avne(
        "attach", "one", "sh", "-c", script, env={"WORD": "word", "AVNE_ENV": "WORD"}, cwd="/usr/lib",
        umask=0o027, stdin=None, input="typed\n",
    )  # fmt: skip
    number = listed(avne)[0]["id"]
    assert (done.returncode, done.stderr) == (3, "err\n")
    assert done.stdout == f"/usr/lib\n0027\nword-1-{number}\ntyped\n"


def test_the_users_shell_is_the_default(avne, one):
    done = avne("attach", "one", env={"SHELL": "/bin/sh"}, stdin=None, input="echo from-$0; exit 4\n")
    assert (done.returncode, done.stdout) == (4, "from-/bin/sh\n")


def test_options_after_the_program_are_its_own(avne, one):
    assert avne("attach", "one", "sh", "-c", 'echo "$@"', "--help", "-h").stdout == "-h\n"
    assert avne("attach", "one", "--", "echo", "--", "-h").stdout == "-- -h\n"


@pytest.mark.parametrize(("program", "code"), [("/etc/passwd", 126), ("no-such-program", 127)])
def test_a_program_that_cannot_be_started(avne, one, program, code):
    done = avne("attach", "one", program)
    assert (done.returncode, done.stdout) == (code, "")
    assert program in done.stderr.splitlines()[0]


def test_a_network_socket_is_refused(avne, one):
    with socket.socket() as way_out:
        done = avne("attach", "one", "true", stdin=way_out.fileno())
    assert done.returncode == 125
    assert "a way around avne" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGINT])
def test_death_by_signal_is_death_by_that_signal(avne, one, number):
    assert avne("attach", "one", "sh", "-c", f"kill -{number.value} $$").returncode == -number


def test_the_seal_is_that_of_the_program(avne, start):
    facts = ["grep", "-E", "^(Cap|NoNew|Seccomp|Uid|Gid|Groups)", "/proc/self/status"]
    process = start("sh", "-c", '"$@"; echo; exec sleep 60', "sh", *facts, options=("--name", "one"))
    first = "".join(iter(process.stdout.readline, "\n"))
    assert "NoNewPrivs:\t1" in first
    assert avne("attach", "one", *facts).stdout == first


# Signals and the end


def test_signals_reach_the_program(one, attached):
    process = attached(sys.executable, "-uc", TELL_SIGNALS)
    assert process.stdout.readline() == "up\n"
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR2):
        process.send_signal(number)
        assert process.stdout.readline() == f"{number.name}\n"
    process.send_signal(signal.SIGHUP)
    assert process.stdout.readline() == "SIGHUP\n"
    assert process.wait(20) == 5


def test_a_killed_attach_takes_its_program_along_and_no_other(avne, one, attached):
    process = attached(*FOR_EVER)
    assert process.stdout.readline() == "up\n"
    process.kill()
    assert process.stdout.read() == "", "its program had the pipe as well"
    assert avne("attach", "one", "echo", "hi").stdout == "hi\n"
    assert one.poll() is None


def test_the_programs_end_is_everybodys(one, attached):
    process = attached(*FOR_EVER)
    assert process.stdout.readline() == "up\n"
    one.terminate()
    assert one.wait(20) == -signal.SIGTERM
    assert process.wait(20) == -signal.SIGKILL
    assert process.stderr.read() == "avne: the environment has ended, and sh with it\n"


def test_a_killed_run_is_told(one, attached):
    process = attached(*FOR_EVER)
    assert process.stdout.readline() == "up\n"
    one.kill()
    assert process.wait(20) == 125
    assert process.stderr.readline() == "avne: the environment is gone, and sh with it\n"


# Names, ps, stop


def test_a_name_is_one_environments_only_and_free_again_after_it(run, avne, one):
    done = run("true", options=("--name", "one"))
    assert (done.returncode, done.stdout) == (125, "")
    assert "there is an environment called one" in done.stderr
    assert avne("stop", "one").returncode == 0
    assert run("true", options=("--name", "one")).returncode == 0


@pytest.mark.parametrize("name", ["123", "abcdef", "123456", "-x", ".", "a/b", "a b", "ä", "x" * 65, "a\n"])
def test_what_is_no_name(run, name):
    done = run("true", options=(f"--name={name}",))
    assert (done.returncode, done.stdout) == (125, "")
    assert "cannot be called" in done.stderr


def test_ps_shows_a_table_and_no_secrets(avne, start, runtime, socks):
    assert avne("ps").stdout.split() == ["ID", "NAME", "PID", "AGE", "MODE", "UPSTREAM", "OPEN", "PROGRAM"]
    url = socks.replace("://", "://user:secret@")
    process = start(*FOR_EVER, "argument", options=("--name", "one", "--upstream", url, "-p", "0:80"))
    assert process.stdout.readline() == "up\n"
    _, row = avne("ps").stdout.splitlines()
    number, name, pid, old, mode, upstream, opened, program = row.split()
    assert re.fullmatch(r"127\.0\.0\.1:\d+->80", opened)
    assert (name, pid, mode, program) == ("one", str(process.pid), "root", "sh")
    assert re.fullmatch(r"\d+s", old)
    assert "secret" not in upstream
    meta = Path(f"{runtime}/avne/{number}/meta")
    assert stat.S_IMODE(meta.stat().st_mode) == 0o600
    assert b"secret" not in meta.read_bytes()
    assert b"argument" not in meta.read_bytes()
    (about,) = listed(avne)
    assert about["supervisor"] == process.pid
    assert about["started"] == pytest.approx(time.time(), abs=60)


def test_ps_shows_no_dead_one(avne, one):
    one.kill()
    one.wait(20)
    assert listed(avne) == []


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0s"), (59.9, "59s"), (60, "1m00s"), (3723, "1h02m"), (90000, "1d01h")]
)
def test_ages(seconds, text):
    assert age(seconds) == text


def test_stop_ends_the_program_and_waits_for_the_end(avne, one, runtime):
    assert (done := avne("stop", "one")).returncode == 0
    assert (done.stdout, done.stderr) == ("", "")
    assert os.listdir(f"{runtime}/avne") == []
    assert one.wait(5) == -signal.SIGTERM


def test_stop_kills_what_does_not_heed_it(avne, start):
    process = start("sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done", options=("--name", "one"))
    assert process.stdout.readline() == "up\n"
    began = time.monotonic()
    assert avne("stop", "one").returncode == 0
    assert time.monotonic() - began > 4.9
    assert process.wait(5) == -signal.SIGKILL


def test_stop_before_the_program_has_started(avne, start):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"socks5://127.0.0.1:{silent.getsockname()[1]}"
        process = start("true", options=("--name", "one", "--upstream", url))
        worker, _ = silent.accept()
        (about,) = listed(avne)
        assert set(about) == {"id", "name"}
        assert "(starting)" in avne("ps").stdout
        assert avne("stop", "one").returncode == 0
        worker.close()
    assert process.wait(5) == -signal.SIGTERM


# From inside


PLANT = """
import os, socket, sys
directory = f"{sys.argv[1]}/avne/abcdef"
os.makedirs(directory, 0o700)
os.symlink("planted", f"{directory}/name")
doors = []
for kind in ("attach", "stop"):
    doors.append(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    doors[-1].bind(f"{directory}/{kind}")
    doors[-1].listen()
print("up", flush=True)
doors[0].accept()
print("fooled", flush=True)
"""


def test_a_socket_planted_by_the_program_is_seen_by_nobody(avne, start, runtime):
    process = start(sys.executable, "-c", PLANT, runtime)
    assert process.stdout.readline() == "up\n"
    assert [about["id"] for about in listed(avne)] != ["abcdef"]
    for target in ("planted", "abcdef"):
        assert avne("attach", target, "true").returncode == 125
    (number,) = [about["id"] for about in listed(avne)]
    assert avne("attach", number, "ls", f"{runtime}/avne").stdout == "abcdef\n", "and inside it is there"
    assert process.poll() is None


def test_the_program_cannot_reach_the_doors_of_its_own_run(avne, one, runtime):
    number = listed(avne)[0]["id"]
    assert Path(f"{runtime}/avne/{number}/attach").is_socket()
    assert avne("attach", "one", "ls", runtime).returncode == 2
    assert avne("attach", "one", *COMMAND, "attach", "one", "true").returncode == 125
