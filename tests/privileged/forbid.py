# SPDX-License-Identifier: GPL-3.0-or-later
"""System calls that the machine refuses: by a seccomp filter over this process and its children.

`calls` refuses some by their number, as a container's filter does.
`mounts` refuses mount(2) of some types of file system, as an LSM
or an older kernel does: the filter asks a process that looks at the arguments (seccomp_unotify(2)).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import struct
from collections.abc import Mapping

MACHINE, ARCH = os.uname().machine, {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
SECCOMP = {"x86_64": 317, "aarch64": 277}
NUMBERS = {
    "x86_64": {"mount": 165, "unshare": 272, "keyctl": 250, "add_key": 248, "request_key": 249,
               "close_range": 436, "mount_setattr": 442, "clone3": 435, "landlock_create_ruleset": 444},
    "aarch64": {"mount": 40, "unshare": 97, "keyctl": 219, "add_key": 217, "request_key": 218,
                "close_range": 436, "mount_setattr": 442, "clone3": 435, "landlock_create_ruleset": 444},
}[MACHINE]  # fmt: skip

_LOAD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ERRNO, _NOTIFY, _ALLOW = 0x00050000, 0x7FC00000, 0x7FFF0000
_SET_MODE_FILTER, _NEW_LISTENER = 1, 8
_RECEIVE, _SEND, _CONTINUE = 0xC0502100, 0xC0182101, 1
_NOTICE, _VERDICT = struct.Struct("=QIIiIQ6Q"), struct.Struct("=QqiI")

_libc = ctypes.CDLL(None, use_errno=True)


def _install(verdicts: Mapping[str, int], flags: int = 0) -> int:
    """For root: without no_new_privs, so that a setuid helper still is one."""
    rules = [(_LOAD, 0, 0, 4), (_IF_EQUAL, 1, 0, ARCH[MACHINE]), (_RETURN, 0, 0, _ALLOW), (_LOAD, 0, 0, 0)]
    for name, verdict in verdicts.items():
        rules += [(_IF_EQUAL, 0, 1, NUMBERS[name]), (_RETURN, 0, 0, verdict)]
    rules.append((_RETURN, 0, 0, _ALLOW))
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *rule) for rule in rules))
    program = struct.pack("@HP", len(rules), ctypes.addressof(code))
    result: int = _libc.syscall(SECCOMP[MACHINE], _SET_MODE_FILTER, flags, program)
    assert result >= 0, os.strerror(ctypes.get_errno())
    return result


def calls(**errors: int) -> None:
    """Each named call fails with its errno."""
    _install({name: _ERRNO | error for name, error in errors.items()})


def mounts(**errors: int) -> None:
    """mount(2) of each named type fails with its errno."""
    listener = _install({"mount": _NOTIFY}, _NEW_LISTENER)
    life, _ = os.pipe()
    if os.fork():
        os.close(listener)
        os.close(life)
        return  # the other end of `life` ends with this process
    os.dup2(listener, 3)
    os.dup2(life, 4)
    os.closerange(5, 1 << 16)
    poll = select.poll()
    for fd in (3, 4):
        poll.register(fd, select.POLLIN)
    while [fd for fd, _ in poll.poll()] == [3]:
        _judge(3, {name.encode(): error for name, error in errors.items()})
    os._exit(0)


def _judge(listener: int, errors: Mapping[bytes, int]) -> None:
    notice = bytearray(_NOTICE.size)
    fcntl.ioctl(listener, _RECEIVE, notice)
    ident, pid, *_, kind, _, _, _ = _NOTICE.unpack(notice)
    error = 0
    if kind:
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            memory.seek(kind)
            error = errors.get(memory.read(16).split(b"\0")[0], 0)
    verdict = bytearray(_VERDICT.pack(ident, 0, -error, 0 if error else _CONTINUE))
    with contextlib.suppress(FileNotFoundError):  # who asked has been killed meanwhile
        fcntl.ioctl(listener, _SEND, verdict)
