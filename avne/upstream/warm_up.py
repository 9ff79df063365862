# SPDX-License-Identifier: GPL-3.0-or-later
"""What a worker says to a proxy, before there is one: so that nothing is imported later."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable

import socks  # noqa: F401 (replay.py would load it when it is first used, where there are no files any more)

from avne.confine import runtime
from avne.ipc.messages import Code
from avne.upstream.base import OpenError, Upstream
from avne.upstream.failure import explain
from avne.upstream.socks5 import COMMAND_CONNECT, Dialogue
from avne.upstream.spec import UpstreamSpec

_SPEC = UpstreamSpec("tor", ("192.0.2.1", 9050), "name", "password")
_HOSTS = "192.0.2.1", "2001:db8::1", "example.org"
_REPLIES = b"\x05\x02", b"\x01\x00", b"\x05\x00\x00\x01\xc0\x00\x02\x01\x00\x50"


def rehearse(upstreams: Iterable[Upstream]) -> None:
    """While there are files: what each of them needs to begin, a codec for names for one, is a module."""
    for upstream in upstreams:
        for host in _HOSTS:
            with contextlib.suppress(OpenError):
                upstream.dialogue(host, 80)


def warm_up() -> None:
    """Once, when everything is imported."""
    for host in _HOSTS:
        _negotiate(host, _REPLIES)
        _negotiate(host, (*_REPLIES[:2], b"\x05\x05\x00\x01" + bytes(6)))
    _negotiate("example.org", (b"\x04\x04",))
    explain(_SPEC, OpenError(Code.UPSTREAM_DOWN, "down"))
    thread = threading.Thread(target=bytes)
    thread.start()  # the first one installs a signal's handler (glibc), which is for no filter
    thread.join()
    runtime.rehearse_fault()


def _negotiate(host: str, replies: tuple[bytes, ...]) -> None:
    dialogue = Dialogue(_SPEC, COMMAND_CONNECT, host, 80)
    try:
        for reply in replies:
            dialogue.receive(reply)
    except OpenError:
        pass
