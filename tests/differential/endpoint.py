# SPDX-License-Identifier: GPL-3.0-or-later
"""A socket whose every operation gives a line of what it observed.  Both sides of a case use it.

Arguments are plain text and bytes, so that a script reads like its transcript: ``send(b"x", "OOB")``,
``shutdown("WR")``, ``wait("IN|RDHUP")``.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import fcntl
import hashlib
import os
import select
import socket
import struct
import tempfile
import termios
import time
from collections.abc import Callable

from tests.differential.words import HOW, STATES, event_mask, events, message_flags, outcome, stream

PATIENCE = 8.0  # seconds for what must come; what does not has its own, shorter wait
BLOCKED = 0.3  # seconds without room: then a sender counts as stalled
SETTLING = 0.005  # seconds between the first sign of an event and the look at all of them
_SIOCOUTQ = termios.TIOCOUTQ
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_LEVELS = (
    ("SO_", socket.SOL_SOCKET),
    ("TCP_", socket.IPPROTO_TCP),
    ("IP_", socket.IPPROTO_IP),
    ("IPV6_", socket.IPPROTO_IPV6),
)
_MORE_NAMES = {
    "TCP_FASTOPEN_CONNECT": 30, "TCP_ULP": 31, "SO_ZEROCOPY": 60, "TCP_INQ": 36,
    "IP_RECVERR": 11, "IPV6_RECVERR": 25, "SO_PEEK_OFF": 42,
}  # fmt: skip
_libc = ctypes.CDLL(None, use_errno=True)


def option_number(name: str) -> tuple[int, int]:
    level = next(level for prefix, level in _LEVELS if name.startswith(prefix))
    return level, _MORE_NAMES[name] if name in _MORE_NAMES else getattr(socket, name)


class Endpoint:
    """Verbs that fail give the errno's name; none raises an OSError."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sent = self.received = 0  # bytes of `words.stream`, by the verbs that say so

    # ---- connecting ---------------------------------------------------------------------------

    def connect(self, host: str, port: int) -> str:
        return outcome(lambda: self.sock.connect((host, port)) or "connected")

    def connect_unspec(self) -> str:
        """connect(2) with AF_UNSPEC dissolves the association."""
        if _libc.connect(self.sock.fileno(), bytes(16), 16) == 0:
            return "dissolved"
        return os.strerror(ctypes.get_errno())

    def bind(self, host: str, port: int) -> str:
        return outcome(lambda: self.sock.bind((host, port)))

    def nonblocking(self) -> str:
        return outcome(lambda: self.sock.setblocking(False))

    def blocking(self) -> str:
        return outcome(lambda: self.sock.setblocking(True))

    def peer(self) -> str:
        return outcome(lambda: "a peer" if self.sock.getpeername() else "")

    # ---- sending ------------------------------------------------------------------------------

    def send(self, data: bytes, flags: str = "") -> str:
        return outcome(lambda: self.sock.send(data, message_flags(flags)))

    def send_all(self, data: bytes) -> str:
        return outcome(lambda: self.sock.sendall(data) or f"all {len(data)}")

    def send_each(self, data: bytes) -> str:
        """One write for each byte."""
        return outcome(lambda: sum(self.sock.send(data[at : at + 1]) for at in range(len(data))))

    def send_vector(self, *parts: bytes) -> str:
        return outcome(lambda: self.sock.sendmsg(parts))

    def send_file(self, size: int) -> str:
        """sendfile(2) of `words.stream`."""

        def send() -> str:
            with tempfile.TemporaryFile() as file:
                file.write(stream(size))
                file.flush()
                sent = 0
                while sent < size:
                    sent += os.sendfile(self.sock.fileno(), file.fileno(), sent, size - sent)
            return f"all {sent}"

        return outcome(send)

    def send_stream(self, size: int) -> str:
        """The next `size` bytes of `words.stream`, blocking."""

        def send() -> str:
            self.sock.sendall(stream(size, self.sent))
            self.sent += size
            return f"all {size}"

        return outcome(send)

    def send_until_stalled(self) -> str:
        """`words.stream` until there has been no room for a while; how much goes in is not told."""
        self.sock.setblocking(False)
        chunk = stream(65536 + 251)
        poller = select.poll()
        poller.register(self.sock, select.POLLOUT)

        def send() -> str:
            while self.sent < 64 << 20:
                try:
                    at = self.sent % 251
                    self.sent += self.sock.send(chunk[at : at + 65536])
                except BlockingIOError:
                    if not poller.poll(BLOCKED * 1000):
                        return "stalled"
            return "never stalled"

        result = outcome(send)
        self.sock.setblocking(True)
        return result

    # ---- receiving ----------------------------------------------------------------------------

    def recv(self, size: int, flags: str = "") -> str:
        return outcome(lambda: self.sock.recv(size, message_flags(flags)))

    def recv_exactly(self, size: int) -> str:
        """As many calls as it takes; what had come before an end or an error is told with it."""
        return self._receive(lambda left: left, size)

    def recv_to_end(self, each: int = 65536) -> str:
        return self._receive(lambda _left: each, 1 << 40)

    def _receive(self, ask: Callable[[int], int], size: int) -> str:
        got, digest, head = 0, hashlib.sha256(), b""
        how = ""
        while got < size:
            try:
                data = self.sock.recv(ask(size - got))
            except OSError:
                how = outcome(lambda: self._raise_again())
                break
            if not data:
                how = "end"
                break
            got += len(data)
            digest.update(data)
            head = (head + data)[:41]
        text = repr(head) if got <= 40 else f"{got} bytes {digest.hexdigest()[:8]}"
        return f"{text}, then {how}" if how else text

    @staticmethod
    def _raise_again() -> str:
        raise  # the error that is being handled

    def recv_stream_to_end(self) -> str:
        """Whether all that came continues `words.stream`, and how it ended; not how much it was."""
        good, how = True, "end"
        try:
            while data := self.sock.recv(1 << 18):
                good = good and data == stream(len(data), self.received)
                self.received += len(data)
        except OSError:
            how = outcome(self._raise_again)
        return f"{'in order' if good else 'CORRUPT'}, then {how}"

    def recv_vector(self, *sizes: int) -> str:
        def receive() -> str:
            buffers = [bytearray(size) for size in sizes]
            size, *_ = self.sock.recvmsg_into(buffers)
            return f"{size}: {[bytes(buffer) for buffer in buffers]}"

        return outcome(receive)

    def splice_to_end(self) -> str:
        """splice(2) through a pipe."""

        def move() -> bytes:
            read_end, write_end = os.pipe()
            data = bytearray()
            with contextlib.ExitStack() as stack:
                stack.callback(os.close, read_end)
                stack.callback(os.close, write_end)
                while size := os.splice(self.sock.fileno(), write_end, 16384):
                    data += os.read(read_end, size)
            return bytes(data)

        return outcome(move)

    def error_queue(self) -> str:
        """MSG_ERRQUEUE: errno, origin, ICMP type and code (struct sock_extended_err)."""

        def receive() -> str:
            _, ancillary, *_ = self.sock.recvmsg(512, 512, socket.MSG_ERRQUEUE)
            number, origin, kind, code = struct.unpack_from("=IBBB", ancillary[0][2])
            return f"{os.strerror(number)}, origin {origin}, type {kind}, code {code}"

        return outcome(receive)

    # ---- ends ---------------------------------------------------------------------------------

    def shutdown(self, how: str) -> str:
        return outcome(lambda: self.sock.shutdown(HOW[how]))

    def close(self) -> str:
        return outcome(self.sock.close)

    def linger(self, on: int, seconds: int) -> str:
        value = struct.pack("ii", on, seconds)
        return outcome(lambda: self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, value))

    def reset(self) -> str:
        """SO_LINGER 0 and close: RST."""
        self.linger(1, 0)
        return self.close()

    # ---- waiting and looking ------------------------------------------------------------------

    def poll(self) -> str:
        """The events of this moment."""
        return events(self._mask(0))

    def _mask(self, milliseconds: float) -> int:
        poller = select.poll()
        poller.register(self.sock, event_mask("IN|PRI|OUT|RDHUP"))
        found = poller.poll(milliseconds)
        return found[0][1] if found else 0

    def wait(self, wanted: str) -> str:
        """Until each of these events is there; then all that are there.

        The kernel takes its steps one by one: a poll(2) on another processor can see a reset half done.
        """
        need, deadline = event_mask(wanted), time.monotonic() + PATIENCE
        with select.epoll() as epoll:
            epoll.register(self.sock, event_mask("IN|PRI|OUT|RDHUP") | select.EPOLLET)
            while (mask := self._mask(0)) & need != need:
                if not epoll.poll(max(0.0, deadline - time.monotonic())) and time.monotonic() > deadline:
                    return f"nothing more than {events(mask)}"
        time.sleep(SETTLING)
        return events(self._mask(0))

    def quiet(self, wanted: str, seconds: float = 0.15) -> str:
        """Whether none of these events comes within `seconds`."""
        poller = select.poll()
        poller.register(self.sock, event_mask(wanted))
        found = poller.poll(seconds * 1000)
        return events(found[0][1]) if found else "quiet"

    def get(self, name: str) -> str:
        """An integer option; SO_ERROR as the errno's name."""
        number = outcome(lambda: self.sock.getsockopt(*option_number(name)))
        if name == "SO_ERROR" and number.isdigit():
            return outcome(lambda: self._raise(int(number)))
        return number

    @staticmethod
    def _raise(number: int) -> str:
        if number:
            raise OSError(number, "")
        return "none"

    def set(self, name: str, value: int) -> str:
        return outcome(lambda: self.sock.setsockopt(*option_number(name), value))

    def set_time(self, name: str, seconds: float) -> str:
        """SO_RCVTIMEO or SO_SNDTIMEO."""
        value = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
        return outcome(lambda: self.sock.setsockopt(*option_number(name), value))

    def state(self) -> str:
        """The state of the connection, from TCP_INFO."""
        return outcome(lambda: STATES[self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]])

    def wait_state(self, wanted: str) -> str:
        return self._until(self.state, wanted)

    def negotiated(self) -> str:
        """The options of both SYNs, from TCP_INFO's tcpi_options."""
        flags = self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[5]
        names = ("timestamps", "SACK", "window scale", "ECN")
        return ", ".join(name for bit, name in enumerate(names) if flags >> bit & 1)

    def unread(self) -> str:
        """SIOCINQ."""
        return self._queue(termios.FIONREAD)

    def wait_unread(self, size: int) -> str:
        return self._until(self.unread, str(size))

    def unsent(self) -> str:
        """SIOCOUTQ: bytes that the peer's TCP has not acknowledged."""
        return self._queue(_SIOCOUTQ)

    def wait_unsent(self, size: int) -> str:
        return self._until(self.unsent, str(size))

    def _queue(self, request: int) -> str:
        buffer = array.array("i", [0])
        return outcome(lambda: fcntl.ioctl(self.sock, request, buffer) or buffer[0])

    def at_mark(self) -> str:
        """SIOCATMARK."""
        return self._queue(0x8905)

    @staticmethod
    def _until(look: Callable[[], str], wanted: str) -> str:
        """The kernel gives no event for these: look again until it is so."""
        deadline = time.monotonic() + PATIENCE
        while (found := look()) != wanted and time.monotonic() < deadline:
            time.sleep(0.001)
        return found

    # ---- a network that loses everything ------------------------------------------------------

    def drop_all(self) -> str:
        """From now on no segment reaches this socket: a socket filter that keeps 0 bytes of each."""
        drop = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF_RET 0
        program = struct.pack("HxxxxxxP", 1, ctypes.addressof(drop))
        return outcome(lambda: self.sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program))

    def drop_none(self) -> str:
        return outcome(lambda: self.sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0))
