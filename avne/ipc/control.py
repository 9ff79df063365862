# SPDX-License-Identifier: GPL-3.0-or-later
"""The supervisor's line to a child: msgpack arrays over a SOCK_SEQPACKET pair, with file descriptors.

Each message is ``[verb, argument …]``; a packet is a message, so a half message cannot be.
The verbs::

    supervisor → netstack   config {…} (+ listening socket, if there is an endpoint; + capture's file)
                            tun MISSING (+ fd)
                            lane IDENTITY (+ fd) · gone IDENTITY · leave IDENTITY · workers · drain
                            orphans KEY … · theirs NUMBER OWNER · newnym EPOCH
                            inbound PORT (+ a connected socket)
    netstack → supervisor   ready · worker IDENTITY KIND · owing COUNT · drained {counters} {account}
                            workers [[IDENTITY, KIND, FLOWS, LEAVING] …]
                            capture-ended ERRNO · whose NUMBER KEY · inbound TAKEN ENDED
                            log LEVEL EVENT {…}
    supervisor → worker     config {…} (+ the lane's fd, if there is no endpoint)
                            socket PATH (+ fd of the proxy's, if it is there) · leave
    worker → supervisor     ready · failed PROBLEM CURE · reopen PATH · lost WHY · log LEVEL EVENT {…}

A KEY is a connection of the program's (cli/connections.py), NUMBER that of a question (netstack/owners.py),
to which OWNER is the answer.  MISSING is 0 for a tun, else the descriptor is a packet socket
(netstack/link.py).  PORT is the program's; TAKEN and ENDED are how many sockets have come, and are no more.

End of file in either direction means that the other process is gone, and ends this one.  A peer that sends
something else than such messages is treated as gone.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
from typing import Any

import msgpack

from avne.confine.runtime import SENDMSG

SYSCALLS = (SENDMSG, "recvmsg", "close")
MAX_MESSAGE = 65536
MAX_FDS = 4


class Control:
    """One end of the line.  Non-blocking unless `wait` is asked for."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    @classmethod
    def pair(cls) -> tuple[Control, socket.socket]:
        """Our end, and the raw socket whose descriptor the child inherits."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), theirs

    @classmethod
    def from_fd(cls, fd: int) -> Control:
        return cls(socket.socket(fileno=fd))

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def send(self, *message: Any, fds: tuple[int, ...] = (), wait: bool = True) -> None:
        """Send one message; a peer that is gone is found out by its end of file, not here.

        Raises BlockingIOError when `wait` is false and the line has no room.
        """
        data = msgpack.packb(message)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._sock.sendmsg([data], rights, socket.MSG_NOSIGNAL | (0 if wait else socket.MSG_DONTWAIT))

    def receive(self, wait: bool = False) -> tuple[list[Any], list[int]] | None:
        """The next message and its descriptors; an empty message ``[]`` at end of file, or for garbage.

        None when `wait` is false and nothing is there.
        """
        fds = array.array("i")
        room = socket.CMSG_SPACE(MAX_FDS * fds.itemsize)
        flags = socket.MSG_CMSG_CLOEXEC | (0 if wait else socket.MSG_DONTWAIT)
        try:
            data, ancillary, _, _ = self._sock.recvmsg(MAX_MESSAGE, room, flags)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            return [], []
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
        message = _message(data)
        if not message:
            for fd in fds:
                os.close(fd)
            return [], []
        return message, list(fds)


def _message(data: bytes) -> list[Any]:
    """The array in `data`; an empty one where there is none."""
    try:
        message = msgpack.unpackb(data, strict_map_key=False)
    except Exception:  # msgpack raises a mix of types, none of them ours
        return []
    return message if type(message) is list else []
