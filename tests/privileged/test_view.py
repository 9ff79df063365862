# SPDX-License-Identifier: GPL-3.0-or-later
"""The places that the program has for itself: /tmp, /dev, what is masked, and the terminal it is at."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import socket

import pytest

from avne.privileged import launch
from tests.privileged import stage

BOOT_ID = "/proc/sys/kernel/random/boot_id"
CONNECT = "import socket, sys; print([socket.socket(socket.AF_UNIX).connect_ex(p) for p in sys.argv[1:]])"


def _sh(helper, mode, script, before=None, **settings):
    return stage.inside(helper, mode, ["sh", "-c", script], before, **settings)


@contextlib.contextmanager
def listening(*paths):
    """Sockets that anybody may connect to."""
    with contextlib.ExitStack() as stack:
        for path in paths:
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(str(path))
            stack.callback(os.unlink, path)
            os.chmod(path, 0o777)
            server.listen()
        yield


def test_tmp_is_the_program_s_own(helper, mode):
    name = f"avne-test-{os.getpid()}"
    script = f"""
        ls -A /tmp /var/tmp
        for d in /tmp /var/tmp; do stat -c %a $d; echo x > $d/{name}; done; cat /tmp/{name}
    """
    done = _sh(helper, mode, script)
    assert done.out.split() == ["/tmp:", "/var/tmp:", "1777", "1777", "x"]
    assert not any(os.path.exists(f"{top}/{name}") for top in ("/tmp", "/var/tmp"))


def test_sockets_in_tmp_are_out_of_reach(helper, mode):
    """By their names, and by relative ones from a directory that is covered."""
    names = [f"/tmp/avne-test-{os.getpid()}", f"/var/tmp/avne-test-{os.getpid()}"]
    argv = [stage.PYTHON, "-I", "-S", "-c", CONNECT, *names, os.path.basename(names[0])]
    with listening(*names):
        assert stage.outside(argv, mode, lambda: os.chdir("/tmp")).out == "[0, 0, 0]\n", "the control"
        assert stage.inside(helper, mode, argv, lambda: os.chdir("/tmp")).out == "[2, 2, 2]\n"


def test_dev_has_what_is_good_for_itself_only(helper, mode):
    script = """
        ls -A /dev; echo; ls -A /dev/pts; ls -A /dev/shm; echo
        head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c; head -c 3 /dev/random | wc -c
        echo x > /dev/null; wc -c < /dev/null; echo x > /dev/full; echo x > /dev/shm/x; cat /dev/shm/x
        echo stdin | cat /dev/stdin; echo fd >> /dev/fd/1; echo err >> /dev/stderr
    """
    done = _sh(helper, mode, script)
    dev, others, rest = done.out.split("\n\n")
    links = {"fd", "stdin", "stdout", "stderr", "ptmx"}
    assert set(dev.split()) == links | {"null", "zero", "full", "random", "urandom", "tty", "pts", "shm"}
    assert others.split() == ["ptmx"]
    assert rest.split() == ["3", "3", "3", "0", "x", "stdin", "fd"]
    assert "echo: I/O error" in done.err, "ENOSPC of /dev/full"
    assert done.err.endswith("err\n")
    assert set(os.listdir("/dev")) - set(dev.split()), "the control: the host has more"


def test_a_device_of_the_host_cannot_be_made(helper, mode):
    done = _sh(helper, mode, "mknod /dev/x c 1 3 || mknod /tmp/x c 1 3 || echo no")
    assert done.out == "no\n"


PTY = """
import json, os, pty
ours, theirs = pty.openpty()
os.write(ours, b"a\\n")
print(json.dumps([os.ttyname(theirs), os.read(theirs, 10).decode()]))
"""


def test_new_terminals_can_be_made(helper, mode):
    done = stage.inside(helper, mode, [stage.PYTHON, "-I", "-S", "-c", PTY])
    assert json.loads(done.out) == ["/dev/pts/0", "a\n"]


def test_the_caller_s_terminal_has_a_name_and_no_neighbours(helper, mode):
    """tty(1), ps(1) and programs that open the terminal again: less, ssh, tmux."""
    script = "tty; stty size < $(tty); echo to the tty > /dev/tty; ls /dev/pts; test -t 0 && echo terminal"

    def work():
        path = stage.prepare(helper, mode, lambda: os.fchown(theirs, mode.uid, mode.gid))
        os.setsid()
        os.close(os.open(os.ttyname(theirs), os.O_RDWR))  # now the controlling terminal
        for fd in range(3):
            os.dup2(theirs, fd)
        events = stage.run_program(path, ["sh", "-c", script])
        return [events[-2], os.read(ours, 10000).decode()]

    ours, theirs = pty.openpty()
    event, out = stage.apart(work)
    assert event == ["Exited", 0]
    assert out.split("\r\n") == ["/dev/console", "0 0", "to the tty", "ptmx", "terminal", ""]


def test_keys_and_moments_of_the_host_are_masked(helper, mode):
    script = f"cat /proc/keys /proc/key-users /proc/timer_list /proc/kcore | wc -c; cat {BOOT_ID}"
    assert _sh(helper, mode, script).out.split() == ["0", "00000000-0000-4000-8000-000000000001"]
    control = stage.outside(["sh", "-c", script], mode).out.split()
    assert control[0] != "0"
    assert control[1] != "00000000-0000-4000-8000-000000000001"


def _machine():
    """A machine that has dbus and sssd."""
    for name in ("/var/lib/dbus", "/var/lib/sss"):
        os.makedirs(name, exist_ok=True)
        stage.mount("tmpfs", name, "tmpfs", 0, "mode=0755")
    with open("/var/lib/dbus/machine-id", "w") as file:
        file.write("0123456789abcdef0123456789abcdef\n")
    os.makedirs("/var/lib/sss/pipes")


@pytest.fixture
def lib(request):
    """Where the machine lacks them the two directories are made, and removed."""
    missing = [name for name in ("/var/lib/dbus", "/var/lib/sss") if not os.path.exists(name)]
    yield
    for name in missing:
        with contextlib.suppress(OSError):
            os.rmdir(name)


def test_the_other_machine_id_and_sssd_are_masked(helper, mode, lib):
    argv = ["sh", "-c", "cat /var/lib/dbus/machine-id; ls /var/lib/sss"]
    assert stage.outside(argv, mode, arrange=_machine).out == "0123456789abcdef0123456789abcdef\npipes\n"
    done = stage.inside(helper, mode, argv, arrange=_machine)
    assert done.out == "00000000000000000000000000000001\n"


def test_firmware_and_serial_numbers_are_masked(helper, mode):
    assert os.path.isdir("/sys/firmware")
    done = _sh(helper, mode, "ls -A /sys/firmware; ls -A /sys/class/dmi /sys/devices/virtual/dmi; echo ok")
    assert [line for line in done.out.splitlines() if not line.endswith(":")] in (["ok"], ["", "ok"])


def test_the_masks_cannot_be_taken_off(helper, mode):
    """Not in a user namespace of the program's own either, where it has every capability."""
    umount = f"for p in {BOOT_ID} /proc/keys /tmp /dev /etc; do umount -l $p; done"
    done = _sh(helper, mode, f"unshare -Um sh -c '{umount}'; cat {BOOT_ID}")
    assert done.out == "00000000-0000-4000-8000-000000000001\n"
    assert done.err.count("umount:") == 5


