# SPDX-License-Identifier: GPL-3.0-or-later
"""No proxy at all: the worker connects by itself, with this machine's address, and asks its resolver for
names.

A leak that the user chose: nothing is of this kind unless they name it, and give --allow-direct as well.
What stays out of reach is this machine itself: the services that listen on its own addresses trust whoever
can connect.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import ClassVar, Final

from avne.ipc.messages import Capability, Code
from avne.ipc.verdict import Verdict
from avne.upstream.base import Attempt, OpenError, Reply, Upstream
from avne.upstream.proxy import tune
from avne.upstream.spec import UpstreamSpec

ERRNO_BASE: Final = 0x200  # of `Code`
TIMEOUT: Final = 130.0  # Linux gives up after 127 s (tcp_syn_retries(7))


def _row(number: int, verdict: Verdict) -> tuple[int, Reply]:
    return ERRNO_BASE + number, Reply(errno.errorcode[number], os.strerror(number).lower(), verdict)


class Direct(Upstream):
    """The host's own network."""

    kind = "direct"
    title = "No proxy (`direct`)"
    form = "direct"
    carries = False
    leaves = True
    capabilities = Capability.HALF_CLOSE
    replies: ClassVar = dict(
        (
            _row(errno.ECONNREFUSED, Verdict.REFUSED),
            _row(errno.ECONNRESET, Verdict.REFUSED),
            _row(errno.ENETUNREACH, Verdict.NETWORK_UNREACHABLE),
            _row(errno.EADDRNOTAVAIL, Verdict.NETWORK_UNREACHABLE),
            _row(errno.EHOSTUNREACH, Verdict.HOST_UNREACHABLE),
            _row(errno.ETIMEDOUT, Verdict.SILENCE),
            _row(errno.EACCES, Verdict.PROHIBITED),
            _row(errno.EPERM, Verdict.PROHIBITED),
            (Code.HOST_UNREACHABLE, Reply("–", "the name is not known", Verdict.HOST_UNREACHABLE)),
        )
    )

    @classmethod
    def parse(cls, text: str, inner: UpstreamSpec | None) -> UpstreamSpec:
        if text:
            raise cls.bad("direct takes no address")
        return UpstreamSpec(cls.kind)

    def open(self, host: str, port: int, attempt: Attempt) -> socket.socket:
        if host.rstrip(".").lower().endswith(".onion"):
            raise OpenError(Code.BLOCKED, "an onion name is for Tor only")  # RFC 7686 §2
        error = OpenError(Code.HOST_UNREACHABLE, "the name is not known")
        for family, address in _look_up(host, port):
            try:
                return _connect(family, address, attempt)
            except OpenError as refused:
                error = refused
        raise error


def _look_up(host: str, port: int) -> list[tuple[int, tuple[object, ...]]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError):
        return []
    return [(row[0], row[4]) for row in found]


def _connect(family: int, address: tuple[object, ...], attempt: Attempt) -> socket.socket:
    if _is_ours(family, address):
        raise OpenError(Code.BLOCKED, "an address of this machine itself")
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        try:
            attempt.use(sock)
            tune(sock)
            sock.settimeout(TIMEOUT)
            sock.connect(address)
        except TimeoutError:
            raise OpenError(ERRNO_BASE + errno.ETIMEDOUT, "timed out") from None
        except OSError as error:
            number = error.errno or errno.EIO
            raise OpenError(ERRNO_BASE + number, os.strerror(number).lower()) from None
        finally:
            attempt.release()
        stack.pop_all()
    sock.setblocking(False)
    return sock


def _is_ours(family: int, address: tuple[object, ...]) -> bool:
    """Whether it is this machine's own: then the kernel would send from there.  No packet is sent."""
    host = str(address[0])
    if host.startswith(("127.", "::ffff:127.")) or host in ("0.0.0.0", "::", "::1", "::ffff:0.0.0.0"):
        return True
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(address)
        except OSError:
            return False  # nothing leads there: the attempt will tell
        return bool(probe.getsockname()[0] == host)
