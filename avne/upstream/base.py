# SPDX-License-Identifier: GPL-3.0-or-later
"""What every upstream offers the worker.

An upstream opens connections and answers questions.  Both block, and are called on a
negotiation thread; what they give back belongs to the worker's loop.  `Attempt` is how the
loop gives up on one of them.  An upstream that can tell its protocol as a `Negotiation` needs no
thread for a connection: the loop does it (negotiations.py).
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import NamedTuple

from avne.ipc.messages import Capability, Code, ResolveKind

MAX_DETAIL = 200  # characters of REFUSED's detail


class OpenError(Exception):
    """An upstream refused or failed: `code` of `messages.Code` or any SOCKS reply 0–255.

    `detail` is a short text for the log; it never contains a destination's name.
    """

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(detail)
        self.code = int(code)
        self.detail = detail[:MAX_DETAIL]


class Resolved(NamedTuple):
    answers: list[str]  # addresses, or one name
    ttl: int  # seconds


class Attempt:
    """One open or resolve under way, which the loop may cancel from its own thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sock: socket.socket | None = None
        self.cancelled = False

    def use(self, sock: socket.socket) -> None:
        """The attempt waits on `sock` from here on.  Raises `OpenError` once cancelled."""
        with self._lock:
            if self.cancelled:
                raise OpenError(Code.UPSTREAM_TIMEOUT, "given up")
            self._sock = sock

    def release(self) -> None:
        """The attempt does not touch its socket any more."""
        with self._lock:
            self._sock = None

    def cancel(self) -> None:
        """Wake the thread that waits: its socket reads end of file."""
        with self._lock:
            self.cancelled = True
            if self._sock is not None:
                with contextlib.suppress(OSError):
                    self._sock.shutdown(socket.SHUT_RDWR)


class Negotiation:
    """What is said on a connection to the proxy until it is one to the destination.  Sans-IO.

    Send `output`, then give what comes to `receive`, which says how much of it it has taken: the rest is the
    destination's; until `done`.
    """

    __slots__ = ("done", "output")
    output: bytes
    done: bool

    @property
    def asked(self) -> bool:
        """Whether `output` names the destination: what was said before is the same for every other."""
        return False

    def receive(self, data: bytes) -> int:
        """The next bytes; none at the end of file.  Gives how many are done with.  Raises `OpenError`."""
        raise NotImplementedError


class Upstream:
    """A way out.  Subclasses fill in the attributes and methods."""

    kind: str
    capabilities: Capability

    def check(self) -> None:
        """Whether the upstream is there and speaks its protocol.  Blocks; raises `OpenError`."""
        raise NotImplementedError

    def open(self, host: str, port: int, attempt: Attempt) -> socket.socket:
        """A connected, non-blocking socket to `host` (an address, or a name that only the far end resolves).

        Every byte that the destination sent can still be read from it.  Raises `OpenError`.
        """
        raise NotImplementedError

    def dialogue(self, host: str, port: int) -> Negotiation | None:
        """What `open` says, for a connection that `knock` gives; None where only `open` can.

        Raises `OpenError` for what the protocol cannot carry.
        """
        return None

    def resolve(self, kind: ResolveKind, what: str, attempt: Attempt) -> Resolved:
        """Answer a question where the capability RESOLVE is given.  Raises `OpenError`."""
        raise OpenError(Code.COMMAND_NOT_SUPPORTED, "this upstream resolves nothing")

    def knock(self) -> socket.socket:
        """A non-blocking socket that connects to the upstream, where ends need proof or there are dialogues.

        Never blocks after `check` succeeded.  Raises `OSError`.
        """
        raise NotImplementedError