def _session_keyrings():
    with open("/proc/keys") as file:
        return sum(" _ses" in line and line.split()[5] == "0" for line in file)


def test_the_session_keyring_is_a_new_one(helper):
    """The calls are refused inside, so that it is seen from outside, where its owner may look."""

    def work():
        counts = [_session_keyrings()]
        path = stage.prepare(helper, stage.ROOT)
        stage.run_program(path, ["true"], meanwhile=lambda _: counts.append(_session_keyrings()))
        return counts

    before, during = stage.apart(work)
    assert during == before + 1


def test_what_is_in_no_request_is_refused(helper, mode):
    """Numbers that do not fit the descriptors, and flags that nobody knows."""

    def work():
        path = stage.prepare(helper, mode)
        failures = []
        for fields, count in (
            ({"argc": 1}, 0), ({"argc": 1}, 2), ({"envc": 1}, 0), ({}, 1), ({"value": 8}, 0),
            ({"value": launch.KEPT_HOME}, 2), ({"value": launch.OWN_HOME}, 0), ({"argc": 65}, 65),
            ({"argc": 0xFFFFFFFF, "envc": 1}, 0), ({"envc": 251}, 251),
        ):  # fmt: skip
            line = stage.Line(path)
            line.send(launch.REQUEST, fds=[null] * count, **fields)
            failures.append(line.receive())
            line.close()
        return failures

    null = os.open("/dev/null", os.O_PATH)
    try:
        failures = stage.apart(work)
    finally:
        os.close(null)
    assert {tuple(failure[:2]) for failure in failures} == {(launch.FAILED, "REQUEST")}


def test_only_real_devices_are_bound(helper, mode):
    done = _sh(helper, mode, "for d in null zero full random urandom tty; do stat -Lc '%t:%T' /dev/$d; done")
    want = [os.stat(f"/dev/{name}").st_rdev for name in ("null", "zero", "full", "random", "urandom", "tty")]
    assert done.out.split() == [f"{os.major(dev):x}:{os.minor(dev):x}" for dev in want]
