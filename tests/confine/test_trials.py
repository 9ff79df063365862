# SPDX-License-Identifier: GPL-3.0-or-later
"""Every forbidden call, tried for real under each policy; each policy's holes are told one by one."""

from __future__ import annotations

import pytest

from avne.confine.trials import ALLOWED, FORBIDDEN, KILLED, attempt, trials
from tests.confine.policies import POLICIES

REFUSED = {
    "to read a file": "Permission denied", "to write a file": "Permission denied",
    "to look at a file": "Permission denied", "the working directory": "Permission denied",
    "to type into a terminal": "Inappropriate ioctl for device",
}  # fmt: skip
THREADS = {"the same, the newer way": "Function not implemented"}  # so that the C library takes clone(2)

# What only a worker can do that has to look up its proxy's name, or whose netstack is elsewhere.
LOOKS_UP = {
    "an internet socket", "a datagram socket", "an IPv6 datagram socket",
    "a netlink socket", "a datagram socket of the machine", "bind",
    "many messages at once", "a socket option of the network", "to read a file", "to look at a file",
    "the working directory", "to type into a terminal", "new code", "code from data",
}  # fmt: skip
HOLES = {
    "netstack with remote workers": {"accept"},
    "worker v4": {"an internet socket"},
    "worker name": LOOKS_UP,
    "remote worker": LOOKS_UP | {"accept"},
}

PAIRS = {"a pair of sockets": "Bad address"}  # for the environment's own pages; nobody else has an end
STRICT = [name for name in POLICIES if name not in HOLES]


@pytest.mark.parametrize("trial", trials(), ids=lambda trial: trial.what)
def test_a_forbidden_call(trial):
    assert attempt(None, trial) != KILLED, "the control: without a filter it is no forbidden call"
    for name, policy in POLICIES.items():
        found = attempt(policy, trial)
        if trial.what in HOLES.get(name, ()):
            assert found != KILLED, name
        elif trial.what in PAIRS and "worker" in name and name != "netstack with remote workers":
            assert found == PAIRS[trial.what], name
        elif trial.what in THREADS and "worker" in name and name != "netstack with remote workers":
            assert found == THREADS[trial.what], name
        else:
            assert found == REFUSED.get(trial.what, KILLED), name


def test_the_strict_ones_have_no_hole():
    assert {"netstack", "netstack with a capture", "worker unix", "worker v6"} <= set(STRICT)
    assert len(FORBIDDEN) >= 50


def test_an_attempt_that_is_allowed_says_so():
    (trial,) = [one for one in trials() if one.what == "to trace"]
    assert attempt(None, trial) == ALLOWED
