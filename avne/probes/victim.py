# SPDX-License-Identifier: GPL-3.0-or-later
"""A process outside for the probes to attack: ``python victim.py SECRET``.

It has its secret in its arguments, environment and memory, holds two descriptors, says a line for each
SIGUSR1, and ends with its standard input.  Where Yama restricts ptrace(2) to descendants it lets
everybody trace it, as debuggers' targets do: the wall to be shown is the environment's.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys

_PR_SET_PTRACER = 0x59616D61


def main() -> None:
    secret = ctypes.create_string_buffer(sys.argv[1].encode())
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(-1 & 0xFFFFFFFFFFFFFFFF), 0, 0, 0)
    signal.signal(signal.SIGUSR1, lambda _number, _frame: os.write(1, b"signal\n"))
    os.write(1, f"{ctypes.addressof(secret)}\n".encode())
    while not select.select([0], [], [])[0]:
        pass


if __name__ == "__main__":
    main()
