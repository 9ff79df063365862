# SPDX-License-Identifier: GPL-3.0-or-later
"""What a program that gets out could take: memory, queues and keys of the user's, and a process."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import sys
from typing import Any

from avne.probes import calls

_IPC_CREATE = 0o1600  # IPC_CREAT, and rw for the owner
_USER_KEYRING, _KEYCTL_INVALIDATE = -4, 21


def share_memory(stack: contextlib.ExitStack) -> dict[str, Any]:
    """System V memory, semaphore and messages, and a POSIX queue, until `stack` is closed; their names."""
    secret = os.urandom(8).hex()
    key = int.from_bytes(os.urandom(3), "big") | 0x41000000
    queue = f"/avne-probe-{secret}"
    libc = calls.libc
    with contextlib.suppress(OSError):
        memory = calls.checked(libc.shmget(key, 4096, _IPC_CREATE))
        stack.callback(libc.shmctl, memory, 0, None)
        libc.shmat.restype = ctypes.c_void_p
        address = libc.shmat(memory, None, 0)
        ctypes.memmove(address, secret.encode(), len(secret))
        libc.shmdt(ctypes.c_void_p(address))
        stack.callback(libc.semctl, calls.checked(libc.semget(key, 1, _IPC_CREATE)), 0, 0)
        stack.callback(libc.msgctl, calls.checked(libc.msgget(key, _IPC_CREATE)), 0, None)
        descriptor = calls.checked(libc.mq_open(queue.encode(), os.O_RDWR | os.O_CREAT, 0o600, None))
        stack.callback(libc.mq_unlink, queue.encode())
        stack.callback(os.close, descriptor)
    return {"secret": secret, "key": key, "queue": queue}


def add_key(stack: contextlib.ExitStack) -> dict[str, Any] | None:
    """A key in the user's key ring, until `stack` is closed; None where the kernel has none."""
    name = f"avne-probe-{os.urandom(6).hex()}"
    try:
        key = calls.call("add_key", b"user", name.encode(), b"x", 1, ctypes.c_long(_USER_KEYRING))
    except OSError:
        return None
    stack.callback(calls.libc.syscall, calls.NUMBERS[calls.MACHINE]["keyctl"], _KEYCTL_INVALIDATE, key)
    return {"ring": _USER_KEYRING, "name": name}


class Victim:
    """A process of victim.py, which holds `sock` and a file with its secret."""

    def __init__(self, sock: socket.socket, directory: str) -> None:
        secret = os.urandom(8).hex()
        file = os.open(f"{directory}/secret", os.O_RDWR | os.O_CREAT, 0o600)
        os.write(file, secret.encode())
        os.unlink(f"{directory}/secret")
        program = os.path.join(os.path.dirname(__file__), "victim.py")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", program, secret], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            pass_fds=(sock.fileno(), file), env={"SECRET": secret}, cwd=directory, start_new_session=True,
        )  # fmt: skip
        assert self._process.stdout
        self.facts = {
            "pid": self._process.pid, "secret": secret, "address": int(self._process.stdout.readline()),
            "socket": sock.fileno(), "inode": os.fstat(sock.fileno()).st_ino, "file": file,
        }  # fmt: skip
        os.close(file)
        os.set_blocking(self._process.stdout.fileno(), False)

    @property
    def pid(self) -> int:
        return self._process.pid

    def signalled(self) -> bool:
        """Whether it has had a signal since the last call."""
        assert self._process.stdout
        with contextlib.suppress(BlockingIOError):
            return bool(os.read(self._process.stdout.fileno(), 4096))
        return False

    def close(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
