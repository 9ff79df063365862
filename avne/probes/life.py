# SPDX-License-Identifier: GPL-3.0-or-later
"""What stays behind: a daemon that outlives the run, its namespace, what others run later."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import Final

from avne.probes.probe import SENT, Finding, Plan, register, sent

probe = register("life cycle")

_LOOKED_AT: Final = 0.4  # s; the stage looks some times meanwhile


@probe("L61", "a daemon left behind when the program ends", ear=True, start="the environment goes on")
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


@probe(
    "L55",
    "a file in the home directory that something outside runs later",
    ear=True,
    limit="--private-home",
)
def deferred(plan: Plan) -> Finding:
    """As ~/.bashrc, an autostart entry, a unit or a hook of git is; the stage looks at it after the run."""
    path = f"{plan['directories']['home']}/deferred"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o700)
    os.write(fd, f"#!/bin/sh\necho {plan.token}\n".encode())
    os.close(fd)
    return sent()


@probe(
    "L62",
    "the network namespace is kept when all is over",
    ear=True,
    start="the environment goes on",
)
def namespace_left(plan: Plan) -> Finding:
    """The stage looks for it among processes and mounts once the run is over."""
    return Finding(SENT, str(os.stat("/proc/self/ns/net").st_ino))


@probe("L66", "avne's own processes open connections of the host", ear=True, watched=True)
def direct_dial(plan: Plan) -> Finding:
    """The stage looks at the sockets of all that belongs to the run, meanwhile."""
    families = [(socket.AF_INET, "127.0.0.1", plan["ports"]["tcp4"])]
    if os.stat("/proc/self/ns/net").st_ino != plan["netns"]:  # outside, that would be a packet
        families.append((socket.AF_INET, "192.0.2.1", 80))
    with contextlib.ExitStack() as stack:
        for family, host, port in families:
            sock = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            sock.setblocking(False)
            sock.connect_ex((host, port))
        time.sleep(_LOOKED_AT)
    return sent()
