# SPDX-License-Identifier: GPL-3.0-or-later
"""Doors of the kernel that know no network namespace."""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import time

from avne.probes import calls
from avne.probes.probe import Absent, Finding, Plan, leaked, register, seen, stopped

probe = register("kernel")

_AF_VSOCK, _AF_ALG, _AF_BLUETOOTH, _AF_XDP = 40, 38, 31, 44
_NETLINK_KOBJECT_UEVENT = 15
_EAFNOSUPPORT, _ENOSYS, _ENOKEY = 97, 38, 126
_IPC_EXISTING = 0


def _family(plan: Plan, number: int, protocol: str) -> Finding:
    """A family whose module is not loaded is not tried: asking for it would load the module."""
    if protocol not in plan["protocols"]:
        raise Absent(f"no {protocol} in this kernel")
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET, socket.SOCK_RAW):
        try:
            calls.call("socket", number, kind, 0)
            return leaked("a socket was made")
        except OSError as error:
            if error.errno == _EAFNOSUPPORT:
                return stopped(error)
            if error.errno == 1:
                return leaked("refused only for want of a capability")
    return leaked("the family answers")


@probe("L30", "a vsock, which reaches the machine that hosts this one")
def af_vsock(plan: Plan) -> Finding:
    return _family(plan, _AF_VSOCK, "AF_VSOCK")


@probe("L34", "the kernel's cryptography by socket (AF_ALG)")
def af_alg(plan: Plan) -> Finding:
    return _family(plan, _AF_ALG, "ALG")


@probe("L34", "Bluetooth")
def af_bluetooth(plan: Plan) -> Finding:
    return _family(plan, _AF_BLUETOOTH, "HCI")


@probe("L34", "AF_XDP")
def af_xdp(plan: Plan) -> Finding:
    return _family(plan, _AF_XDP, "XDP")


@probe("L30", "a vsock by the upper bits of the family, which the kernel ignores")
def af_high_bits(plan: Plan) -> Finding:
    return _family(plan, 1 << 32 | _AF_VSOCK, "AF_VSOCK")


@probe("L31", "an io_uring, which makes sockets past any filter")
def io_uring(plan: Plan) -> Finding:
    params = ctypes.create_string_buffer(120)
    os.close(calls.syscall(calls.IO_URING_SETUP, 2, params))
    return leaked("was made")


@probe("L32", "a vsock by the 32-bit system call")
def socket_32(plan: Plan) -> Finding:
    if calls.MACHINE != "x86_64":
        raise Absent("no 32-bit gate on this machine")
    if "AF_VSOCK" not in plan["protocols"]:
        raise Absent("no AF_VSOCK in this kernel")
    return _gate(calls.int80(359, _AF_VSOCK, socket.SOCK_STREAM, 0))


@probe("L32", "socketcall, whose arguments no filter sees")
def socketcall_32(plan: Plan) -> Finding:
    """Without arguments: EFAULT says that it was looked at."""
    if calls.MACHINE != "x86_64":
        raise Absent("no 32-bit gate on this machine")
    return _gate(calls.int80(102, 1, 0, 0))


@probe("L32", "an io_uring by the 32-bit system call")
def io_uring_32(plan: Plan) -> Finding:
    """Without parameters: EFAULT says that it was looked at."""
    if calls.MACHINE != "x86_64":
        raise Absent("no 32-bit gate on this machine")
    return _gate(calls.int80(calls.IO_URING_SETUP, 2, 0))


def _gate(result: int) -> Finding:
    if result in (-_ENOSYS, -_EAFNOSUPPORT):
        return stopped(-result)
    return leaked("the kernel answered")


@probe("L33", "have the kernel ask for a key, which root outside would do")
def request_key(plan: Plan) -> Finding:
    """Of a type and name that nobody has, and without a call-out: ENOKEY says that it was looked for."""
    return _key("request_key", b"user", plan.token.encode(), None, 0)


@probe("L33", "add a key to the kernel's key rings")
def add_key(plan: Plan) -> Finding:
    return _key("add_key", b"user", plan.token.encode(), b"x", 1, -2)  # of this process only


