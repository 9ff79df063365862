# SPDX-License-Identifier: GPL-3.0-or-later
"""A policy as a program for seccomp(2): classic BPF over ``struct seccomp_data`` (linux/seccomp.h).

    arch is ours, else kill · number without x32's bit, else kill · for each call: its alternatives · kill

A call without tests is one comparison, and the kernel (5.11 and later) remembers its answer: it does not run
the program again for it.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from avne.confine.calls import Machine, number
from avne.confine.rules import Condition, Policy

# linux/bpf_common.h, linux/seccomp.h
LD_W_ABS: Final = 0x20
JEQ_K: Final = 0x15
JGE_K: Final = 0x35
AND_K: Final = 0x54
RET_K: Final = 0x06

ALLOW: Final = 0x7FFF0000
KILL_PROCESS: Final = 0x80000000
ERRNO: Final = 0x00050000

_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets; the low half of an argument is first (little-endian)
_X32: Final = 0x40000000
_INSTRUCTION: Final = struct.Struct("=HBBI")


class Instruction(NamedTuple):
    """``struct sock_filter`` (linux/filter.h)."""

    code: int
    jt: int
    jf: int
    k: int


def _load(offset: int) -> Instruction:
    return Instruction(LD_W_ABS, 0, 0, offset)


def _return(action: int) -> Instruction:
    return Instruction(RET_K, 0, 0, action)


def assemble(policy: Policy, machine: Machine) -> list[Instruction]:
    """The program.  Raises KeyError for a call that is in no table."""
    program = [
        _load(_ARCH),
        Instruction(JEQ_K, 1, 0, machine.audit),
        _return(KILL_PROCESS),
        _load(_NUMBER),
        Instruction(JGE_K, 0, 1, _X32),
        _return(KILL_PROCESS),
    ]
    for name in sorted({*policy.allowed, *policy.refused}):
        which = number(name, machine)
        if which is None:
            continue
        errno = policy.refused.get(name)
        answer = _return(KILL_PROCESS if errno is None else ERRNO | errno)
        body = _call(policy.allowed.get(name, ()), answer)
        program += [Instruction(JEQ_K, 0, len(body), which), *body]
    return [*program, _return(KILL_PROCESS)]


def _call(alternatives: tuple[tuple[Condition, ...], ...], otherwise: Instruction) -> list[Instruction]:
    """The answer to one call."""
    if alternatives == ((),):
        return [_return(ALLOW)]
    return [step for tests in alternatives for step in _alternative(tests)] + [otherwise]


def _alternative(tests: tuple[Condition, ...]) -> list[Instruction]:
    """ALLOW if all hold; else it runs off its end."""
    code = [_return(ALLOW)]
    for test in reversed(tests):
        code = [*_test(test, len(code)), *code]
    return code


def _test(test: Condition, beyond: int) -> list[Instruction]:
    """Runs off its end if it holds; else it jumps over `beyond` more."""
    code = [_load(_ARGUMENTS + 8 * test.argument)]
    if test.mask != 0xFFFFFFFF:
        code.append(Instruction(AND_K, 0, 0, test.mask))
    last = len(test.values) - 1
    for place, value in enumerate(test.values):
        code.append(Instruction(JEQ_K, last - place, 0 if place < last else beyond, value))
    return code


def encode(program: list[Instruction]) -> bytes:
    """An array of ``struct sock_filter``.  Raises struct.error where a jump is too far (255)."""
    return b"".join(_INSTRUCTION.pack(*one) for one in program)
