# SPDX-License-Identifier: GPL-3.0-or-later
"""The environment's TCP sockets, as its own kernel knows them: sock_diag(7), by pyroute2's message classes.

The socket was made inside by the environment's init, and keeps that network for good.  A connection
is a ``key``: address of the program's end, address of the other end, the two ports; bytes as in its packets.
Nothing here is on the way of a packet.  pyroute2 takes 0.2 s to load, and 23 MB for good: who needs a list
once in a while lets another process make it (`main`).
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from struct import Struct
from typing import Any, Final

import msgpack

from avne.errors import AvneError
from avne.spawn import child_environment, python, spawn

_BY_FAMILY: Final = 20  # SOCK_DIAG_BY_FAMILY, <linux/sock_diag.h>
_REQUEST, _DUMP = 0x1, 0x300  # NLM_F_…
_ERROR, _DONE = 2, 3  # NLMSG_…
_HEADER: Final = Struct("=IHHII")  # struct nlmsghdr: length type flags sequence port
_NO_COOKIE: Final = 0xFFFFFFFFFFFFFFFF
# Bits by TCP's states: ESTABLISHED, FIN-WAIT-1 and -2, CLOSE-WAIT.  The others ask again, or have ended.
_WAITING: Final = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8
_MAPPED: Final = bytes(10) + b"\xff\xff"  # an IPv4 connection of an IPv6 socket (RFC 4291 §2.5.5.2)
_ANSWER: Final = 64 << 10
_BOUND: Final = 2  # seconds for an answer, which the kernel has at once

_LINE_FD: Final = 3

_FAMILIES: Final = {4: socket.AF_INET, 16: socket.AF_INET6}


class Sockets:
    """`diag`: the descriptor that came with the tun, ours to close, or -1.

    Whoever asks then gets an `AvneError`, as for whatever the kernel refuses.
    """

    def __init__(self, diag: int) -> None:
        self._line = socket.socket(fileno=diag) if diag >= 0 else None
        if self._line:
            seconds = Struct("@ll").pack(_BOUND, 0)
            self._line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, seconds)

    def close(self) -> None:
        if self._line:
            self._line.close()

    def waiting(self) -> list[bytes]:
        """The keys of all connections that may wait for bytes from the other end.  Raises `AvneError`.

        By a process that ends with that: the memory of it is not ours.
        """
        if self._line is None:
            raise _refused("it gave no socket for that")
        reading, writing = os.pipe2(os.O_CLOEXEC)
        with open(reading, "rb") as answers:
            try:
                words = python("avne.cli.connections", str(_LINE_FD))
                fds = {0: writing, 1: writing, 2: writing, _LINE_FD: self._line.fileno()}
                pid = spawn(words, fds, child_environment(), session=True)
            except OSError as error:
                raise _refused(error.strerror or "no process") from error
            finally:
                os.close(writing)
            data = answers.read()
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
            raise _refused(data.decode("utf-8", "replace").strip().rpartition("\n")[2])
        keys: list[bytes] = msgpack.unpackb(data)
        return keys

    def list_waiting(self) -> list[bytes]:
        """`waiting`, in this process."""
        return [
            _key(found)
            for family in _FAMILIES.values()
            for found in self._ask(_DUMP, sdiag_family=family, idiag_states=_WAITING)
        ]

    def inode(self, key: bytes) -> int:
        """The number of the socket that has this connection, also while it connects; 0 for none.

        Raises `AvneError`.
        """
        size = (len(key) - 4) // 2
        found = self._ask(
            0,
            sdiag_family=_FAMILIES[size],
            idiag_states=0xFFFFFFFF,
            idiag_src=_words(key[:size]),
            idiag_dst=_words(key[size : 2 * size]),
            idiag_sport=int.from_bytes(key[-4:-2], "big"),
            idiag_dport=int.from_bytes(key[-2:], "big"),
            idiag_cookie=_NO_COOKIE,
        )
        return next((int(answer["idiag_inode"]) for answer in found), 0)

    def _ask(self, flags: int, **fields: Any) -> Iterator[Any]:
        """The answers: pyroute2's `inet_diag_msg`."""
        from pyroute2.netlink.diag import inet_diag_msg, inet_diag_req

        if self._line is None:
            raise _refused("it gave no socket for that")
        request = inet_diag_req()
        request["header"] |= {"type": _BY_FAMILY, "flags": _REQUEST | flags}
        for name, value in {"idiag_src": 0, "idiag_dst": 0, **fields}.items():
            request[name] = value
        request["sdiag_protocol"] = socket.IPPROTO_TCP
        request.encode()
        try:
            self._line.send(request.data)
            while True:
                data = self._line.recv(_ANSWER)
                at = 0
                while at + _HEADER.size <= len(data):
                    length, kind, *_ = _HEADER.unpack_from(data, at)
                    if kind == _DONE:
                        return
                    if kind == _ERROR:
                        error = -int.from_bytes(data[at + 16 : at + 20], "little", signed=True)
                        raise OSError(error, os.strerror(error))
                    answer = inet_diag_msg(data[at : at + length])
                    answer.decode()
                    yield answer
                    at += length + 3 & ~3
                if not flags:
                    return
        except FileNotFoundError:
            return  # there is no such socket
        except OSError as error:
            raise _refused(error.strerror or "no answer") from error


def _refused(why: str) -> AvneError:
    return AvneError(
        f"the environment's kernel does not tell whose connections there are: {why}",
        "It takes a kernel with CONFIG_INET_DIAG (modprobe tcp_diag); without it use another --isolate.",
    )


def _words(address: bytes) -> tuple[int, ...]:
    padded = address.ljust(16, b"\0")
    return tuple(int.from_bytes(padded[at : at + 4], "big") for at in range(0, 16, 4))


def _key(found: Any) -> bytes:
    family = found["idiag_family"]
    ends = [socket.inet_pton(family, found[name]) for name in ("idiag_src", "idiag_dst")]
    if all(end.startswith(_MAPPED) for end in ends):
        ends = [end[len(_MAPPED) :] for end in ends]
    ports = (found[name].to_bytes(2, "big") for name in ("idiag_sport", "idiag_dport"))
    return b"".join((*ends, *ports))


def main() -> None:
    """Entry point: the descriptor of a sock_diag socket.  Writes the list, or why there is none."""
    try:
        answer = msgpack.packb(Sockets(int(sys.argv[1])).list_waiting())
    except AvneError as error:
        sys.exit(error.problem)
    sys.stdout.buffer.write(answer)
