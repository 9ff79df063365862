# SPDX-License-Identifier: GPL-3.0-or-later
"""What the supervisor does when a part of it fails; the parts are real, one of them is spoilt."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from avne.privileged import launch

# Runs `avne run …` with something of the supervisor changed before.
SPOILT = """
import sys
from avne.cli import network, supervise, workers
from avne.privileged import launch
{change}
from avne.cli.main import main
sys.exit(main(["run", *sys.argv[1:]]))
"""


@pytest.fixture
def spoilt(start):
    """spoilt(change, WORD…): (exit code, output, errors) of a run after `change`."""

    def run(change, *words):
        process = start(argv=[sys.executable, "-c", SPOILT.format(change=change), *words])
        output, errors = process.communicate(timeout=30)
        return process.returncode, output, errors

    return run


def test_a_netstack_that_cannot_start_is_told_with_its_last_line(spoilt):
    code, _, errors = spoilt("network.NETSTACK = 'avne.no_such_module'", "true")
    problem, cure = errors.splitlines()
    assert code == 125
    assert problem.startswith("avne: the network process ended before it was ready: ")
    assert problem.endswith("No module named avne.no_such_module")
    log = Path(cure.split(": ")[1])
    assert "No module named avne.no_such_module" in log.read_text()


def test_a_worker_that_cannot_start_is_told(spoilt):
    code, _, errors = spoilt("workers.MODULE = 'avne.no_such_module'", "true")
    assert code == 125
    assert errors.startswith("avne: upstream worker 1 ended before it was ready: ")


def test_several_workers_are_waited_for(spoilt):
    code, _, errors = spoilt("", "-v", "--workers", "3", "true")
    assert code == 0
    started = errors.index("everything is ready")
    for number in (1, 2, 3):
        assert errors.index(f"worker w{number}.1 ready") < started


def test_a_start_that_takes_too_long_names_who_is_late(spoilt):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"socks5://127.0.0.1:{silent.getsockname()[1]}"
        code, _, errors = spoilt("supervise.START_BOUND = 0.5", "--upstream", url, "true")
    assert code == 125
    assert errors.startswith("avne: upstream worker 1 was not ready within ")


def failing_helper(tmp_path, stage):
    """A helper that fails at `stage`."""
    path = tmp_path / "helper"
    path.write_text(f"""#!{sys.executable} -I
import socket
import sys
sys.path.insert(0, {os.getcwd()!r})
from avne.privileged import launch
line = socket.socket(fileno=3)
line.recv(100)
stage = launch.STAGES.index({stage!r})
line.send(launch.MESSAGE.pack(launch.MAGIC, launch.FAILED, launch.layout(), stage, 1, 0, 0, 0, 0))
""")
    path.chmod(0o755)
    return path


def test_the_next_helper_is_tried_where_it_may_have_the_right(spoilt, tmp_path):
    helpers = [str(failing_helper(tmp_path, "USER_NAMESPACE")), launch.find_helper()]
    code, output, errors = spoilt(f"launch.candidates = lambda choice: {helpers}", "echo", "hi")
    assert (code, output, errors) == (0, "hi\n", "")


@pytest.mark.parametrize("stage", ["DROP", "REQUEST"])
def test_other_failures_of_a_helper_are_told_at_once(spoilt, tmp_path, stage):
    helpers = [str(failing_helper(tmp_path, stage)), launch.find_helper()]
    code, output, errors = spoilt(f"launch.candidates = lambda choice: {helpers}", "echo", "hi")
    assert (code, output) == (125, "")
    problem, cure = errors.splitlines()
    assert problem.startswith("avne: ")
    assert cure.startswith("  ")


@pytest.mark.parametrize(("program", "code"), [("/etc/passwd", 126), ("no-such-program", 127)])
def test_a_program_that_cannot_be_started(spoilt, program, code):
    got, output, errors = spoilt("", program)
    assert (got, output) == (code, "")
    assert program in errors.splitlines()[0]


def test_a_killed_helper_ends_the_run(start):
    process = start("sh", "-c", "echo up; exec sleep 60")
    assert process.stdout.readline() == "up\n"
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (helper,) = [pid for pid in children if os.readlink(f"/proc/{pid}/exe").startswith(launch.PACKAGED)]
    os.kill(int(helper), signal.SIGKILL)
    assert process.wait(20) == 125
    assert process.stderr.readline() == "avne: the environment's own process ended, and the program with it\n"


def test_a_fault_of_the_supervisor_leaves_nothing_behind(spoilt, tmp_path):
    change = "supervise.Supervisor._program_ended = lambda self, code: 1 // 0"
    code, _, errors = spoilt(change, "sh", "-c", f"sleep 60 & echo $$ > {tmp_path}/pid")
    assert code == 125
    assert "ZeroDivisionError" in errors
