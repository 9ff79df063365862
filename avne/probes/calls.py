# SPDX-License-Identifier: GPL-3.0-or-later
"""System calls that Python does not offer, by ctypes.  Each raises OSError as the os module does."""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Any, Final

MACHINE: Final = os.uname().machine
# Numbers that differ: add_key request_key keyctl ioctl socket (see syscalls(2)).
NUMBERS: Final[dict[str, dict[str, int]]] = {
    "x86_64": {"add_key": 248, "request_key": 249, "keyctl": 250, "ioctl": 16, "socket": 41, "ptrace": 101},
    "aarch64": {"add_key": 217, "request_key": 218, "keyctl": 219, "ioctl": 29, "socket": 198, "ptrace": 117},
    "riscv64": {"add_key": 217, "request_key": 218, "keyctl": 219, "ioctl": 29, "socket": 198, "ptrace": 117},
}
IO_URING_SETUP, IO_URING_ENTER, IO_URING_REGISTER, PIDFD_GETFD = 425, 426, 427, 438
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x20000, 0x10000000, 0x40000000
MNT_DETACH, MS_BIND, MS_REC, MS_PRIVATE = 2, 0x1000, 0x4000, 1 << 18
TIOCSTI, TIOCLINUX = 0x5412, 0x541C

libc: Final = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def syscall(number: int, *arguments: Any) -> int:
    """syscall(2); integers are passed as unsigned long, so that all 64 bits of them are seen."""
    words = [ctypes.c_ulong(word) if isinstance(word, int) else word for word in arguments]
    return checked(libc.syscall(ctypes.c_long(number), *words))


def call(name: str, *arguments: Any) -> int:
    """A system call by its name."""
    return syscall(NUMBERS[MACHINE][name], *arguments)


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    checked(
        libc.mount(
            source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode() or None
        )
    )


def umount(target: str) -> None:
    checked(libc.umount2(target.encode(), MNT_DETACH))


def unshare(flags: int) -> None:
    checked(libc.unshare(flags))


def setns(fd: int, kind: int) -> None:
    checked(libc.setns(fd, kind))


def int80(number: int, *arguments: int) -> int:
    """A system call by the 32-bit gate of an x86-64 process; gives -errno for an error.

    Ends the process by SIGSEGV or SIGSYS where the kernel or a filter has no such gate.
    """
    code = b"\x53" + b"\xb8" + number.to_bytes(4, "little")  # push rbx; mov eax, number
    for register, value in zip((b"\xbb", b"\xb9", b"\xba"), arguments, strict=False):
        code += register + (value & 0xFFFFFFFF).to_bytes(4, "little")
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code + b"\xcd\x80\x5b\xc3")  # int 0x80; pop rbx; ret
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    return int(ctypes.CFUNCTYPE(ctypes.c_int)(address)())


def peek(pid: int, address: int, size: int) -> bytes:
    """process_vm_readv(2)."""

    class Part(ctypes.Structure):
        _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))

    room = ctypes.create_string_buffer(size)
    here, there = Part(ctypes.addressof(room), size), Part(address, size)
    count = libc.process_vm_readv(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
    return room.raw[: checked(count)]
