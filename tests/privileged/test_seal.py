# SPDX-License-Identifier: GPL-3.0-or-later
"""What the program in an environment sees of the host and can do to it: in each mode, nothing."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import socket
import struct

import pytest

from avne.limits import TUN_MTU, TUN_QUEUE
from avne.privileged import launch
from tests.privileged import stage


def _sh(helper, mode, script, before=None, **settings):
    return stage.inside(helper, mode, ["sh", "-c", script], before, **settings)


def _python(helper, mode, code, before=None):
    done = stage.inside(helper, mode, [stage.PYTHON, "-I", "-S", "-c", code], before)
    assert done.err == ""
    return json.loads(done.out)


def test_no_privilege_remains(helper, mode):
    done = _sh(helper, mode, "cat /proc/self/status /proc/1/status")
    rows = [
        line.split(":\t") for line in done.out.splitlines() if line.startswith(("Cap", "NoNew", "Seccomp:"))
    ]
    assert len(rows) == 2 * 7, "of the program and of init"
    expected = {"NoNewPrivs": "1", "Seccomp": "2"}
    for name, value in rows[:7]:
        assert value == expected.get(name, "0" * 16), name
    if mode is stage.ROOTLESS:  # CAP_NET_RAW for `attach --raw`: held, and not in force
        expected.update(CapInh=f"{1 << 13:016x}", CapPrm=f"{1 << 13:016x}")
    for name, value in rows[7:]:
        assert value == expected.get(name, "0" * 16), f"init's {name}"


REGAIN = """
import ctypes, json, os
libc = ctypes.CDLL(None, use_errno=True)
def errno(result): return ctypes.get_errno() if result < 0 else 0
tries = {
    "user": errno(libc.setresuid(-1, 0, -1)) if os.getuid() else 1,
    "mount": errno(libc.mount(b"none", b"/proc", b"proc", 0, None)),
    "umount": errno(libc.umount2(b"/run", 2)),
    "unshare": errno(libc.unshare(0x40000000)),
    "hostname": errno(libc.sethostname(b"x", 1)),
    "init": errno(libc.ptrace(16, 1, None, None)),
}
for name in ("/proc/1/fd/3", "/proc/1/root", "/proc/1/ns/net"):
    try: os.readlink(name); tries[name] = 0
    except OSError as error: tries[name] = error.errno
