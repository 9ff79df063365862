# SPDX-License-Identifier: GPL-3.0-or-later
"""What /proc and /sys tell of the host's network and of the machine, and ways around their mounts."""

from __future__ import annotations

import glob
import os
import socket
from pathlib import Path

from avne.probes import calls
from avne.probes.probe import Finding, Plan, leaked, register, seen, sent

probe = register("proc and sys")

_SHOWN = 40  # characters of what was seen


def _read(*patterns: str) -> str:
    """All that can be read of these files; OSError where none can."""
    texts, last = [], None
    for pattern in patterns:
        for path in glob.glob(pattern) or [pattern]:
            try:
                texts.append(Path(path).read_text(errors="replace"))
            except OSError as error:
                last = error
    if not texts and last:
        raise last
    return "\n".join(texts)


def any_in(words: list[str], text: str) -> Finding:
    """Leaked if one of the host's `words` is in `text`."""
    found = [word for word in words if word in text]
    return seen(bool(found), ", ".join(found[:2])[:_SHOWN])


@probe("L20", "the host's addresses in /proc/1/net")
def proc_net_addresses(plan: Plan) -> Finding:
    text = _read("/proc/1/net/fib_trie", "/proc/1/net/if_inet6")
    return any_in(plan["addresses"], text)


@probe("L20", "the host's connections in /proc/1/net")
def proc_net_tcp(plan: Plan) -> Finding:
    port = f":{plan['ports']['tcp4']:04X} "
    return seen(port in _read("/proc/1/net/tcp"), "a listener of the host")


@probe("L20", "the host's interfaces in /proc/1/net")
def proc_net_dev(plan: Plan) -> Finding:
    names = {line.split(":")[0].strip() for line in _read("/proc/1/net/dev").splitlines()}
    found = sorted(names & set(plan["interfaces"]))
    return seen(bool(found), ", ".join(found[:2]))


@probe("L20", "the host's routes in /proc/1/net")
def proc_net_route(plan: Plan) -> Finding:
    names = [line.split()[0] for line in _read("/proc/1/net/route").splitlines()[1:]]
    found = sorted(set(names) & set(plan["interfaces"]))
    return seen(bool(found), ", ".join(found[:2]))


@probe("L20", "the host's unix sockets in /proc/1/net")
def proc_net_unix(plan: Plan) -> Finding:
    return seen(plan["abstract"] in _read("/proc/1/net/unix"), "a socket of the host")


@probe("L20", "the host's connections in /proc/PID/net of any process")
def proc_any_net(plan: Plan) -> Finding:
    return seen(f":{plan['ports']['tcp4']:04X} " in _read("/proc/[0-9]*/net/tcp"), "a listener of the host")


@probe("L24", "the host's MAC addresses in /sys")
def sys_mac(plan: Plan) -> Finding:
    text = _read("/sys/class/net/*/address", "/sys/devices/*/net/*/address", "/sys/devices/*/*/net/*/address",
                 "/sys/devices/*/*/*/net/*/address")  # fmt: skip
    return any_in(plan["macs"], text)


@probe("L24", "the host's interfaces in /sys")
def sys_interfaces(plan: Plan) -> Finding:
    found = sorted(set(os.listdir("/sys/class/net")) & set(plan["interfaces"]))
    return seen(bool(found), ", ".join(found[:2]))


@probe("L25", "the machine's serial numbers in /sys/class/dmi")
def sys_dmi(plan: Plan) -> Finding:
    return any_in(plan["dmi"], _read("/sys/class/dmi/id/*"))


@probe("L25", "the id of this boot")
def boot_id(plan: Plan) -> Finding:
    return any_in([plan["boot_id"]], _read("/proc/sys/kernel/random/boot_id"))


@probe("L25", "the kernel's key rings")
def proc_keys(plan: Plan) -> Finding:
    plan["proc_keys"]
    return seen(bool(_read("/proc/keys").strip()), "keys are listed", "empty")


@probe("L25", "the kernel's users of keys")
def proc_key_users(plan: Plan) -> Finding:
    plan["proc_key_users"]
    return seen(bool(_read("/proc/key-users").strip()), "users are listed", "empty")


@probe("L25", "the kernel's command line")
def proc_kernel_cmdline(plan: Plan) -> Finding:
    return any_in([plan["cmdline"]], _read("/proc/cmdline"))


@probe("L25", "the kernel's memory and timers", root=True)
def proc_kcore(plan: Plan) -> Finding:
    for path in ("/proc/kcore", "/proc/timer_list"):
        try:
            with open(path, "rb", buffering=0) as file:
                if file.read(16):
                    return leaked(path)
        except FileNotFoundError:
            continue
    return seen(False, otherwise="empty")


@probe("L43", "the name of the session in /proc/self/cgroup")
def cgroup_path(plan: Plan) -> Finding:
    return any_in(plan["cgroups"], _read("/proc/self/cgroup"))


@probe("L38", "servers of network file systems in /proc/self/mountinfo")
def mount_servers(plan: Plan) -> Finding:
    return any_in(plan["servers"], _read("/proc/self/mountinfo"))


@probe("L39", "set the program that gets core dumps", root=True)
def core_pattern(plan: Plan) -> Finding:
    os.close(os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY))  # opened, never written
    return leaked("may be written")


@probe("L39", "have the kernel start programs (sysrq, uevent_helper)", root=True)
def sysfs_write(plan: Plan) -> Finding:
    last: OSError | None = None
    for path in (
        "/proc/sysrq-trigger",
        "/sys/kernel/uevent_helper",
        "/sys/kernel/mm/ksm/run",
        "/sys/power/state",
    ):
        try:
            os.close(os.open(path, os.O_WRONLY))
            return leaked(f"{path} may be written")
        except OSError as error:
            last = error
    assert last
    raise last


@probe("L23", "uncover what is mounted over, in a user namespace of one's own", ear=True)
def nested_umount(plan: Plan) -> Finding:
    _nested()
    for target in ("/dev/shm", "/run", "/var/tmp", "/tmp", "/etc", "/proc", "/sys"):
        try:
            calls.umount(target)
        except OSError:
            continue
    return _knock(plan, f"{plan['directories']['tmp']}/tmp.sock", f"{plan['directories']['run']}/run.sock")


@probe("L23", "mount the host's file system anew, in a user namespace of one's own", ear=True)
def nested_bind(plan: Plan) -> Finding:
    """A recursive bind of / elsewhere, then what is below its /tmp and /run."""
    _nested()
    there = f"{plan['directories']['home']}/mnt"
    os.makedirs(there, exist_ok=True)
    calls.mount("/", there, "", calls.MS_BIND | calls.MS_REC)
    for below in ("/tmp", "/run", "/var/tmp", "/dev/shm"):
        try:
            calls.umount(there + below)
        except OSError:
            continue
    directories = plan["directories"]
    return _knock(plan, f"{there}{directories['tmp']}/tmp.sock", f"{there}{directories['run']}/run.sock")


def _nested() -> None:
    uid, gid = os.getuid(), os.getgid()
    calls.unshare(calls.CLONE_NEWUSER | calls.CLONE_NEWNS)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    calls.mount("none", "/", "", calls.MS_REC | calls.MS_PRIVATE)  # nothing that follows is seen outside


def _knock(plan: Plan, *paths: str) -> Finding:
    last: OSError | None = None
    for path in paths:
        with socket.socket(socket.AF_UNIX) as sock:
            try:
                sock.connect(path)
                sock.sendall(plan.token.encode())
                return sent()
            except OSError as error:
                last = error
    assert last
    raise last
