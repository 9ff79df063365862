# SPDX-License-Identifier: GPL-3.0-or-later
"""The program is who, where and what it would be without avne, in each mode; only its network is another."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess

import pytest

from tests.bed import places

WHO = """
import json, os, sys
print(json.dumps({
    "uid": os.getresuid(), "gid": os.getresgid(), "groups": sorted(os.getgroups()), "cwd": os.getcwd(),
    "umask": os.umask(0), "stdin": sys.stdin.read(), "session": os.getsid(0) != 0,
}))
sys.stderr.write("to stderr\\n")
sys.exit(7)
"""


def _who(done):
    return json.loads(done.stdout)


def test_identity_cwd_umask_stdio_and_exit_code(any_avne, bed, tmp_path_for):
    there = tmp_path_for(any_avne)
    settings = {"input": "from stdin", "umask": 0o027}
    inside = any_avne.run("python3", "-c", WHO, upstream=bed.socks, cwd=there, **settings)
    outside = subprocess.run(
        any_avne.as_person(["python3", "-c", WHO], cwd=there), capture_output=True, text=True, **settings
    )
    assert inside.returncode == outside.returncode == 7
    assert inside.stderr == outside.stderr == "to stderr\n"
    mine, theirs = _who(inside), _who(outside)
    for key in ("uid", "gid", "cwd", "umask", "stdin"):
        assert mine[key] == theirs[key], key
    assert mine["cwd"] == str(there)
    if any_avne.mode == "rootless":
        # A user namespace that an ordinary user makes maps one group; the others keep their
        # effect, but have no number inside (user_namespaces(7)).
        assert set(mine["groups"]) <= set(theirs["groups"]) | {65534}
    else:
        assert mine["groups"] == theirs["groups"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGUSR1])
def test_death_by_signal_is_death_by_that_signal(any_avne, bed, number):
    done = any_avne.run("sh", "-c", f"kill -{number.value} $$", upstream=bed.socks)
    assert done.returncode == -number


def test_no_capability_and_no_way_back(any_avne, bed):
    done = any_avne.run("grep", "-E", "^(Cap|NoNewPrivs)", "/proc/self/status", upstream=bed.socks)
    rows = dict(line.split(":\t") for line in done.stdout.splitlines())
    assert {rows[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert rows["NoNewPrivs"] == "1"


def test_a_socket_of_the_caller_does_not_get_in(any_avne, bed):
    """An inherited socket would keep the network it was made in."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        os.set_inheritable(client.fileno(), True)
        done = any_avne.run("sh", "-c", "ls /proc/self/fd", upstream=bed.socks, pass_fds=[client.fileno()])
        client.close()
    # 3 is ls's own, for the directory it lists.
    assert done.stdout.split() == ["0", "1", "2", "3"]


def test_a_caller_without_core_dumps_for_good(any_avne, bed):
    """sudo(8) sets the hard limit to 0, and an ordinary user cannot raise it."""
    argv = any_avne.argv(["sh", "-c", "ulimit -Hc"], bed.socks, ())
    done = subprocess.run(
        any_avne.as_person(["prlimit", "--core=0:0", *argv]), capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr, done.returncode) == ("0\n", "", 0)


INSPECT = """
import json
from pyroute2 import IPRoute
with IPRoute() as ip:
    print(json.dumps({
        "links": sorted(link.get_attr("IFLA_IFNAME") for link in ip.get_links()),
        "mtu": [link.get_attr("IFLA_MTU") for link in ip.get_links() if link.get_attr("IFLA_IFNAME") != "lo"],
        "addresses": sorted(a.get_attr("IFA_ADDRESS") for a in ip.get_addr()),
    }))
"""


def test_inside_there_is_lo_and_the_tun_and_nothing_else(any_avne, bed, installed):
    done = any_avne.run(installed.python, "-c", INSPECT, upstream=bed.socks)
    assert done.stderr == ""
    assert json.loads(done.stdout) == {
        "links": ["lo", "tun0"],
        "mtu": [65520],
        "addresses": ["10.213.0.2", "127.0.0.1", "::1", "fd61:766e:6500::2"],
    }


def test_the_host_s_loopback_is_out_of_reach(any_avne, bed):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        port = server.getsockname()[1]
        done = any_avne.run("curl", "-sS", f"http://127.0.0.1:{port}/", upstream=bed.socks)
        assert done.returncode == 7
        with pytest.raises(BlockingIOError):
            server.accept()


def test_the_host_s_name_and_resolver_are_unseen(any_avne, bed):
    done = any_avne.run(
        "sh", "-c", "hostname; cat /etc/resolv.conf /etc/hosts /etc/hostname", upstream=bed.socks
    )
    assert done.stderr == ""
    text = done.stdout
    assert "10.213.0.1" in text
    name = socket.gethostname()
    if name != "localhost":
        assert name not in text.split()
    with open("/etc/resolv.conf") as file:
        for line in file:
            words = line.split()
            if words[:1] == ["nameserver"]:
                assert words[1] not in text.split()


def test_proc_and_sys_are_the_environment_s(any_avne, bed):
    """pid 1's network is world-readable in /proc, and the host's would show its addresses."""
    script = "sed -n 's/^ *\\([a-z0-9]*\\):.*/\\1/p' /proc/1/net/dev; echo; ls /sys/class/net; echo; ls /proc"
    done = any_avne.run("sh", "-c", script, upstream=bed.socks)
    assert done.stderr == ""
    net, sys_net, proc = (part.split() for part in done.stdout.split("\n\n"))
    assert sorted(net) == sorted(sys_net) == ["lo", "tun0"]
    # init, the shell, and the ls of the moment
    assert len([name for name in proc if name.isdigit()]) == 3


def test_environment_variables(any_avne, bed):
    mine = {"MINE": "kept", "EDITOR": "ed", "SSH_CONNECTION": "192.0.2.1 1 192.0.2.2 22"}
    done = any_avne.run("env", upstream=bed.socks, env=mine, options=["--env", "MINE"])
    rows = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert (rows["MINE"], rows["EDITOR"]) == ("kept", "ed")
    assert "SSH_CONNECTION" not in rows
    assert rows["AVNE"] == "1"
    assert len(rows["AVNE_ID"]) == 6


def test_a_whole_fetch_in_each_mode(any_avne, bed):
    done = any_avne.run("wget", "-qO-", "http://www.test.example/", upstream=bed.socks)
    assert (done.stdout, done.stderr, done.returncode) == (places.PAGE, "", 0)


def test_setuid_where_user_namespaces_are_switched_off(without_user_namespaces, bed):
    done = without_user_namespaces("rootless").run("true", upstream=bed.socks)
    assert done.returncode == 125
    assert "user namespaces" in done.stderr.lower()
    assert "avne setup" in done.stderr
    setuid = without_user_namespaces("setuid")
    done = setuid.run(
        "wget", "-qO-", "http://www.test.example/", upstream=bed.socks, env={"AVNE_HELPER": "auto"}
    )
    assert (done.stdout, done.stderr) == (places.PAGE, "")
