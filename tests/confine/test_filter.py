# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter decides as declared: for every number of a system call, on each machine, for any arguments."""

from __future__ import annotations

import errno
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avne.confine import bpf, calls
from avne.confine.calls import AARCH64, MACHINES, NUMBERS, X86_64
from avne.confine.rules import Condition, Policy, call, gather, lines, one_of, with_all, without
from tests.confine.interpreter import decide
from tests.confine.policies import POLICIES

LIMIT = 600  # beyond the last number of both tables


def expected(policy: Policy, machine: calls.Machine, number: int, arguments: tuple[int, ...]) -> int:
    """What the declarations say, without a program."""
    for name, numbers in NUMBERS.items():
        if numbers[machine.column] != number:
            continue
        for tests in policy.allowed.get(name, ()):
            if all(arguments[t.argument] & t.mask & 0xFFFFFFFF in t.values for t in tests):
                return bpf.ALLOW
        if name in policy.refused:
            return bpf.ERRNO | policy.refused[name]
    return bpf.KILL_PROCESS


def interesting(policy: Policy) -> list[tuple[int, ...]]:
    """Arguments that some test of the policy looks at: what it wants, and what is next to it."""
    rows = [(0,) * 6, (0xFFFFFFFFFFFFFFFF,) * 6]
    for alternatives in policy.allowed.values():
        for tests in alternatives:
            wanted = [0] * 6
            for test in tests:
                wanted[test.argument] = test.values[-1]
            rows.append(tuple(wanted))
            rows += [
                (*wanted[: t.argument], wanted[t.argument] ^ bit, *wanted[t.argument + 1 :])
                for t in tests
                for bit in (1, 4, 0x10000, t.mask & -t.mask, 1 << 32)
            ]
    return rows


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
@pytest.mark.parametrize("name", POLICIES)
def test_it_decides_as_declared_for_every_number(name, machine):
    policy = POLICIES[name]
    program = bpf.assemble(policy, machine)
    rows = sorted(set(interesting(policy)))
    looked_at = {NUMBERS[name][machine.column] for name, tests in policy.allowed.items() if tests != ((),)}
    for number in range(LIMIT):
        for arguments in rows if number in looked_at else (rows[0], rows[-1]):
            assert decide(program, machine.audit, number, arguments) == expected(
                policy, machine, number, arguments
            ), (number, arguments)


@settings(max_examples=300)
@given(
    st.integers(0, 0xFFFFFFFF), st.tuples(*[st.integers(0, (1 << 64) - 1)] * 6), st.sampled_from([*POLICIES])
)
def test_it_decides_as_declared_for_any_arguments(number, arguments, name):
    for machine in MACHINES.values():
        program = bpf.assemble(POLICIES[name], machine)
        found = decide(program, machine.audit, number, arguments)
        x32 = number >= 0x40000000
        assert found == (bpf.KILL_PROCESS if x32 else expected(POLICIES[name], machine, number, arguments))


@pytest.mark.parametrize("name", POLICIES)
def test_another_abi_is_killed(name):
    for machine in MACHINES.values():
        program = bpf.assemble(POLICIES[name], machine)
        i386, arm = 0x40000003, 0x40000028
        others = {other.audit for other in MACHINES.values()} - {machine.audit}
        for arch in (i386, arm, *others):
            for number in range(LIMIT):
                assert decide(program, arch, number, (0,) * 6) == bpf.KILL_PROCESS
        for number in range(LIMIT):
            assert decide(program, machine.audit, number | 0x40000000, (0,) * 6) == bpf.KILL_PROCESS


def test_the_kernel_takes_no_longer_programs():
    """BPF_MAXINSNS; and a jump is a byte, which `encode` checks."""
    for policy in POLICIES.values():
        for machine in MACHINES.values():
            program = bpf.assemble(policy, machine)
            assert len(bpf.encode(program)) == 8 * len(program) <= 8 * 4096


def test_no_part_on_this_machine_has_more_than_thirty_calls():
    """pasta has 41, passt 31.  ZeroMQ's threads, for workers elsewhere, need more."""
    for name in ("netstack", "netstack with a capture"):
        for machine in MACHINES.values():
            numbers = [NUMBERS[call][machine.column] for call in POLICIES[name].allowed]
            assert len([n for n in numbers if n is not None]) <= 30
    assert len(POLICIES["netstack with remote workers"].allowed) <= 41


# ---- the language ---------------------------------------------------------------------------


def test_a_call_that_several_declare_may_be_made_as_any_says():
    policy = gather("x", [("close",), (call("ioctl", one_of(1, 7)),), (call("ioctl", one_of(1, 9)),)], {})
    assert policy.allowed["ioctl"] == ((Condition(1, 0xFFFFFFFF, (7,)),), (Condition(1, 0xFFFFFFFF, (9,)),))
    program = bpf.assemble(policy, X86_64)
    verdicts = [decide(program, X86_64.audit, 16, (0, n, 0, 0, 0, 0)) for n in (7, 8, 9)]
    assert verdicts == [bpf.ALLOW, bpf.KILL_PROCESS, bpf.ALLOW]


def test_one_without_tests_beats_those_with():
    policy = gather("x", [(call("close", one_of(0, 1)), "close")], {})
    assert policy.allowed == {"close": ((),)}


def test_what_is_refused_fails_where_its_tests_do():
    policy = gather("x", [(call("ioctl", one_of(1, 7)),)], {"ioctl": errno.ENOTTY, "openat": errno.EACCES})
    program = bpf.assemble(policy, AARCH64)
    assert decide(program, AARCH64.audit, 29, (0, 8, 0, 0, 0, 0)) == bpf.ERRNO | errno.ENOTTY
    assert decide(program, AARCH64.audit, 56, (0,) * 6) == bpf.ERRNO | errno.EACCES


@given(st.integers(0, 5), st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF))
def test_bits(argument, bits, value):
    arguments = tuple(value if n == argument else 0 for n in range(6))
    for test, holds in (
        (without(argument, bits), not value & bits),
        (with_all(argument, bits), value & bits == bits),
    ):
        program = bpf.assemble(gather("x", [(call("close", test),)], {}), X86_64)
        assert (decide(program, X86_64.audit, 3, arguments) == bpf.ALLOW) == holds


def test_a_call_without_a_number_is_an_error():
    with pytest.raises(KeyError):
        bpf.assemble(gather("x", [("frobnicate",)], {}), X86_64)
    with pytest.raises(struct.error):
        bpf.encode([bpf.Instruction(bpf.JEQ_K, 256, 0, 0)])


def test_lines_for_people():
    assert lines(gather("x", [("close", call("mmap", without(2, 4)))], {})) == ["close", "mmap(arg2&0x4=0x0)"]


# ---- the tables -----------------------------------------------------------------------------


def _defines(path: str) -> dict[str, int]:
    found = {}
    for line in Path(path).read_text().splitlines():
        if match := re.match(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", line):
            found.setdefault(match[1], int(match[2]))
    return found


@pytest.mark.parametrize(
    ("machine", "header"),
    [
        (X86_64, "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        (AARCH64, "/usr/include/asm-generic/unistd.h"),
    ],
    ids=["x86_64", "aarch64"],
)
def test_the_numbers_are_the_kernel_s(machine, header):
    numbers = _defines(header)
    # The generic table names the 64-bit variants of these by what they were before.
    renamed = {"newfstatat": "fstatat"} if machine is AARCH64 else {}
    for name in NUMBERS:
        assert NUMBERS[name][machine.column] == numbers.get(renamed.get(name, name)), name
