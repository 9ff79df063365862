# SPDX-License-Identifier: GPL-3.0-or-later
"""The client of every case: ``python -m tests.differential.client FAMILY [CASE…]``, FAMILY v4 or v6.

Standard input and output are pipes to the puppet.  Most cases wait most of the time, so some of them run
at once, each on a thread; each has a bounded time, so that one that hangs costs the others nothing.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import traceback
from multiprocessing.connection import Connection

from tests.differential import cases
from tests.differential.script import Puppet, Script

AT_ONCE = 6
CASE_SECONDS = 30


def perform(name: str, script: Script) -> None:
    """The case; a transcript says so when it did not come to its end."""
    try:
        cases.CASES[name](script)
    except Exception:
        script.say("FAULT", traceback.format_exc())


def work(names: queue.SimpleQueue[str], family: str, puppet: Puppet) -> None:
    """One case after the other, until there are none left; hands their transcripts over."""
    while not names.empty():
        name, script = names.get(), Script(family, puppet)
        performing = threading.Thread(target=perform, args=(name, script), daemon=True)
        performing.start()
        performing.join(CASE_SECONDS)
        if performing.is_alive():
            script.say("STUCK", f"for {CASE_SECONDS} s")
        lines = list(script.lines)
        script.end()
        puppet.call(0, "transcript", name, lines)


def main() -> None:
    family, *wanted = sys.argv[1:]
    puppet = Puppet(Connection(0, writable=False), Connection(1, readable=False))
    names: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in wanted or cases.CASES:
        names.put(name)
    workers = [threading.Thread(target=work, args=(names, family, puppet)) for _ in range(AT_ONCE)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    os._exit(0)  # threads that hang do not keep us


if __name__ == "__main__":
    main()
