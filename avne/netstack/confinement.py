# SPDX-License-Identifier: GPL-3.0-or-later
"""What the netstack's process may do: the system calls that its modules declare, and no others."""

from __future__ import annotations

from avne.confine import rules, runtime
from avne.ipc import control, lane, streams
from avne.netstack import lines, link

SYSCALLS = ("epoll_wait", "epoll_pwait", "epoll_ctl")  # of process.py
ROUTER_THREADS = 2  # of ZeroMQ: one for its sockets, one that buries them


def policy(router: bool, captures: bool) -> rules.Policy:
    """With ZeroMQ's threads for workers elsewhere, and with a file to write."""
    modules = [
        runtime.SYSCALLS,
        control.SYSCALLS,
        lane.SYSCALLS,
        streams.SYSCALLS,
        lines.SYSCALLS,
        link.SYSCALLS,
    ]
    if router:
        from avne.ipc import channel

        modules.append(channel.SYSCALLS)
    if captures:
        from avne.netstack import capture

        modules.append(capture.SYSCALLS)
    name = "netstack with workers elsewhere" if router else "netstack"
    return rules.gather(name, [*modules, SYSCALLS], runtime.REFUSED)
