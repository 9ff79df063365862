# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a function of a test in a part's sandbox, in a child, and gives what it found."""

from __future__ import annotations

import json
import os
import signal
import traceback
from collections.abc import Callable
from typing import Any

from avne.confine.rules import Policy
from avne.confine.sandbox import Sandbox, Wish

NOBODY = 65534


class Killed(Exception):
    """The child was, by the filter."""


def run(
    work: Callable[[], Any],
    wish: Wish | None,
    policy: Policy | None,
    user: int = 0,
) -> Any:
    """What `work` gives, as JSON has it: called as `user`, after `isolate` and `seal` where wanted."""
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(readable)
            if user:
                os.setgroups([])
                os.setresgid(user, user, user)
                os.setresuid(user, user, user)
                from avne.confine import kernel

                kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
            sandbox = Sandbox()
            if wish is not None:
                sandbox.isolate(wish)
            if policy is not None:
                sandbox.seal(policy)
            os.write(writable, json.dumps(work()).encode())
            os._exit(0)
        except BaseException:
            os.write(writable, traceback.format_exc().encode())  # its own standard error may be a file
        finally:
            os._exit(99)
    os.close(writable)
    with open(readable, "rb") as file:
        said = file.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == -signal.SIGSYS:
        raise Killed
    assert code == 0, f"{code}: {said.decode()}"
    return json.loads(said)


def tried(call: Callable[[], Any]) -> str:
    """The name of the OSError that a call ends with, or ""."""
    try:
        call()
    except OSError as error:
        return type(error).__name__ if error.errno is None else os.strerror(error.errno)
    return ""