@probe("L33", "read a key of the session outside")
def session_key(plan: Plan) -> Finding:
    number = calls.call("keyctl", 10, plan["key"]["ring"], b"user", plan["key"]["name"].encode(), 0)
    return seen(number > 0, "was found")


def _key(name: str, *arguments: int | bytes | None) -> Finding:
    try:
        calls.call(name, *arguments)
    except OSError as error:
        if error.errno != _ENOKEY:
            return stopped(error)
    return leaked("the kernel answered")


@probe("L35", "hear of the host's devices (netlink uevents)")
def uevents(plan: Plan) -> Finding:
    plan["uevents"]
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_KOBJECT_UEVENT) as sock:
        sock.bind((0, 1))
        ready, _, _ = select.select([sock], [], [], 0.5)
        return seen(bool(ready), "an event of the host", "silent")


@probe("L36", "System V shared memory of the host")
def sysv_shm(plan: Plan) -> Finding:
    number = calls.checked(calls.libc.shmget(plan["ipc"]["key"], 0, _IPC_EXISTING))
    calls.libc.shmat.restype = ctypes.c_void_p
    address = calls.libc.shmat(number, None, 0o10000)
    text = ctypes.string_at(address, len(plan["ipc"]["secret"])).decode(errors="replace")
    return seen(text == plan["ipc"]["secret"], "was read")


@probe("L36", "a System V semaphore of the host")
def sysv_sem(plan: Plan) -> Finding:
    calls.checked(calls.libc.semget(plan["ipc"]["key"], 0, _IPC_EXISTING))
    return leaked("was found")


@probe("L36", "a System V message queue of the host")
def sysv_msg(plan: Plan) -> Finding:
    calls.checked(calls.libc.msgget(plan["ipc"]["key"], _IPC_EXISTING))
    return leaked("was found")


@probe("L36", "a POSIX message queue of the host")
def posix_mq(plan: Plan) -> Finding:
    calls.checked(calls.libc.mq_open(plan["ipc"]["queue"].encode(), os.O_RDONLY | os.O_NONBLOCK))
    return leaked("was found")


@probe("L39", "write a core dump, which a pipe of the host would send away")
def core_dump(plan: Plan) -> Finding:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    del soft
    return seen(hard < 0 or hard > 1, "the limit may be raised", "limit")


@probe("L40", "a setuid program")
def setuid_program(plan: Plan) -> Finding:
    """ld.so shows its auxiliary vector (LD_SHOW_AUXV) unless the program has gained something."""
    import subprocess

    done = subprocess.run(
        [plan["setuid"], "--version"],
        env={"LD_SHOW_AUXV": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    return seen(b"AT_SECURE" not in done.stdout, "ran with more rights", "ran without them")


@probe("L40", "gain rights by an exec (no_new_privs)")
def no_new_privs(plan: Plan) -> Finding:
    return seen(calls.libc.prctl(39, 0, 0, 0, 0) == 0, "no_new_privs is not set", "set")


@probe("L40", "gain capabilities (bounding set)")
def bounding_set(plan: Plan) -> Finding:
    held = [number for number in range(64) if calls.libc.prctl(23, number, 0, 0, 0) == 1]
    return seen(bool(held), f"{len(held)} capabilities", "empty")


@probe("L40", "use root's capabilities", root=True)
def capabilities(plan: Plan) -> Finding:
    with open("/proc/self/status") as file:
        effective = next(line.split()[1] for line in file if line.startswith("CapEff"))
    return seen(int(effective, 16) != 0, effective, "none")


@probe("L40", "make a device node", root=True)
def mknod(plan: Plan) -> Finding:
    path = f"{plan['directories']['home']}/{plan.token}"
    os.mknod(path, 0o20600, os.makedev(1, 3))
    os.unlink(path)
    return leaked("was made")


@probe("L40", "change interfaces and routes (rtnetlink)", root=True)
def rtnetlink(plan: Plan) -> Finding:
    """RTM_SETLINK of lo to what it is: up."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.settimeout(1)
        link = struct.pack("=BxHiII", 0, 0, 1, 1, 1)
        sock.send(struct.pack("=IHHII", 16 + len(link), 19, 5, int(time.time()), 0) + link)
        error = -struct.unpack_from("=i", sock.recv(4096), 16)[0]
    return stopped(error) if error else leaked("was changed")
