# SPDX-License-Identifier: GPL-3.0-or-later
"""Real runs: the program's signals and end are its own, and what avne does around them is seen or silent."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import sys
from pathlib import Path

import pytest

from avne.cli import isolation
from avne.cli.routing import Routing, Written
from avne.cli.run import warn_of_environment
from avne.config import Config
from avne.upstream import patterns
from avne.upstream.spec import UpstreamSpec

TELL_SIGNALS = """
import os, signal, sys
def told(number, frame):  # (print would raise in the middle of another print)
    os.write(1, f"{signal.Signals(number).name if number < 32 else number}\\n".encode())
    if number == signal.SIGHUP:
        sys.exit(5)
for number in signal.valid_signals() - {9, 19, 17}:
    signal.signal(number, told)
print("up", flush=True)
while True:
    signal.pause()
"""


def cmdline(pid):
    return Path(f"/proc/{pid}/cmdline").read_text()


def children(pid):
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_success_is_silent_and_leaves_a_log_only(run, runtime, tmp_path):
    done = run("sh", "-c", "echo out; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "")
    assert os.listdir(f"{runtime}/avne") == []
    (log,) = (tmp_path / "state/avne").iterdir()
    assert "worker-joined" in log.read_text()


def test_a_phase_is_a_line_and_the_log_is_shown_live(run):
    once = run("true", options=["-v"]).stderr.splitlines()
    assert all(re.fullmatch(r"avne: +\d+ ms  .+", line) for line in once)
    assert [line.split("ms  ")[1] for line in once if "started true" in line or "ended" in line] == [
        "started true", "ended with 0",
    ]  # fmt: skip
    twice = run("true", options=["-vv"]).stderr
    assert re.search(
        r"^avne: \d{4}-\S+Z info net worker-joined worker=w1\.1 kind=socks5$", twice, re.MULTILINE
    )


def test_no_process_of_a_run_loads_zeromq(start):
    """It is for workers on other machines, and would be the largest part of a start."""
    process = start("sh", "-c", "echo up; sleep 60")
    assert process.stdout.readline() == "up\n"
    ours = [process.pid, *children(process.pid)]
    assert len(ours) >= 4, "supervisor, helper, netstack, worker"
    for pid in ours:
        assert "zmq" not in Path(f"/proc/{pid}/maps").read_text()


def test_no_program_is_the_shell(run):
    done = run(env={"SHELL": "/bin/echo"})
    assert (done.returncode, done.stdout) == (0, "\n")


def test_the_program_finds_out_where_it_is(run):
    done = run("sh", "-c", "echo $AVNE $AVNE_ID")
    assert re.fullmatch(r"1 [0-9a-f]{6}\n", done.stdout)


def test_variables_are_passed_by_name(run):
    """Not the addresses of an ssh connection, nor the sockets of a session."""
    told = {"SSH_CONNECTION": "192.0.2.1 1 192.0.2.2 22", "KEPT": "kept", "LC_TIME": "C", "http_proxy": "x"}
    shown = run("env", env=told).stdout
    assert "LC_TIME=C\n" in shown
    for name in ("SSH_CONNECTION", "KEPT", "http_proxy", "XDG_RUNTIME_DIR"):
        assert f"{name}=" not in shown, name
    options = ["-v", "--env", "KEPT", "--setenv", "SET=a=b"]
    done = run(
        "sh",
        "-c",
        "echo $KEPT $SET $SSH_CONNECTION $FROM_CONFIG",
        options=options,
        env={**told, "FROM_CONFIG": "x", "AVNE_ENV": "FROM_CONFIG"},
    )
    assert done.stdout == "kept a=b x\n"
    (line,) = [line for line in done.stderr.splitlines() if "stay outside" in line]
    assert "SSH_CONNECTION" in line
    assert "http_proxy" in line
    assert "KEPT" not in line


def test_what_is_sent_to_the_supervisor_by_name_is_forwarded(start):
    process = start("/usr/bin/python3", "-c", TELL_SIGNALS)
    assert process.stdout.readline() == "up\n"
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH, signal.SIGCHLD):
        os.kill(process.pid, number)  # these are the terminal's, or nobody's
    named = (
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGTERM,
        signal.SIGCONT,
        signal.SIGRTMIN + 1,
        signal.SIGHUP,
    )
    for number in named:
        os.kill(process.pid, number)
        told = signal.Signals(number).name if number < signal.SIGRTMIN else str(number)
        assert process.stdout.readline() == f"{told}\n"
    assert process.wait(20) == 5


def test_a_second_term_within_five_seconds_is_kill(start):
    process = start("/usr/bin/python3", "-c", TELL_SIGNALS)
    assert process.stdout.readline() == "up\n"
    os.kill(process.pid, signal.SIGTERM)
    assert process.stdout.readline() == "SIGTERM\n"
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(20) == -signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_a_terminals_signal_ends_the_program_and_then_avne_by_it(start, number):
    process = start("sh", "-c", "echo up; exec sleep 60")
    assert process.stdout.readline() == "up\n"
    os.killpg(process.pid, number)
    assert process.wait(20) == -number


def spoil():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])


def signal_state(status):
    """Blocked and ignored signals, without those that glibc keeps for itself: posix_spawn(3) ignores them."""
    masks = [int(line.split()[1], 16) for line in status.splitlines()]
    assert len(masks) == 2
    return [mask & ~(3 << 31) for mask in masks]


@pytest.mark.parametrize("before", [None, spoil])
def test_the_program_inherits_the_callers_signal_state(run, start, before):
    show = ["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]
    outside = start(argv=show, preexec_fn=before).communicate()[0]
    inside = run(*show, preexec_fn=before).stdout
    assert signal_state(inside) == signal_state(outside)


def test_an_ignored_interrupt_does_not_end_the_start(start):
    """A script's background job has SIGINT ignored."""
    process = start("sh", "-c", "echo up; read x; exit 4", options=["-v"], preexec_fn=spoil)
    assert "upstream" in process.stderr.readline()
    os.kill(process.pid, signal.SIGINT)
    assert process.stdout.readline() == "up\n"
    assert process.wait(20) == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_before_there_is_a_program_ends_avne_by_it(start, runtime, number):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # a proxy that does not answer
        url = f"socks5://127.0.0.1:{silent.getsockname()[1]}"
        process = start("true", options=["-v", "--upstream", url])
        while "netstack ready" not in process.stderr.readline():
            pass
        os.kill(process.pid, number)
        assert process.wait(20) == -number
    assert os.listdir(f"{runtime}/avne") == []


