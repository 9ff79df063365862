# SPDX-License-Identifier: GPL-3.0-or-later
"""System calls that Python 3.11 does not offer: setns(2), and a tun device."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import struct
from collections.abc import Iterator

CLONE_NEWNET = 0x40000000
PR_SET_CHILD_SUBREAPER = 36
_TUNSETIFF = 0x400454CA
_IFF_TUN_NO_PI = 0x1001

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def become_subreaper() -> None:
    """Orphans among our descendants become our children (prctl(2))."""
    _check(_libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


@contextlib.contextmanager
def network_of(namespace: int) -> Iterator[None]:
    """This thread is in the network namespace of the open file `namespace`: sockets made stay there."""
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(namespace, CLONE_NEWNET))
        yield
    finally:
        _check(_libc.setns(here, CLONE_NEWNET))
        os.close(here)


@contextlib.contextmanager
def fresh_network() -> Iterator[None]:
    """This thread is in a new, empty network namespace."""
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.unshare(CLONE_NEWNET))
        yield
    finally:
        _check(_libc.setns(here, CLONE_NEWNET))
        os.close(here)


def open_tun(name: str) -> int:
    """A tun device in this network namespace; it lives as long as the descriptor."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN_NO_PI))
    return fd
