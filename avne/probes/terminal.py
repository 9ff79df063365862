# SPDX-License-Identifier: GPL-3.0-or-later
"""Ways out through the caller's terminal: keys typed for it are read by the shell outside.

The stage gives a terminal of its own as standard error and controlling terminal, and reads there.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap

from avne.probes import calls
from avne.probes.probe import Absent, Finding, Plan, leaked, register, sent, stopped

probe = register("terminal")

_STDERR = 2
_MAP_32BIT = 0x40


@probe("L41", "keys typed into the caller's terminal (TIOCSTI)", ear=True)
def tiocsti(plan: Plan) -> Finding:
    for byte in plan.token.encode():
        fcntl.ioctl(_STDERR, calls.TIOCSTI, bytes([byte]))
    return sent()


@probe("L41", "the same by the upper bits of the request, which the kernel ignores", ear=True)
def tiocsti_high_bits(plan: Plan) -> Finding:
    for byte in plan.token.encode():
        calls.call("ioctl", _STDERR, 1 << 32 | calls.TIOCSTI, ctypes.create_string_buffer(bytes([byte])))
    return sent()


@probe("L41", "the same by the 32-bit system call", ear=True)
def tiocsti_32(plan: Plan) -> Finding:
    if calls.MACHINE != "x86_64":
        raise Absent("no 32-bit gate on this machine")
    page = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_32BIT)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    for byte in plan.token.encode():
        page[0:1] = bytes([byte])
        result = calls.int80(54, _STDERR, calls.TIOCSTI, address)
        if result < 0:
            return stopped(-result)
    return sent()


@probe("L41", "keys pasted on a console (TIOCLINUX)")
def tioclinux(plan: Plan) -> Finding:
    """The terminal is no console: any answer of it but EPERM says that the request came through."""
    try:
        fcntl.ioctl(_STDERR, calls.TIOCLINUX, b"\0")
    except OSError as error:
        if error.errno == 1:
            return stopped(error)
    return leaked("the terminal answered")
