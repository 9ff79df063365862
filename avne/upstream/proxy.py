# SPDX-License-Identifier: GPL-3.0-or-later
"""What all proxies share: an address, a connection to it, and the negotiation on it; chains, too.

A proxy is reached directly from this machine, or over another upstream (``… over tor``): then the first
negotiation asks that one for a connection to this proxy, and the second goes on in the same stream.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import ClassVar, Final

from avne.confine.rules import call, one_of
from avne.confine.runtime import NONBLOCKING, SENDTO
from avne.ipc.messages import Capability, Code
from avne.upstream import way
from avne.upstream.base import Attempt, Negotiation, OpenError, Upstream
from avne.upstream.spec import UpstreamSpec, parse_address, split_credentials

# And what makes the socket, which depends on where the proxy is (confinement.py).
SYSCALLS: Final = (
    "connect", SENDTO, "recvfrom", "shutdown", "close", "poll", "ppoll", NONBLOCKING,
    call("getsockopt", one_of(1, socket.SOL_SOCKET), one_of(2, socket.SO_ERROR)),
    call("setsockopt", one_of(1, socket.IPPROTO_TCP), one_of(2, socket.TCP_NODELAY)),
    call("setsockopt", one_of(1, socket.SOL_SOCKET), one_of(2, socket.SO_OOBINLINE)),
)  # fmt: skip

CONNECT_TIMEOUT: Final = 10.0  # to the proxy
CHECK_TIMEOUT: Final = 10.0
REPLY_TIMEOUT: Final = 130.0  # Tor gives up by itself after 127 s at most
PEEK: Final = 512  # bytes of a reply that are looked at together


class Proxy(Upstream):
    """A server that is asked for connections.  Subclasses give `negotiation`."""

    capabilities = Capability.HALF_CLOSE
    # Bytes of a user name or password; None: the protocol has none.
    credential_limit: ClassVar[int | None] = None
    password_needed: ClassVar[bool] = True
    inner: Upstream | None

    def __init__(self, spec: UpstreamSpec, inner: Upstream | None = None) -> None:
        super().__init__(spec, inner)
        self.prepare()
        if inner is not None:  # what the one below cannot do, nobody can
            carried = Capability.HALF_CLOSE & self.capabilities & inner.capabilities
            self.capabilities = carried | (inner.capabilities & Capability.PROOF)
            self.rate = inner.rate

    @classmethod
    def parse(cls, text: str, inner: UpstreamSpec | None) -> UpstreamSpec:
        username, password, place = split_credentials(cls, text)
        address = parse_address(cls, place)
        if inner is not None and isinstance(address, str):
            raise cls.bad("a unix socket of this machine cannot be reached over another upstream")
        return UpstreamSpec(cls.kind, address, username, password, inner=inner)

    @property
    def prover(self) -> Upstream | None:
        return super().prover if self.inner is None else self.inner.prover

    def prepare(self) -> None:
        """Load what negotiations need: nothing is loaded later, where the worker may open no file."""

    def negotiation(self, host: str, port: int) -> Negotiation:
        """What is said to the proxy.  Raises `OpenError` for what the protocol cannot carry."""
        raise NotImplementedError

    def greet(self, sock: socket.socket) -> None:
        """Whether it speaks the protocol, where that can be told without a request.  Raises `OpenError`."""

    def check(self) -> None:
        if self.inner is not None:
            self.inner.check()  # whether it leads to this one, the first connection will show
            return
        with connect(self.spec, CONNECT_TIMEOUT) as sock:
            sock.settimeout(CHECK_TIMEOUT)
            self.greet(sock)

    def dialogue(self, host: str, port: int) -> Negotiation | None:
        address = self.spec.address
        if self.inner is not None:
            assert isinstance(address, tuple)
            try:
                first = self.inner.dialogue(*address)
            except OpenError as error:
                raise beyond(error) from None
            return None if first is None else Chain(first, self.negotiation(host, port))
        # The name of a proxy is for a thread to look up.
        if isinstance(address, tuple) and not is_address(address[0]):
            return None
        return self.negotiation(host, port)

    def open(self, host: str, port: int, attempt: Attempt) -> socket.socket:
        return self.converse(self.negotiation(host, port), attempt)

    def converse(self, negotiation: Negotiation, attempt: Attempt) -> socket.socket:
        """The connection once `negotiation` is done.  Blocks; raises `OpenError`."""
        with contextlib.ExitStack() as stack:
            sock = stack.enter_context(self._reach(attempt))
            try:
                attempt.use(sock)
                sock.settimeout(REPLY_TIMEOUT)
                while not negotiation.done:
                    sock.sendall(negotiation.output)
                    sock.recv(negotiation.receive(sock.recv(PEEK, socket.MSG_PEEK)))
            except OSError as error:
                raise failed(error) from None
            finally:
                attempt.release()
            stack.pop_all()
        sock.setblocking(False)
        return sock

    def _reach(self, attempt: Attempt) -> socket.socket:
        """A connection to the proxy itself."""
        if self.inner is None:
            return connect(self.spec, CONNECT_TIMEOUT)
        inner, address = self.inner, self.spec.address
        assert isinstance(address, tuple)
        try:
            return inner.open(*address, attempt)
        except OpenError as error:
            raise beyond(error) from None

    def knock(self) -> socket.socket:
        if self.inner is not None:
            return self.inner.knock()
        address = self.spec.address
        if isinstance(address, str):
            return _connecting(socket.AF_UNIX, address)
        if is_address(address[0]):
            return _connecting(_family(address[0]), address)
        # A name was looked up by `check` a moment ago, or is in /etc/hosts.
        family, _, _, _, target = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
        return _connecting(family, target)


class Chain(Negotiation):
    """A negotiation that gives a connection to a proxy, then the one with that proxy.  Sans-IO."""

    __slots__ = ("_first", "_then")

    def __init__(self, first: Negotiation, then: Negotiation) -> None:
        self._first = first
        self._then = then
        self.output = first.output
        self.done = False
        if first.done:
            self.output += then.output

    def receive(self, data: bytes) -> int:
        if self._first.done:
            taken = self._then.receive(data)
            self.output = self._then.output
        else:
            try:
                taken = self._first.receive(data)
            except OpenError as error:
                raise beyond(error) from None
            self.output = self._first.output + (self._then.output if self._first.done else b"")
        self.done = self._first.done and self._then.done
        return taken


def beyond(error: OpenError) -> OpenError:
    """What the upstream below says of a proxy is no word of that proxy about the destination."""
    if error.code in (Code.UPSTREAM_TIMEOUT, Code.UPSTREAM_AUTH, Code.BLOCKED):
        return error
    return OpenError(Code.UPSTREAM_DOWN, f"the way to the proxy: {error.detail}")


def failed(error: OSError) -> OpenError:
    """What a broken connection to a proxy means."""
    if isinstance(error, TimeoutError):
        return OpenError(Code.UPSTREAM_TIMEOUT, "it did not answer in time")
    return OpenError(Code.UPSTREAM_DOWN, error.strerror or "failed")


def is_address(host: str) -> bool:
    """Whether `host` is an IP address, and no name."""
    return ":" in host or host.replace(".", "").isdigit()


def connect(spec: UpstreamSpec, timeout: float) -> socket.socket:
    """A connection to the proxy itself.  Raises `OpenError`."""
    try:
        if isinstance(spec.address, tuple):
            sock = _connect_tcp(spec.address, timeout)
            tune(sock)
            return sock
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout)
            way.connect(sock, spec.address)
        except BaseException:
            sock.close()
            raise
        return sock
    except OSError as error:
        raise OpenError(Code.UPSTREAM_DOWN, failed(error).detail) from None


def tune(sock: socket.socket) -> None:
    """A program's writes are passed on as they come, and urgent data in its place (RFC 6093 §5)."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)


def _connect_tcp(address: tuple[str, int], timeout: float) -> socket.socket:
    if not is_address(address[0]):
        return socket.create_connection(address, timeout)
    # Without the getaddrinfo(3) of each connection, for which a worker that locks itself in has no files.
    sock = socket.socket(_family(address[0]))
    try:
        sock.settimeout(timeout)
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _connecting(family: int, target: str | tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        if isinstance(target, str):
            way.connect(sock, target)
        else:
            tune(sock)
            sock.connect(target)
    except OSError as error:
        if error.errno != errno.EINPROGRESS:  # EAGAIN is a unix socket's full backlog
            sock.close()
            raise
    return sock
