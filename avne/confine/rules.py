# SPDX-License-Identifier: GPL-3.0-or-later
"""How a module declares the system calls that it makes, and what becomes of the declarations of all.

    SYSCALLS = ("recvmsg", "sendmsg", Call("ioctl", one_of(1, FIONBIO)))

Tests look at the low 32 bits of an argument, which is all that the kernel looks at in the calls that have
some here.  A call that several modules declare may be made as any of them says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

_ALL: Final = 0xFFFFFFFF


class Condition(NamedTuple):
    """`argument` (0 to 5), masked, is one of `values`."""

    argument: int
    mask: int
    values: tuple[int, ...]

    def __str__(self) -> str:
        values = "|".join(f"{value:#x}" for value in self.values)
        return f"arg{self.argument}{'' if self.mask == _ALL else f'&{self.mask:#x}'}={values}"


def one_of(argument: int, *values: int) -> Condition:
    return Condition(argument, _ALL, tuple(value & _ALL for value in values))


def without(argument: int, bits: int) -> Condition:
    """None of `bits` is set."""
    return Condition(argument, bits, (0,))


def with_all(argument: int, bits: int) -> Condition:
    """All of `bits` are set."""
    return Condition(argument, bits, (bits,))


class Call(NamedTuple):
    """A system call that is made only with arguments for which every test holds."""

    name: str
    tests: tuple[Condition, ...]

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.tests))})"


def call(name: str, *tests: Condition) -> Call:
    return Call(name, tests)


class Policy(NamedTuple):
    """What a part may do.

    `allowed`: for each name the alternatives, one of which must hold; one without tests always does.
    `refused`: the errno with which a call fails that is not allowed; all others kill the process.
    """

    name: str
    allowed: Mapping[str, tuple[tuple[Condition, ...], ...]]
    refused: Mapping[str, int]


Declarations = Iterable[str | Call]


def gather(name: str, modules: Iterable[Declarations], refused: Mapping[str, int]) -> Policy:
    """The policy of a part: the sum of its modules' ``SYSCALLS``."""
    found: dict[str, list[tuple[Condition, ...]]] = {}
    for one in (one for declarations in modules for one in declarations):
        called, tests = (one.name, one.tests) if isinstance(one, Call) else (one, ())
        alternatives = found.setdefault(called, [])
        if tests not in alternatives:
            alternatives.append(tests)
    allowed = {one: ((),) if () in tests else tuple(tests) for one, tests in sorted(found.items())}
    return Policy(name, allowed, dict(refused))


def lines(policy: Policy) -> list[str]:
    """The policy for people, a line for each way to make a call."""
    rows = []
    for name, alternatives in policy.allowed.items():
        rows += [str(Call(name, tests)) if tests else name for tests in alternatives]
    return rows
