# SPDX-License-Identifier: GPL-3.0-or-later
"""An io_uring(7) whose kernel thread sends, in the network of its maker, what any holder of it asks for.

The maker maps the ring and registers a socket; the address of its mapping goes into the facts.  A
holder of the descriptor writes data and a SEND into the shared memory: no system call of its own
tells a filter of it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from typing import Any, Final

from avne.probes import calls

_SETUP_SQPOLL: Final = 1 << 1
_ENTER_SQ_WAKEUP: Final = 1 << 1
_REGISTER_FILES: Final = 2
_OFF_SQES: Final = 0x10000000
_OP_SEND, _FIXED_FILE = 26, 1
_SQE: Final = 64
_ENTRIES: Final = 16
_IDLE: Final = 50  # ms until the kernel's thread sleeps
_SPARE: Final = 8  # the first entry that is never submitted: room for data


class Ring:
    """The maker's side: `fd`, and `facts` for those who are given it.  OSError where there is no io_uring."""

    def __init__(self, sock: int) -> None:
        params = ctypes.create_string_buffer(struct.pack("=IIIII", 0, 0, _SETUP_SQPOLL, 0, _IDLE), 120)
        self.fd = calls.syscall(calls.IO_URING_SETUP, _ENTRIES, params)
        _, tail, mask, _, _, _, array = struct.unpack_from("=7I", params.raw, 40)
        self._sqes = mmap.mmap(self.fd, _ENTRIES * _SQE, mmap.MAP_SHARED, offset=_OFF_SQES)
        self._view = ctypes.c_char.from_buffer(self._sqes)
        files = (ctypes.c_int * 1)(sock)
        calls.syscall(calls.IO_URING_REGISTER, self.fd, _REGISTER_FILES, files, 1)
        address = ctypes.addressof(self._view)
        self.facts = {"tail": tail, "mask": mask, "array": array, "sqes": address}

    def wake(self) -> None:
        """As its maker does whenever it has work itself."""
        calls.syscall(calls.IO_URING_ENTER, self.fd, 0, 0, _ENTER_SQ_WAKEUP, None, 0)

    def close(self) -> None:
        del self._view
        self._sqes.close()
        os.close(self.fd)


def submit(fd: int, facts: dict[str, Any], data: bytes) -> None:
    """Have `data` (less than 64 bytes) sent on the registered socket."""
    ring = mmap.mmap(fd, facts["array"] + 4 * _ENTRIES, mmap.MAP_SHARED, offset=0)
    sqes = mmap.mmap(fd, _ENTRIES * _SQE, mmap.MAP_SHARED, offset=_OFF_SQES)
    (tail,) = struct.unpack_from("=I", ring, facts["tail"])
    slot = tail % _SPARE
    spare = (_SPARE + slot) * _SQE
    sqes[spare : spare + len(data)] = data
    entry = struct.pack("=BBHiQQIIQ", _OP_SEND, _FIXED_FILE, 0, 0, 0, facts["sqes"] + spare, len(data), 0, 1)
    sqes[slot * _SQE : (slot + 1) * _SQE] = entry.ljust(_SQE, b"\0")
    (mask,) = struct.unpack_from("=I", ring, facts["mask"])
    struct.pack_into("=I", ring, facts["array"] + 4 * (tail & mask), slot)
    struct.pack_into("=I", ring, facts["tail"], tail + 1)