def test_closed_standard_streams_do_no_harm(run):
    done = run("sh", "-c", "exit 6", preexec_fn=lambda: os.closerange(0, 3))
    assert done.returncode == 6


def test_descriptors_of_the_caller_reach_nobody(start):
    read_end, write_end = os.pipe()
    process = start("sh", "-c", "echo up; ls /proc/self/fd; exec sleep 60", pass_fds=[write_end])
    os.close(write_end)
    assert process.stdout.readline() == "up\n"
    pipe = os.readlink(f"/proc/self/fd/{read_end}")
    for pid in children(process.pid):
        links = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
        assert pipe not in links, Path(f"/proc/{pid}/comm").read_text()
    os.close(read_end)


def test_a_worker_that_keeps_dying_ends_the_run(start):
    code = (
        "import sys; import avne.cli.workers as w; w._backoff = lambda n: 0.0;"
        "from avne.cli.main import main; sys.exit(main(['run', '-v', 'sleep', '60']))"
    )
    process = start(argv=[sys.executable, "-c", code])
    for generation in range(1, 7):
        while f"worker w1.{generation} ready" not in process.stderr.readline():
            pass
        (worker,) = [pid for pid in children(process.pid) if "upstream.worker" in cmdline(pid)]
        os.kill(worker, signal.SIGKILL)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 125
    assert "avne: upstream worker 1 ended 6 times in a minute\n" in errors


def test_a_dead_netstack_ends_the_program(start):
    process = start("sh", "-c", "echo up; exec sleep 60", options=["--on-failure", "kill"])
    assert process.stdout.readline() == "up\n"
    (netstack,) = [pid for pid in children(process.pid) if "netstack.process" in cmdline(pid)]
    os.kill(netstack, signal.SIGKILL)
    assert process.wait(20) == 125
    assert process.stderr.readline() == "avne: the network process died, the program is ended\n"


UPLOAD = """
import socket, sys
sock = socket.create_connection(("192.0.2.1", int(sys.argv[1])))
sock.settimeout(0.3)
try:
    while True:
        sock.send(bytes(65536))
except TimeoutError:
    pass
"""


def test_what_is_unsent_at_the_programs_end_is_told_and_can_be_given_up(start):
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, and never reads
        process = start("/usr/bin/python3", "-c", UPLOAD, str(server.getsockname()[1]))
        ready, _, _ = select.select([process.stderr], [], [], 30)
        assert ready
        line = process.stderr.readline()
        assert line == "avne: 1 connection is still sending what the program wrote; Ctrl-C ends it now\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(5) == -signal.SIGINT


class Notices:
    def __init__(self):
        self.told = []
        self.notice = self.told.append


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({}, None),
        ({"no_proxy": "x", "HTTP_PROXY": ""}, None),
        ({"ALL_PROXY": "socks5://x", "https_proxy": "y"}, "ALL_PROXY, https_proxy set"),
        ({"LD_PRELOAD": "/usr/lib/libtorsocks.so"}, "LD_PRELOAD (torsocks) set"),
    ],
)
def test_what_would_lead_a_program_to_a_proxy_is_warned_about(environ, told):
    notices = Notices()
    warn_of_environment(environ, notices)
    assert [text.partition(":")[0] for text in notices.told] == ([told] if told else [])


def test_each_run_is_isolated_in_tor():
    known = UpstreamSpec("tor", "/run/tor/socks")
    rule = Written(patterns.parse("*"), UpstreamSpec("socks5", ("h", 1), inner=UpstreamSpec("tor")), "--rule")
    written = Routing(UpstreamSpec("log", inner=UpstreamSpec("tor")), (rule,), False, False)
    runs = [written.completed(known, isolation.credentials(Config())) for _ in range(2)]
    first, second = (run.default.inner for run in runs)
    assert runs[0].rules[0].upstream.inner == first, "one run is one identity"
    assert first.address == known.address
    assert re.fullmatch("avne-[0-9a-f]{16}", first.username)
    assert re.fullmatch("[0-9a-f]{16}", first.password)
    assert first.username != second.username
    plain = UpstreamSpec("socks5", ("h", 1), "me", "secret")
    assert Routing(plain, (), False, False).completed(None, ("u", "p")).default == plain
