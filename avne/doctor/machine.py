# SPDX-License-Identifier: GPL-3.0-or-later
"""What this machine and its kernel give: versions, user namespaces, seccomp, /proc and /sys, limits."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import sys
from pathlib import Path
from typing import Final

from avne.doctor import Limited
from avne.errors import AvneError
from avne.privileged.explain import RESTRICTION, in_container, setting

KERNEL: Final = (5, 11)  # the first where a user namespace may mount an overlay
PYTHON: Final = (3, 11)
LEAST_MEMORY: Final = 256 << 20  # bytes; an environment with its processes has some 100 MiB
LEAST_FILES: Final = 1024  # a flow takes a descriptor, and some while it is opened

# Landlock's ABI (landlock(7)), and what avne gets from it; what is above is not there yet.
_UNIX_RIGHT: Final = 9  # Linux 7.1
_CREATE_RULESET: Final = 444
_PR_SET_SECCOMP, _SECCOMP_FILTER = 22, 2


def python() -> str:
    if sys.version_info[:2] < PYTHON:
        raise AvneError(f"Python {platform.python_version()} is too old", "Install Python 3.11 or later.")
    return platform.python_version()


def kernel() -> str:
    """The version, and what only a later one has."""
    release = os.uname().release
    major, minor = (int("".join(c for c in part if c.isdigit()) or 0) for part in release.split(".")[:2])
    if (major, minor) < KERNEL:
        raise AvneError(f"Linux {release} is too old", "It needs Linux 5.11 or later.")
    abi = landlock_abi()
    if abi >= _UNIX_RIGHT:
        return f"Linux {release}, Landlock ABI {abi}"
    has = f"Landlock ABI {abi}" if abi else "no Landlock"
    raise Limited(
        f"Linux {release}, {has}: a unix socket that is made later in a shared directory is in reach",
        "Linux 7.1 or later (Landlock ABI 9) refuses it; so do --private-home and --strict.",
    )


def landlock_abi() -> int:
    """0 where the kernel has none, or it is switched off."""
    libc = ctypes.CDLL(None, use_errno=True)
    return max(0, int(libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1)))


def user_namespaces() -> str:
    """Makes one, in a child; the settings are read to say why not."""
    if os.geteuid() == 0:
        return "not needed by root"
    error = _unshare_user()
    if error:
        from avne.privileged import launch

        found = launch.explain("USER_NAMESPACE", error, False)
        if _setuid_usable():
            raise Limited(f"{found.problem}; the setuid helper does without", found.cure)
        raise found
    if setting(RESTRICTION) == "1":
        return "can be made; AppArmor gives them rights by profile (environment, below)"
    most = setting("user/max_user_namespaces")
    return f"can be made (user.max_user_namespaces={most})" if most else "can be made"


def _setuid_usable() -> bool:
    from avne.privileged import launch

    return os.access(launch.INSTALLED, os.X_OK)


def _unshare_user() -> int:
    """0, or the errno."""
    pid = os.fork()
    if pid == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        os._exit(0 if libc.unshare(0x10000000) == 0 else ctypes.get_errno() & 0xFF)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def seccomp() -> str:
    """A filter of nothing: EFAULT where filters are known, EINVAL where not (seccomp(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_SECCOMP, _SECCOMP_FILTER, None, 0, 0)
    number = ctypes.get_errno()
    if number != errno.EFAULT:
        raise AvneError(
            f"seccomp filters cannot be set ({os.strerror(number)})",
            "avne needs a kernel with CONFIG_SECCOMP_FILTER; inside a container: run avne on the host.",
        )
    words = Path("/proc/self/status").read_text().splitlines()
    mode = next((line.split()[1] for line in words if line.startswith("Seccomp:")), "?")
    return "filters can be set; one of somebody else's is in force" if mode == "2" else "filters can be set"


def container() -> str:
    """Parts of /proc and /sys that are covered or read-only, as container managers leave them."""
    covered = [path for path in _mount_points() if path.startswith(("/proc/", "/sys/"))]
    covered = [path for path in covered if not path.startswith(_USUAL)]
    where = "in a container" if in_container() else "no container"
    if not covered:
        return f"{where}; /proc and /sys are whole"
    some = ", ".join(covered[:3]) + (", …" if len(covered) > 3 else "")
    raise Limited(
        f"{where}; parts of /proc or /sys are covered: {some}",
        "Where a new /proc or /sys cannot be mounted: --security-opt systempaths=unconfined, or the host.",
    )


# What is mounted there on a machine that is none: file systems of their own.
_USUAL: Final = ("/proc/sys/fs/binfmt_misc", "/proc/fs/nfsd", "/sys/kernel/", "/sys/fs/", "/sys/firmware/efi")


def _mount_points() -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split()[4].encode().decode("unicode_escape") for line in lines]


def memory() -> str:
    """What is free, here and in the cgroup; a limit of the address space."""
    free = _available()
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY and soft < LEAST_MEMORY * 4:
        raise Limited(
            f"a process may have {soft >> 20} MiB of addresses (ulimit -v)", "Raise it: ulimit -v unlimited"
        )
    if free < LEAST_MEMORY:
        raise Limited(
            f"{free >> 20} MiB are free", f"An environment needs some {LEAST_MEMORY >> 20}: end a program."
        )
    return f"{free >> 20} MiB are free"


def _available() -> int:
    rows = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line)
    free = int(rows["MemAvailable"].split()[0]) << 10
    try:
        group = Path("/proc/self/cgroup").read_text().splitlines()[-1].rpartition("::")[2]
        place = Path(f"/sys/fs/cgroup{group}")
        most = (place / "memory.max").read_text().strip()
        if most != "max":
            free = min(free, int(most) - int((place / "memory.current").read_text()))
    except (OSError, ValueError):
        pass
    return free


def files() -> str:
    """How many descriptors a process may have: avne takes the hard limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < LEAST_FILES:
        raise Limited(
            f"a process may open {hard} files (ulimit -Hn): so many connections at most",
            "Raise it in /etc/security/limits.conf or in the service: LimitNOFILE=65536",
        )
    return f"a process may open {hard if hard != resource.RLIM_INFINITY else 'any number of'} files"
