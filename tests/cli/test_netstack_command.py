# SPDX-License-Identifier: GPL-3.0-or-later
"""``avne netstack``: the network processes of everybody's environments, as another user than any of them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from avne.cli import netstack
from avne.cli.netstack import Hired, Service
from avne.errors import AvneError
from tests.bed import people, places

ROOT = Path(__file__).parents[2]
MODULE = "avne.netstack.process"


@contextlib.contextmanager
def serving(command):
    """The socket of a service that root has started, and its pid."""
    with tempfile.TemporaryDirectory(dir="/run", prefix="avne-netstack-") as directory:
        os.chmod(directory, 0o755)
        path = f"{directory}/socket"
        environ = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
        with subprocess.Popen([*command, "netstack", "--listen", path], env=environ) as process:
            _until(lambda: os.path.exists(path) and not netstack._is_dead(path))
            try:
                yield path, process.pid
            finally:
                process.kill()


def _until(condition):
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until, "it does not happen"
        time.sleep(0.01)  # other processes tell nobody


def _netstacks(service):
    """The pids of its processes that serve somebody: the one that tried the socket is let go."""
    pids = Path(f"/proc/{service}/task/{service}/children").read_text().split()
    return [int(pid) for pid in pids if MODULE in Path(f"/proc/{pid}/cmdline").read_text()]


@pytest.fixture
def service():
    with serving([sys.executable, "-m", "avne"]) as found:
        yield found


@pytest.mark.e2e
def test_two_users_environments_apart(installed, user, bed):
    """A run of an ordinary user's and one of root's: both work, by two processes of a third user's."""
    script = f"wget -qO- http://{places.V4}/ && echo fetched && read go"
    with serving([str(installed.avne)]) as (path, service):
        words = [str(installed.avne), "run", "--netstack", path, "--upstream", bed.socks, "sh", "-c", script]
        with contextlib.ExitStack() as stack:
            for person in (user, people.ROOT):
                settings = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
                process = stack.enter_context(people.start_as(person, words, **settings))
                stack.callback(process.kill)
                assert "fetched\n" in iter(process.stdout.readline, ""), person.name
            _until(lambda: len(_netstacks(service)) == 2)
            pids = _netstacks(service)
            uids = {os.stat(f"/proc/{service}").st_uid}
            for pid in pids:
                status = dict(
                    line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines()
                    if ":\t" in line
                )  # fmt: skip
                uids.add(int(status["Uid"].split()[0]))
                assert status["Seccomp"] == "2"
                assert _outcome(user, pid) == {"trace": 1, "mem": 13, "fd": 13, "signal": 1}
            assert not uids & {0, user.uid}
            assert len(uids) == 1
        _until(lambda: not _netstacks(service))


def _outcome(person, pid):
    """The errno of each thing that the caller may try on its own network process."""
    code = f"""
import ctypes, json, os
libc = ctypes.CDLL(None, use_errno=True)
def errno(call):
    try: call()
    except OSError as error: return error.errno
    return 0
def trace():
    if libc.ptrace(16, {pid}, None, None): raise OSError(ctypes.get_errno(), "")
print(json.dumps(dict(trace=errno(trace), mem=errno(lambda: open("/proc/{pid}/mem")),
    fd=errno(lambda: os.listdir("/proc/{pid}/fd")), signal=errno(lambda: os.kill({pid}, 0)))))
"""
    import json

    return json.loads(people.run_as(person, ["/usr/bin/python3", "-c", code]).stdout)


def test_the_end_of_the_service_ends_the_environments(service, environ):
    path, pid = service
    words = [sys.executable, "-m", "avne", "run", "--netstack", path, "sh", "-c", "echo up; exec sleep 60"]
    with subprocess.Popen(
        words, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout.readline() == "up\n"
        os.kill(pid, signal.SIGKILL)
        assert process.wait(20) == 125
        assert f"no avne netstack answers at {path}" in process.stderr.read()


def test_nobody_there_is_told(tmp_path):
    with pytest.raises(AvneError, match="no avne netstack answers at") as error:
        Hired(str(tmp_path / "none"))
    assert "systemctl start avne-netstack" in error.value.cure


def test_a_socket_that_is_served_is_not_taken_away(service):
    path, _ = service
    with pytest.raises(AvneError, match="Address already in use"):
        netstack._listen(path)


def test_a_dead_one_is_replaced(tmp_path):
    path = str(tmp_path / "s")
    with netstack._listen(path):
        assert not netstack._is_dead(path)
    assert netstack._is_dead(path)
    with netstack._listen(path):
        assert os.stat(path).st_mode & 0o777 == 0o666
    with pytest.raises(AvneError, match="too long"):
        netstack._listen("/x" * 60)
    with pytest.raises(AvneError, match="cannot listen"):
        netstack._listen(str(tmp_path / "missing" / "s"))


def test_one_user_cannot_take_all(tmp_path, monkeypatch):
    monkeypatch.setattr(netstack, "PER_USER", 2)
    started = []
    monkeypatch.setattr(netstack, "spawn", lambda *_, **__: started.append(_sleeper()) or started[-1])
    with netstack._listen(str(tmp_path / "s")) as listener:
        service = Service(listener)
        lines = []
        for _ in range(3):
            line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            line.connect(str(tmp_path / "s"))
            lines.append(line)
            service._accept()
        assert len(started) == 2
        lines[2].settimeout(5)
        assert lines[2].recv(1) == b"", "it is told by the end of its line"
        os.kill(started[0], signal.SIGKILL)
        (fd,) = (fd for fd, (pid, _) in service._running.items() if pid == started[0])
        service._bury(fd)
        assert service._by_user == {os.getuid(): 1}
        for line in lines:
            line.close()
        os.kill(started[1], signal.SIGKILL)
        service._bury(next(iter(service._running)))
        assert not service._by_user
        service._poll.close()


def _sleeper():
    return os.posix_spawn("/bin/sleep", ["sleep", "60"], os.environ)


def test_the_unit_names_what_there_is():
    unit = (ROOT / "contrib" / "avne-netstack.service").read_text()
    assert "User=avne" in unit
    assert "netstack --listen /run/avne-netstack/socket" in unit
    assert (ROOT / "contrib" / "avne-sysusers.conf").read_text().splitlines()[-1].startswith("u avne ")