print(json.dumps(tries))
"""


def test_no_privilege_can_be_regained(helper, mode):
    tries = _python(helper, mode, REGAIN)
    assert tries.pop("user") in (1, 22), "EPERM; EINVAL where uid 0 is not mapped"
    assert {tries.pop(name) for name in [*tries] if name.startswith("/")} == {13}
    assert set(tries.values()) == {1}, tries


def test_a_setuid_program_gives_nothing_inside(helper, mode):
    def work(run):
        path = stage.prepare(helper, mode)
        return stage.captured(lambda: run(path))

    def inside(path):
        return stage.run_program(path, [str(helper.parent / "id"), "-u"])

    def outside(_):
        pid = os.posix_spawn(str(helper.parent / "id"), ["id", "-u"], {})
        return [["Exited", os.waitpid(pid, 0)[1]]]

    shutil.copy("/usr/bin/id", helper.parent / "id")
    os.chmod(helper.parent / "id", 0o4755)
    assert stage.Outcome(*stage.apart(lambda: work(outside))).out == "0\n", "the control"
    assert stage.Outcome(*stage.apart(lambda: work(inside))).out == f"{mode.uid}\n"


def test_only_the_three_descriptors_are_there(helper, mode):
    """A socket of the caller would keep the network it was made in."""

    def before():
        connection = socket.create_connection(server.getsockname())
        for number in (10, 63, 512):
            os.dup2(connection.fileno(), number, inheritable=True)

    with socket.create_server(("127.0.0.1", 0)) as server:
        done = _sh(helper, mode, "ls /proc/$$/fd", before)
    assert done.out.split() == ["0", "1", "2"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: socket.socketpair()[1].detach(),
        lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach(),
        lambda: socket.create_server(("127.0.0.1", 0)).detach(),
        lambda: os.open("/run", os.O_RDONLY | os.O_DIRECTORY),
        lambda: os.open("/run", os.O_PATH),
        lambda: os.eventfd(0),
        lambda: os.pidfd_open(os.getpid()),
    ],
    ids=["local-socket", "network-socket", "listener", "directory", "path", "anonymous", "process"],
)
def test_what_is_no_stream_as_standard_input_is_refused(helper, mode, make):
    """An io_uring ring, for one, makes sockets where it was made itself."""

    def work():
        path = stage.prepare(helper, mode)
        os.dup2(make(), 0)
        return stage.run_program(path, ["true"])

    assert stage.apart(work) == [["Failed", "STDIO", 22]]


def test_there_is_lo_and_the_tun_and_nothing_else(helper, mode):
    script = """
        sed -n 's/^ *\\([a-z0-9]*\\):.*/\\1/p' /proc/1/net/dev; echo; ls /sys/class/net; echo
        cat /sys/class/net/tun0/mtu /sys/class/net/tun0/tx_queue_len; echo
        sort /proc/net/if_inet6 | cut -c 1-32,42-; cat /proc/net/fib_trie | grep -c 10.213.0.2
        cat /proc/sys/net/ipv4/ip_local_port_range /proc/sys/net/ipv4/ping_group_range
        cat /proc/sys/net/ipv4/ip_unprivileged_port_start
    """
    links, sysfs, sizes, rest = _sh(helper, mode, script).out.split("\n\n")
    assert links.split() == sysfs.split() == ["lo", "tun0"]
    assert list(map(int, sizes.split())) == [TUN_MTU, TUN_QUEUE]
    assert [line.split()[0] for line in rest.splitlines()[:2]] == [
        "00000000000000000000000000000001",
        "fd61766e650000000000000000000002",
    ]
    assert rest.split()[-5:] == ["1024", "65535", str(mode.gid), str(mode.gid), "0"]


def test_the_network_is_as_verify_wants_it(helper, installed):
    """By pyroute2, from inside: links, addresses, routes and their metrics."""
    done = stage.inside(helper, stage.ROOT, [installed.python, "-I", "-m", "avne.privileged.verify"])
    assert (done.out, done.err, done.status) == ("the environment's network is as it should be\n", "", 0)


def test_verify_finds_a_wrong_network():
    """The host's, with this test's own eyes: verify can fail."""
    from avne.privileged import verify

    def work():
        stage.unshare(0x40000000)
        return verify.problems()

    found = stage.apart(work)
    assert found[0] == "the links are ['lo'], not ['lo', 'tun0']"
    assert len(found) == 3


def test_nothing_of_the_host_s_names_is_seen(helper, mode):
    done = _sh(helper, mode, "hostname; cat /etc/hostname /etc/machine-id /etc/hosts; domainname")
    assert done.out.splitlines() == [
        "localhost",
        "localhost",
        "00000000000000000000000000000001",
        "127.0.0.1 localhost",
        "::1 localhost ip6-localhost ip6-loopback",
        "(none)",
    ]


def test_the_resolver_is_ours_and_asks_no_daemon(helper, mode):
    done = _sh(
        helper, mode, "grep ^nameserver /etc/resolv.conf; sed 's/^[a-z]*: *//' /etc/nsswitch.conf | sort -u"
    )
    assert done.out.splitlines() == [
        "nameserver 10.213.0.1", "nameserver fd61:766e:6500::1", "files", "files dns",
    ]  # fmt: skip


def test_etc_is_read_only_and_keeps_its_secrets(helper, mode):
    done = _sh(
        helper,
        mode,
        "echo x > /etc/resolv.conf; echo x > /etc/avne-x; cat /etc/shadow | wc -l; wc -l < /etc/passwd",
    )
    assert done.err.count("Read-only file system") == 2
    shadow, passwd = map(int, done.out.split())
    assert passwd > 1
    assert (shadow > 0) is (mode is stage.ROOT)


def test_a_rename_on_the_host_does_not_uncover_its_resolver(helper, mode):
    """As NetworkManager and resolvconf(8) do it.  A bind mount over the file would be lost by it."""

    done = stage.apart(lambda: _renamed(helper, mode))
    assert done == ["nameserver 10.213.0.1", "nameserver fd61:766e:6500::1"]


def _renamed(helper, mode):
    stage.private_mounts()
    etc = helper.parent / "etc"
    etc.mkdir(exist_ok=True)
    stage.mount("tmpfs", etc, "tmpfs", 0, "mode=0777")
    for name in ("passwd", "group", "resolv.conf", "new"):
        (etc / name).write_text("nameserver 192.0.2.1\n")
    stage.mount(str(etc), "/etc", "", stage.MS_BIND)
    stage.private_tun(mode.tun)
    path = stage.setuid_copy(helper) if mode is stage.SETUID else helper
    stage.become(mode)

    def rename(environment):
        os.rename(etc / "new", etc / "resolv.conf")
        os.write(word, b"go\n")

    done, word = os.pipe()
    output = os.memfd_create("out")
    os.dup2(done, 0)
    os.dup2(output, 1)
    stage.run_program(path, ["sh", "-c", "read word; cat /etc/resolv.conf"], meanwhile=rename)
    return [line for line in os.pread(output, 4096, 0).decode().splitlines() if line.startswith("nameserver")]


def test_run_and_shm_are_new_and_proc_shows_the_environment_only(helper, mode):
    done = _sh(
        helper, mode, "ls -A /run /var/run/ /dev/shm; ls -d /proc/[0-9]* | wc -l; cat /proc/1/comm; echo $$"
    )
    *empty, count, name, pid = done.out.splitlines()
    assert [line for line in empty if line and not line.endswith(":")] == []
    assert int(count) <= 4
    assert (name, pid) == ("avne-helper", "2")


def test_the_host_s_sockets_in_run_are_out_of_reach(helper, mode):
    with socket.socket(socket.AF_UNIX) as server, contextlib.ExitStack() as stack:
        path = f"/run/avne-test-{os.getpid()}.sock"
        server.bind(path)
        stack.callback(os.unlink, path)
        os.chmod(path, 0o777)
        server.listen()
        code = f"import socket; s = socket.socket(socket.AF_UNIX); print(s.connect_ex({path!r}))"
        assert stage.outside([stage.PYTHON, "-c", code], mode).out == "0\n", "the control: it can be reached"
        assert _python(helper, mode, code) == 2


FILTER = """
import ctypes, json, socket
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(*arguments):
    ctypes.set_errno(0)
    return ctypes.get_errno() if libc.syscall(*map(ctypes.c_ulong, arguments)) < 0 else 0
