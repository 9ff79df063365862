# SPDX-License-Identifier: GPL-3.0-or-later
"""avne's own Tor: a real keeper process, mostly around a stand-in for tor that does what a test says."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from avne.errors import AvneError
from avne.upstream import keeper
from avne.upstream.keeper import Keeper, connect
from avne.upstream.spec import UpstreamSpec

STAND_IN = """#!/bin/sh
# tor --defaults-torrc /dev/null -f TORRC
directory=${4%/torrc}
echo $$ >> "$directory/pids"
. "$directory/plan"
"""
HALF = "echo 'Nov 23 12:00:00.000 [notice] Bootstrapped 50% (loading): Loading it'\n"
DONE = "echo 'Nov 23 12:00:00.000 [notice] Bootstrapped 100% (done): Done'\n"
STAY = "exec sleep 1000\n"


class Home:
    """A state and a runtime directory, and a `tor` in PATH."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.top = tempfile.mkdtemp(prefix="k")
        self.state, self.run = f"{self.top}/state 'dir'", f"{self.top}/run"
        self.tor = Path(self.state, "tor")
        self.tor.mkdir(parents=True)
        Path(self.run).mkdir()
        self.bin = Path(self.top, "bin")
        self.bin.mkdir()
        (self.bin / "tor").write_text(STAND_IN)
        (self.bin / "tor").chmod(0o755)
        monkeypatch.setenv("PATH", f"{self.bin}:/usr/bin:/bin")
        self.progress: list[tuple[int, str, str]] = []
        self.on_progress = self.progress.append
        self.plan(HALF + DONE + STAY)

    def plan(self, text: str) -> None:
        (self.tor / "plan").write_text(text)

    def connect(self, torrc: str | None = None, **named: Any) -> Keeper:
        return connect(self.state, torrc, lambda *step: self.on_progress(step), runtime_dir=self.run, **named)

    def pids(self) -> list[int]:
        """Of all tors that were ever started here."""
        return [int(line) for line in (self.tor / "pids").read_text().split()]

    def keeper_pid(self) -> int:
        with open(f"/proc/{self.pids()[-1]}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])

    def ended(self) -> None:
        """Waits until the keeper has ended, and sees that nothing is left."""
        if not (self.tor / "pids").exists():
            return  # there was none
        with open(self.tor / "lock") as lock:
            while True:  # the keeper takes the lock only when it has seen that it is alone
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not os.path.lexists(self.tor / "run"):
                    break
                fcntl.flock(lock, fcntl.LOCK_UN)
                os.sched_yield()
            for pid in self.pids():
                assert not runs(pid), f"tor {pid} is left"
            assert not os.listdir(f"{self.run}/tor")


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    home = Home(monkeypatch)
    yield home
    home.ended()
    shutil.rmtree(home.top)


def runs(pid: int) -> bool:
    """Whether a process is there, and no zombie that waits for pid 1."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pid: int) -> None:
    """Waits until a process that is not our child has ended."""
    with contextlib.suppress(ProcessLookupError):
        fd = os.pidfd_open(pid)
        assert select.select([fd], [], [], 10)[0], f"{pid} does not end"
        os.close(fd)


def test_progress_and_then_ready(home: Home) -> None:
    """Tor goes on only when the session has seen where it is: it might join later than 100 % else."""
    os.mkfifo(home.tor / "go")
    home.plan(HALF + 'read go < "$directory/go"\n' + DONE + STAY)

    def on_progress(step: tuple[int, str, str]) -> None:
        home.progress.append(step)
        if step[0] == 50:
            (home.tor / "go").write_text("go\n")

    home.on_progress = on_progress
    with home.connect() as own:
        assert own.spec == UpstreamSpec("tor", f"{home.run}/tor/socks")
    assert home.progress[-2:] == [(50, "loading", "Loading it"), (100, "done", "Done")]
    torrc = (home.tor / "torrc").read_text()
    assert "ExtendedErrors" in torrc
    assert (home.tor / "torrc").stat().st_mode & 0o777 == 0o600
    assert home.tor.stat().st_mode & 0o777 == 0o700


def test_sessions_share_one_tor_and_the_last_one_ends_it(home: Home) -> None:
    first = home.connect()
    second = home.connect()
    first.close()
    third = home.connect()
    second.close()
    assert len(home.pids()) == 1
    os.kill(home.pids()[0], 0)
    third.close()
    home.ended()


def test_sessions_that_start_at_once_start_one_tor(home: Home) -> None:
    keepers: list[Keeper] = []
    threads = [threading.Thread(target=lambda: keepers.append(home.connect())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keepers) == 6
    assert len(home.pids()) == 1
    for own in keepers:
        own.close()


def test_a_session_after_the_last_one_starts_anew(home: Home) -> None:
    for count in range(1, 6):
        with home.connect():
            assert len(home.pids()) in range(1, count + 1)


def test_a_killed_session_lets_go(home: Home) -> None:
    code = (
        "import sys; from avne.upstream.keeper import connect\n"
        "k = connect(sys.argv[1], None, lambda *a: None, sys.argv[2]); print('ok', flush=True)\n"
        "sys.stdin.read()"
    )
    session = subprocess.Popen(
        [sys.executable, "-c", code, home.state, home.run], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert session.stdout is not None
    assert session.stdout.readline() == b"ok\n"
    os.kill(home.pids()[0], 0)
    session.send_signal(signal.SIGKILL)
    session.communicate()
    home.ended()


def test_a_killed_keeper_takes_its_tor_along_and_is_replaced(home: Home) -> None:
    first = home.connect()
    tor = home.pids()[0]
    os.kill(home.keeper_pid(), signal.SIGKILL)
    gone(tor)
    with home.connect():
        assert len(home.pids()) == 2
    first.close()


def test_a_tor_that_dies_is_started_again_and_sessions_are_told(home: Home) -> None:
    with home.connect() as own:
        os.kill(home.pids()[0], signal.SIGKILL)
        said = []
        while not said or said[-1][0] != "ready":
            received = own._control.receive(wait=True)
            assert received is not None
            assert received[0]
            said.append(received[0])
        assert ["down", "tor ended with status -9"] in said
        assert len(home.pids()) == 2


def test_a_new_session_does_not_wait_for_the_pause(home: Home) -> None:
    with home.connect() as own:
        os.kill(home.pids()[0], signal.SIGKILL)
        while (received := own._control.receive(wait=True)) and received[0][0] != "down":
            pass
        with home.connect():
            assert len(home.pids()) == 2


def test_a_tor_that_does_not_heed_sigterm_is_killed(home: Home) -> None:
    home.plan("trap '' TERM\nsleep 1000 &\n" + DONE + "wait\n")
    with home.connect():
        tor = home.pids()[0]
        sleeper = int(Path(f"/proc/{tor}/task/{tor}/children").read_text())
    try:
        home.ended()
    finally:
        os.kill(sleeper, signal.SIGKILL)


def test_a_tor_that_ends_at_once(home: Home) -> None:
    home.plan(
        "echo 'x [warn] Failed to parse/validate config: Unknown option Foo'\n"
        "echo 'x [err] Reading config failed--see warnings above.'\nexit 1\n"
    )
    with pytest.raises(AvneError) as caught:
        home.connect()
    assert "Unknown option Foo" in caught.value.problem
    assert "tor.torrc" in caught.value.cure


def test_no_progress_says_where_it_is_stuck_and_why(home: Home) -> None:
    home.plan(HALF + "echo 'x [warn] Problem bootstrapping. (Network is unreachable)'\n" + STAY)
    with pytest.raises(AvneError) as caught:
        home.connect(no_progress=0.5)
    assert "50 % (Loading it)" in caught.value.problem
    assert "Network is unreachable" in caught.value.problem
    for hint in ("clock", "firewall", "Bridge"):
        assert hint in caught.value.cure


def test_a_keeper_that_cannot_start(home: Home) -> None:
    (home.tor / "torrc").mkdir()
    with pytest.raises(AvneError, match="keeps avne's own Tor ended"):
        home.connect()
    assert "torrc" in (home.tor / "keeper.log").read_text()
    os.unlink(home.tor / "run")
    os.unlink(f"{home.run}/tor/keeper")


def test_one_torrc_for_all_sessions(home: Home) -> None:
    extra = Path(home.top, "bridges")
    extra.write_text("UseBridges 0\n")
    with home.connect(str(extra)):
        assert f'%include "{extra}"' in (home.tor / "torrc").read_text()
        with pytest.raises(AvneError) as caught:
            home.connect()
        assert str(extra) in caught.value.problem
        home.connect(str(extra)).close()


def without_keeper(home: Home, **named: Any) -> AvneError:
    with pytest.raises(AvneError) as caught:
        connect(home.state, named.get("torrc"), print, named.get("run", home.run))
    return caught.value


def test_no_tor_installed(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "_SBIN", ())
    monkeypatch.setenv("PATH", ":relative:/nonexistent")
    error = without_keeper(home)
    assert error.cure == "sudo apt install tor"


def test_a_torrc_that_is_not_there(home: Home) -> None:
    assert "/nonexistent/torrc" in without_keeper(home, torrc="/nonexistent/torrc").problem


def test_a_runtime_directory_with_too_long_a_name(home: Home) -> None:
    assert "too long" in without_keeper(home, run=home.top + "/" + "x" * 100).problem


def test_a_state_directory_that_is_none(home: Home) -> None:
    Path(home.top, "file").write_text("")
    with pytest.raises(AvneError, match="cannot use"):
        connect(home.top + "/file", None, print, home.run)


def test_the_real_tor_accepts_what_we_write(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network it stays at 0 %, and says so."""
    (home.bin / "tor").unlink()
    extra = Path(home.top, 'a "quoted" torrc')
    extra.write_text("DisableNetwork 1\n")
    with pytest.raises(AvneError, match=r"0 % \(Starting\)"):
        home.connect(str(extra), no_progress=3.0)
    assert (0, "starting", "Starting") in home.progress
    assert (home.tor / "data" / "lock").exists()
    (home.tor / "pids").touch()  # the fixture waits for the keeper's end
