# SPDX-License-Identifier: GPL-3.0-or-later
"""Ways out through other processes of the same user.  The victim is the stage's own (victim.py).

A number inside may be another process there: every attempt shows by the victim's secret, or by its
own word, that it was the one outside.
"""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

from avne.probes import calls
from avne.probes.probe import Finding, Plan, register, seen, sent

probe = register("proc and sys")

_PTRACE_PEEKDATA, _PTRACE_SEIZE, _PTRACE_INTERRUPT = 2, 0x4206, 0x4207


@probe("L07", "write on a socket stolen from a process outside (pidfd_getfd)", ear=True)
def steal_socket(plan: Plan) -> Finding:
    victim = plan["victim"]
    pidfd = os.pidfd_open(victim["pid"])
    fd = calls.syscall(calls.PIDFD_GETFD, pidfd, victim["socket"], 0)
    if os.fstat(fd).st_ino != victim["inode"]:
        raise ProcessLookupError(3, "another process of that number")
    os.write(fd, plan.token.encode())
    return sent()


@probe("L07", "read the memory of a process outside (process_vm_readv)")
def read_memory(plan: Plan) -> Finding:
    victim = plan["victim"]
    return _secret(plan, calls.peek(victim["pid"], victim["address"], len(victim["secret"])))


@probe("L07", "trace a process outside (ptrace)")
def trace(plan: Plan) -> Finding:
    victim = plan["victim"]
    calls.call("ptrace", _PTRACE_SEIZE, victim["pid"], None, None)
    calls.call("ptrace", _PTRACE_INTERRUPT, victim["pid"], None, None)
    os.waitpid(victim["pid"], 0)
    word = ctypes.create_string_buffer(8)
    calls.call("ptrace", _PTRACE_PEEKDATA, victim["pid"], victim["address"], word)
    return _secret(plan, word.raw)


@probe("L07", "write into the memory of a process outside (/proc/PID/mem)")
def proc_mem(plan: Plan) -> Finding:
    victim = plan["victim"]
    with open(f"/proc/{victim['pid']}/mem", "r+b", buffering=0) as file:
        file.seek(victim["address"])
        return _secret(plan, file.read(len(victim["secret"])))


@probe("L21", "the environment of a process outside")
def proc_environ(plan: Plan) -> Finding:
    return _secret(plan, Path(f"/proc/{plan['victim']['pid']}/environ").read_bytes())


@probe("L21", "the command lines of processes outside")
def proc_cmdline(plan: Plan) -> Finding:
    lines = b""
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                lines += Path(f"/proc/{entry}/cmdline").read_bytes()
            except OSError:
                continue
    return _secret(plan, lines)


@probe("L21", "a socket reached through /proc/PID/root", ear=True)
def proc_root(plan: Plan) -> Finding:
    return _through(plan, f"root{plan['directories']['tmp']}/tmp.sock")


@probe("L21", "a socket reached through /proc/PID/cwd", ear=True)
def proc_cwd(plan: Plan) -> Finding:
    return _through(plan, "cwd/tmp.sock")


@probe("L21", "a file reopened through /proc/PID/fd")
def proc_fd(plan: Plan) -> Finding:
    victim = plan["victim"]
    return _secret(plan, Path(f"/proc/{victim['pid']}/fd/{victim['file']}").read_bytes())


@probe("L42", "a signal to a process outside", ear=True)
def signal_process(plan: Plan) -> Finding:
    victim = plan["victim"]
    own = Path(f"/proc/{victim['pid']}/cmdline").read_bytes()  # never one of ours with its number
    if victim["secret"].encode() not in own:
        raise ProcessLookupError(3, "another process of that number")
    os.kill(victim["pid"], signal.SIGUSR1)
    return sent()


@probe("L22", "the network namespace of a process outside (setns)", root=True)
def setns_process(plan: Plan) -> Finding:
    fd = os.open(f"/proc/{plan['victim']['pid']}/ns/net", os.O_RDONLY)
    same = os.fstat(fd).st_ino == plan["netns"]
    calls.setns(fd, calls.CLONE_NEWNET)
    return seen(same, "joined", "another namespace")


@probe("L22", "the network namespace of pid 1 (setns)", root=True)
def setns_init(plan: Plan) -> Finding:
    fd = os.open("/proc/1/ns/net", os.O_RDONLY)
    same = os.fstat(fd).st_ino == plan["netns"]
    calls.setns(fd, calls.CLONE_NEWNET)
    return seen(same, "joined", "another namespace")


def _secret(plan: Plan, data: bytes) -> Finding:
    secret = plan["victim"]["secret"].encode()
    return seen(
        secret[: min(len(data), len(secret))] in data and bool(data), "its secret was read", "another one's"
    )


def _through(plan: Plan, path: str) -> Finding:
    import socket

    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(f"/proc/{plan['victim']['pid']}/{path}")
        sock.sendall(plan.token.encode())
    return sent()