X = {"x86_64": (16, 41, 53, 248), "aarch64": (29, 198, 199, 217)}[__import__("os").uname().machine]
ioctl, sock, pair, keys = X
print(json.dumps({
    "families": [f for f in range(50) if call(sock, f, socket.SOCK_DGRAM, 0) != 97],
    "high": call(sock, 1 << 32 | 40, 1, 0),
    "pair": [call(pair, 1, 1, 0, 0), call(pair, 30, 5, 0, 0)],
    "io_uring": [call(n, 0, 0, 0) for n in (425, 426, 427)],
    "keys": [call(keys + n, 0, 0, 0) for n in range(3)],
    "terminal": [call(ioctl, 99, n, 0) for n in (0x5412, 1 << 32 | 0x5412, 0x541C, 0x5401)],
}))
"""


def test_calls_that_lead_around_the_environment_are_refused(helper, mode):
    got = _python(helper, mode, FILTER)
    families = [socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET]
    assert set(got["families"]) == set(families)
    assert got["high"] == 97, "EAFNOSUPPORT, by the low 32 bits"
    assert got["pair"] == [14, 97], "EFAULT for the local one: it passes"
    assert set(got["io_uring"] + got["keys"]) == {38}
    assert got["terminal"] == [1, 1, 1, 9], "EPERM; EBADF where the filter has nothing against it"


def test_the_filter_is_what_refuses(helper):
    """The control: without avne the same calls have other results."""
    done = stage.outside([stage.PYTHON, "-I", "-S", "-c", FILTER], stage.ROOTLESS)
    got = json.loads(done.out)
    assert 38 not in got["keys"]
    assert got["terminal"] == [9, 9, 9, 9]


INT80 = """
import ctypes, json, mmap
def call(number, *arguments):
    code = b"\\x53" + b"\\xb8" + number.to_bytes(4, "little")
    for register, value in zip((b"\\xbb", b"\\xb9", b"\\xba"), arguments):
        code += register + value.to_bytes(4, "little")
    page = mmap.mmap(-1, 4096, prot=7)
    page.write(code + b"\\xcd\\x80\\x5b\\xc3")
    return ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
calls = (102, 1, 0, 0), (359, 40, 1, 0), (425, 0, 0, 0), (288, 0, 0, 0), (54, 99, 0x5412, 0)
print(json.dumps([call(*words) for words in calls]))
"""


@pytest.mark.parametrize("machine", [os.uname().machine])
def test_a_32_bit_program_is_filtered_by_its_own_numbers(helper, machine):
    """By the 32-bit gate of a 64-bit process, where the machine and its kernel have one."""
    argv = [stage.PYTHON, "-I", "-S", "-c", INT80]
    control = stage.outside(argv, stage.ROOTLESS) if machine == "x86_64" else None
    if control is not None and control.status == 0:
        assert json.loads(control.out)[0] == -14, "EFAULT: socketcall works outside"
        assert _python(helper, stage.ROOTLESS, INT80) == [-38, -97, -38, -38, -1]


def test_the_tun_is_silent_until_the_program_speaks(helper):
    """No router solicitation, no neighbour discovery, no multicast report in 2 s."""
    code = "import socket; socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto(b'x', ('2001:db8::1', 9))"

    def work():
        environment = launch.Environment(str(helper))
        event = environment.receive()
        tun = event.fd
        poll = select.poll()
        poll.register(tun, 1)
        before = poll.poll(2000)
        environment.go([stage.PYTHON, "-I", "-S", "-c", code], stage.ENVIRONMENT, 0, 0)
        assert poll.poll(5000), "the control"
        packet = os.read(tun, 70000)
        environment.close()
        os.close(tun)
        return [len(before), packet.hex()]

    silent, packet = stage.apart(work)
    assert silent == 0
    data = bytes.fromhex(packet)
    flags, kind, *_ = struct.unpack("<BBHHHH", data[:10])
    assert (flags, kind, data[10] >> 4) == (1, 0, 6)
    assert data[18:34] == bytes.fromhex("fd61766e650000000000000000000002")
    assert data[34:50] == bytes.fromhex("20010db8000000000000000000000001")


def test_the_kernel_of_the_host_is_not_root_s_to_set_inside(helper):
    """Without a capability uid 0 could still write /proc/sys/kernel/core_pattern, and run outside."""
    done = _sh(helper, stage.ROOT, "echo x > /proc/sys/kernel/core_pattern")
    assert "Read-only file system" in done.err
