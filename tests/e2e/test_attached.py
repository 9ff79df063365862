# SPDX-License-Identifier: GPL-3.0-or-later
"""A second program in the environment of another, in each mode."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.bed import people, places


def _avne(avne, *words, timeout=60, **settings):
    """Any command of avne, as the person of the mode."""
    return subprocess.run(
        avne.as_person([avne.command, *words]), capture_output=True, text=True, timeout=timeout,
        stdin=subprocess.DEVNULL, start_new_session=True, check=False, **settings,
    )  # fmt: skip


@pytest.fixture
def first(any_avne, bed):
    """A run called first, with its program up; `first.avne` is how to call avne there."""
    script = "echo up; exec sleep 120"
    with any_avne.start("sh", "-c", script, upstream=bed.socks, options=["--name", "first"]) as process:
        assert process.stdout.readline() == "up\n"
        process.avne = any_avne
        yield process
        process.terminate()
        process.wait(20)


def _program(run):
    return int(Path(f"/proc/{run.init}/task/{run.init}/children").read_text().split()[0])


def _about(avne):
    """What ps says of it."""
    listed = json.loads(_avne(avne, "ps", "--json").stdout)
    return next((about for about in listed if about["name"] == "first"), None)


def test_it_has_the_same_network_view_and_seal(first):
    avne, program = first.avne, _program(first)
    namespaces = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
    script = "; ".join(f"readlink /proc/self/ns/{name}" for name in namespaces)
    script += "; grep -E '^(Cap|NoNewPrivs|Seccomp|Uid|Gid|Groups)' /proc/self/status; cat /etc/hostname"
    done = _avne(avne, "attach", str(program), "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:7] == [os.readlink(f"/proc/{program}/ns/{name}") for name in namespaces]
    assert lines[-1] == "localhost"
    facts = dict(line.split(":\t", 1) for line in lines[7:-1])
    theirs = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{program}/status").read_text().splitlines()
        if ":\t" in line
    )
    for name in (
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "Seccomp_filters",
    ):
        assert facts[name] == theirs[name], name
    assert facts["NoNewPrivs"] == "1"
    assert set(facts["CapBnd"]) == {"0"}


def test_it_reaches_the_world_as_the_first_one_does(first):
    done = _avne(first.avne, "attach", "first", "wget", "-qO-", "http://www.test.example/")
    assert (done.returncode, done.stdout, done.stderr) == (0, places.PAGE, "")


def test_a_way_out_is_closed_to_it_too(first):
    """The host's loopback, with a control outside."""
    script = "import socket; socket.create_connection(('127.0.0.1', {})).close()"
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        script = script.format(server.getsockname()[1])
        assert subprocess.run(["python3", "-c", script], check=False).returncode == 0
        done = _avne(first.avne, "attach", "first", "python3", "-c", script)
    assert done.returncode == 1
    assert "ConnectionRefusedError" in done.stderr


def test_exit_code_and_death_by_signal(first):
    assert _avne(first.avne, "attach", "first", "sh", "-c", "exit 9").returncode == 9
    assert _avne(first.avne, "attach", "first", "sh", "-c", "kill -15 $$").returncode == -signal.SIGTERM
    assert _avne(first.avne, "attach", "first", "no-such-program").returncode == 127


def test_ps_and_stop(first):
    about = _about(first.avne)
    assert about["mode"] == first.avne.mode
    assert about["init"] == first.init
    assert about["program"] == "sh"
    assert _avne(first.avne, "stop", "first").returncode == 0
    assert first.wait(10) == -signal.SIGTERM
    assert _about(first.avne) is None


def test_another_user_finds_and_reaches_nothing(first, user):
    """Neither by the process, nor by the name, nor at the socket itself."""
    person = people.ROOT if first.avne.person.uid else user
    other = type(first.avne)(
        "root" if person.uid == 0 else "rootless", first.avne.command, person, first.avne.place
    )
    for target in (str(_program(first)), str(first.init), str(first.supervisor), "first"):
        done = _avne(other, "attach", target, "true")
        assert done.returncode == 125
        assert "of your" in done.stderr
    assert "first" not in _avne(other, "ps").stdout
    number = _about(first.avne)["id"]
    (door,) = [
        path
        for base in (
            "/run/avne",
            f"/run/user/{first.avne.person.uid}/avne",
            f"/dev/shm/avne-{first.avne.person.uid}/avne",
        )
        for path in Path(base).glob(f"{number}/attach")
    ]
    reach = "import socket, sys; socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect(sys.argv[1])"
    mine = subprocess.run(
        first.avne.as_person(["python3", "-c", reach, str(door)]), capture_output=True, text=True, check=False
    )
    assert mine.returncode == 0, mine.stderr
    if person.uid:
        theirs = subprocess.run(
            other.as_person(["python3", "-c", reach, str(door)]), capture_output=True, text=True, check=False
        )
        assert "PermissionError" in theirs.stderr


def _levels(pid):
    """How many pid namespaces it has a number in."""
    (line,) = [
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("NSpid:")
    ]
    return len(line.split()) - 1


def test_a_process_in_a_namespace_below_names_it_too(in_mode, bed):
    """As a browser's sandboxed process is."""
    avne = in_mode("rootless")
    nested = ["unshare", "-Ur", "-pf", "sh", "-c", "echo up; exec sleep 121"]
    with avne.start(*nested, upstream=bed.socks) as run:
        assert run.stdout.readline() == "up\n"
        (leaf,) = [pid for pid in run.parts() if _levels(pid) == _levels(run.init) + 1]
        done = _avne(avne, "attach", str(leaf), "echo", "hi")
        assert (done.returncode, done.stdout) == (0, "hi\n"), done.stderr


@pytest.mark.parametrize(
    "capture",
    [
        ["tcpdump", "-lni", "tun0", "-c", "1", "dst", places.V4],
        ["tshark", "-lni", "tun0", "-c", "1", "-f", f"dst {places.V4}"],
    ],
    ids=lambda words: words[0],
)
def test_capture_programs_see_the_tun(in_mode, bed, capture):
    """The original's use of attach."""
    avne = in_mode("rootless")
    script = f"echo up; while :; do wget -qO /dev/null http://{places.V4}/; done"
    with avne.start("sh", "-c", script, upstream=bed.socks, options=["--name", "watched"]) as run:
        assert run.stdout.readline() == "up\n"
        done = _avne(avne, "attach", "--raw", "watched", *capture)
        assert done.returncode == 0, done.stderr
        assert "10.213.0.2" in done.stdout
        assert places.V4 in done.stdout
        without = _avne(avne, "attach", "watched", *capture)
        assert without.returncode not in (0, 125)
        run.terminate()
        run.wait(20)


def test_capturing_where_it_cannot_be_is_told(in_mode, bed):
    avne = in_mode("setuid")
    with avne.start("sh", "-c", "echo up; exec sleep 60", upstream=bed.socks, options=["--name", "w"]) as run:
        assert run.stdout.readline() == "up\n"
        done = _avne(avne, "attach", "--raw", "w", "true")
        assert done.returncode == 125
        assert "--helper rootless" in done.stderr
        run.terminate()
        run.wait(20)
