# SPDX-License-Identifier: GPL-3.0-or-later
"""What stays behind: a daemon that outlives the run."""

from __future__ import annotations

import os
import time

from avne.probes.probe import Finding, Plan, register, sent

probe = register("life cycle")


@probe("L61", "a daemon left behind when the program ends", ear=True)
def orphan(plan: Plan) -> Finding:
    """It writes its word to a file of the stage's once the run is over; it ends by itself within 10 s."""
    path = f"{plan['directories']['home']}/orphan"
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        os.closerange(fd + 1, 1024)
        for _ in range(500):
            if os.path.exists(f"{path}-over"):  # the stage has seen the run's end
                os.write(fd, plan.token.encode())
                break
            if not os.path.exists(path):
                break
            time.sleep(0.02)
        os._exit(0)
    return sent()
