# SPDX-License-Identifier: GPL-3.0-or-later
"""The contract of every kind of upstream, those of other packages too.

A kind is a class of `Upstream`, most often of `Proxy` (proxy.py) or `Filter` (filter.py).  Its `parse` reads
what the user wrote, in `avne run`; the object is made in the worker, where it opens connections and answers
questions. Both block, and are called on a negotiation thread; what they give back belongs to the worker's
loop. `Attempt` is how the loop gives up on one of them.  An upstream that can tell its protocol as a
`Negotiation` needs no thread for a connection: the loop does it (negotiations.py).
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, Protocol

from avne.errors import AvneError
from avne.ipc.messages import Capability, Code, ResolveKind
from avne.ipc.verdict import Verdict

if TYPE_CHECKING:
    from avne.upstream.spec import UpstreamSpec

Log = Callable[[str, str, dict[str, Any]], None]  # level, event, fields

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
    def has_asked(self) -> bool:
        """Whether `output` is the last, so that what is written behind it is the destination's."""
        return False

    def receive(self, data: bytes) -> int:
        """The next bytes; none at the end of file.  Gives how many are done with.  Raises `OpenError`."""
        raise NotImplementedError


class Reply(NamedTuple):
    """One row of a kind's table: what the far side says, and what the program's connect(2) makes of it."""

    said: str  # as its protocol writes it
    meaning: str
    verdict: Verdict


# What can come of any kind.
COMMON: Final[Mapping[int, Reply]] = {
    Code.UPSTREAM_DOWN: Reply("–", "the proxy cannot be reached, or died", Verdict.REFUSED),
    Code.UPSTREAM_TIMEOUT: Reply("–", "the proxy did not answer in time", Verdict.SILENCE),
    Code.UPSTREAM_AUTH: Reply("–", "the proxy refuses our user name and password", Verdict.PROHIBITED),
    Code.UPSTREAM_PROTOCOL: Reply("–", "the proxy does not speak its protocol", Verdict.REFUSED),
    Code.BAD_NAME: Reply("–", "a name that the protocol cannot carry", Verdict.HOST_UNREACHABLE),
    Code.BLOCKED: Reply("–", "a rule, a list or an option of yours refuses it", Verdict.PROHIBITED),
}


class Service(Protocol):
    """Who answers a connection inside the worker: an upstream that is its own destination.  Sans-IO."""

    done: bool  # nothing more is read; what was given out last is the end

    def receive(self, data: bytes) -> bytes:
        """The program's next bytes, none at its end; gives what to send."""


class Upstream:
    """A way out.  Subclasses fill in the attributes and methods."""

    kind: ClassVar[str]
    title: ClassVar[str] = ""  # of its table in docs/connect-truth.md
    form: ClassVar[str]  # how it is written
    replies: ClassVar[Mapping[int, Reply]] = {}
    leaves: ClassVar[bool] = False  # past every proxy: --allow-direct is needed
    carries: ClassVar[bool] = True  # a proxy may be reached over it
    capabilities: Capability = Capability(0)
    judges_names: bool = False  # `admit_name` refuses some
    rate: int = 0  # bytes in a second, each way, for all its connections together; 0: no bound

    def __init__(self, spec: UpstreamSpec, inner: Upstream | None = None) -> None:
        """`inner` is made of `spec.inner`: what this one wraps, or goes over.  Raises `AvneError`."""
        self.spec = spec
        self.inner = inner

    @classmethod
    def parse(cls, text: str, inner: UpstreamSpec | None) -> UpstreamSpec:
        """What stands behind ``KIND://`` (for a filter: ``KIND:``), over or around `inner`.

        Raises `AvneError`, which never repeats a password.
        """
        raise NotImplementedError

    @classmethod
    def bad(cls, problem: str) -> AvneError:
        return AvneError(problem, f"Write {cls.form}.")

    def begin(self, log: Log, about: Mapping[str, Any]) -> None:
        """Before anything is asked of it: `log` is the session's, `about` says what the session is."""
        if self.inner is not None:
            self.inner.begin(log, about)

    def check(self) -> None:
        """Whether the upstream is there and speaks its protocol.  Blocks; raises `OpenError`."""

    def verdict(self, code: int) -> Verdict:
        """What the program is told; a code that nobody has defined is a refusal."""
        reply = self.replies.get(code) or COMMON.get(code)
        return Verdict.REFUSED if reply is None else reply.verdict

    @property
    def prover(self) -> Upstream | None:
        """The one whose life proves an end, where the capability PROOF is given: `knock` is at its door."""
        return self if Capability.PROOF in self.capabilities else None

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

    def service(self, host: str, port: int) -> Service | None:
        """Who answers, where that is the upstream itself.  Raises `OpenError`."""
        return None

    def admit_name(self, name: str) -> None:
        """Raises `OpenError` (BLOCKED) where a name is not to be asked for, nor to be connected to."""

    def opened(self, host: str, port: int, error: OpenError | None) -> None:
        """An attempt has ended, by `error` or well."""

    def resolve(self, kind: ResolveKind, what: str, attempt: Attempt) -> Resolved:
        """Answer a question where the capability RESOLVE is given.  Raises `OpenError`."""
        raise OpenError(Code.COMMAND_NOT_SUPPORTED, "this upstream resolves nothing")

    def knock(self) -> socket.socket:
        """A non-blocking socket that connects to the upstream, where ends need proof or there are dialogues.

        Never blocks after `check` succeeded.  Raises `OSError`.
        """
        raise NotImplementedError
