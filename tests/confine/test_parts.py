# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts' own code, after the warm-up and under the filter: nothing is missing there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from avne.confine.sandbox import Wish
from avne.netstack import process
from avne.netstack.warm_up import warm_up
from avne.upstream import worker
from tests.confine.confined import run
from tests.confine.policies import POLICIES, of_worker

ROOT = Path(__file__).parents[2]

# In a process of its own: what is imported or opened after a part's warm-up, and which modules declare calls.
LATER = """
import json, sys
import {package}.{module}
from {package}.warm_up import warm_up
warm_up({arguments})
before = set(sys.modules)
opened = []
sys.addaudithook(lambda event, arguments: event == "open" and opened.append(arguments[0]))
warm_up({arguments})
ours = [name for name in sys.modules if name.startswith("avne.")]
declared = [name for name in ours if hasattr(sys.modules[name], "SYSCALLS")]
print(json.dumps([sorted(set(sys.modules) - before), opened, declared]))
"""


def _later(package, module, arguments=""):
    code = LATER.format(package=package, module=module, arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported, opened, declared = json.loads(done.stdout)
    # A traceback asks for its source lines, and does without.
    return imported, [name for name in opened if not name.endswith("confine/runtime.py")], set(declared)


@pytest.mark.parametrize("capture", [True, False])
def test_after_the_netstack_s_warm_up_nothing_is_imported_or_opened(capture):
    imported, opened, declared = _later("avne.netstack", "process", '"x"' if capture else "None")
    assert imported == opened == []
    expected = {
        "avne.confine.runtime", "avne.ipc.control", "avne.ipc.lane", "avne.ipc.streams",
        "avne.netstack.lines", "avne.netstack.link", "avne.netstack.confinement",
    }  # fmt: skip
    if capture:
        expected.add("avne.netstack.capture")
    assert declared == expected, "all of them, and no others, are in its policy"


def test_after_a_worker_s_warm_up_nothing_is_imported_or_opened():
    imported, opened, declared = _later("avne.upstream", "worker")
    assert imported == opened == []
    names = {one.__name__ for one in worker._MODULES} | {"avne.upstream.worker"}
    assert declared == names, "all of them, and no others, are in its policy"


HOSTILE = """
import builtins, json, sys
from tests.fuzz import engine
import avne.netstack.process, avne.upstream.worker
from avne.netstack.warm_up import warm_up
from avne.upstream.warm_up import warm_up as warm_up_worker
warm_up("x")
warm_up_worker()
real, seen = builtins.__import__, []
def record(name, globals=None, *rest):
    who = (globals or {}).get("__name__", "C")
    if not who.startswith("tests") and name not in sys.modules:
        seen.append((who, name))
    return real(name, globals, *rest)
builtins.__import__ = record
inputs = sum(engine.run(name, 20 * engine.WEIGHTS[name], seed=1).inputs for name in engine.HARNESSES)
print(json.dumps([inputs, seen]))
"""


def test_no_input_makes_it_import_anything():
    """The inputs of the fuzzer, of every kind."""
    done = subprocess.run(
        [sys.executable, "-c", HOSTILE], capture_output=True, text=True, check=True, cwd=ROOT
    )
    inputs, seen = json.loads(done.stdout)
    assert inputs > 500
    assert seen == []


@pytest.mark.parametrize("name", ["netstack", "netstack with a capture"])
def test_a_whole_session_under_the_netstack_s_filter(name, monkeypatch):
    """The warm-up once more, where one call too many kills; it has a connection's every call but its end."""
    import socket

    pairs = [socket.socketpair() for _ in range(4)]  # which the filter would not give
    epoll = process.select.epoll()

    def work():
        warm_up("again")
        return "alive"

    warm_up("before")
    left = list(pairs)
    monkeypatch.setattr(socket, "socketpair", left.pop)
    monkeypatch.setattr(process.select, "epoll", lambda: epoll)
    assert run(work, Wish(file_size=True), POLICIES[name]) == "alive"
    epoll.close()
    for one in (one for pair in pairs for one in pair):
        one.close()


def test_threads_start_under_a_worker_s_filter():
    """As many as negotiations block: each is born and ends under it."""
    import threading

    def work():
        threads = [threading.Thread(target=lambda: bytearray(1 << 20)) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(threads)

    for proxy in ("unix", "v4", "v6", "name"):
        assert run(work, Wish(), of_worker(proxy)) == 20
