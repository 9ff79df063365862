# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a seccomp program as the kernel does, on one ``struct seccomp_data`` (Linux: filter.rst)."""

from __future__ import annotations

import struct

from avne.confine import bpf

DATA = struct.Struct("=iIQ6Q")  # nr, arch, instruction_pointer, args


def decide(program: list[bpf.Instruction], arch: int, number: int, arguments: tuple[int, ...]) -> int:
    """The action that it returns; the bytes of a call outside of the program are an IndexError."""
    data = DATA.pack(number if number < 1 << 31 else number - (1 << 32), arch, 0, *arguments)
    accumulator = 0
    at = 0
    while True:
        code, jt, jf, k = program[at]
        at += 1
        if code == bpf.LD_W_ABS:
            assert k % 4 == 0
            (accumulator,) = struct.unpack_from("=I", data, k)
        elif code == bpf.AND_K:
            accumulator &= k
        elif code in (bpf.JEQ_K, bpf.JGE_K):
            at += jt if (accumulator == k if code == bpf.JEQ_K else accumulator >= k) else jf
        else:
            assert code == bpf.RET_K
            return k
