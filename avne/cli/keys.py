# SPDX-License-Identifier: GPL-3.0-or-later
"""``avne keys``: the CURVE keys by which a run and its workers on other machines know each other.

A file of mode 0600 holds one secret, a line of 64 hexadecimal digits.  Its public key is what the other end
is told; one is read in that form, and in ZeroMQ's (Z85, 40 characters).
"""

from __future__ import annotations

import os
import re
import stat
import struct
import sys
from typing import NamedTuple

import zmq
from zmq.utils import z85

from avne.errors import EXIT_USAGE, AvneError

_MOST = 1000  # keys of a list: they go in one message


class Pair(NamedTuple):
    """Of 32 bytes each."""

    secret: bytes
    public: bytes


def keys(path: str) -> int:
    """Make a key in `path`, where there is none, and print its public key.  Raises `AvneError`."""
    made = not os.path.lexists(path)
    if made:
        _write(path, z85.decode(zmq.curve_keypair()[1]))
    sys.stdout.write(f"{read_pair(path).public.hex()}\n")
    if made:
        sys.stderr.write(f"avne: {path} holds the secret; the line above is its public key\n")
    return 0


def read_pair(path: str) -> Pair:
    """Raises `AvneError`."""
    make = f"Make one: avne keys {path}"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            status, data = os.fstat(fd), os.read(fd, 256)
        finally:
            os.close(fd)
    except OSError as error:
        raise AvneError(f"cannot read the key {path}: {os.strerror(error.errno or 0)}", make) from error
    if status.st_mode & 0o077 or not stat.S_ISREG(status.st_mode):
        raise AvneError(f"the key {path} is open to others", f"Close it: chmod 600 {path}")
    secret = parse_key(data.decode("ascii", "replace").strip())
    if secret is None:
        raise AvneError(f"{path} holds no key of avne's", make)
    return Pair(secret, z85.decode(zmq.curve_public(z85.encode(secret))))


def read_allowed(path: str) -> list[bytes]:
    """The public keys in a file, one at the beginning of each line.  Raises `AvneError`."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read(1 << 20).splitlines()
    except OSError as error:
        raise AvneError(
            f"cannot read the workers' keys {path}: {os.strerror(error.errno or 0)}",
            "Write a line into it for each worker: what avne keys prints there.",
        ) from error
    found = []
    for number, line in enumerate(lines, 1):
        word = line.split(None, 1)[0] if line.strip() else ""
        key = parse_key(word)
        if key is not None:
            found.append(key)
        elif word and not word.startswith("#"):
            raise AvneError(f"line {number} of {path} begins with no public key", "See: avne keys --help")
    if not found:
        raise AvneError(f"{path} allows nobody", "Write a worker's public key into it; see: avne keys --help")
    if len(found) > _MOST:
        raise AvneError(f"{path} has more than {_MOST} keys", "Workers may share a key; list fewer.")
    return found


def server_key(text: str) -> bytes:
    """A public key of the command line.  Raises `AvneError`."""
    key = parse_key(text)
    if key is None:
        raise AvneError(
            "--server-key is no public key", "Take what avne keys prints where avne run is.", EXIT_USAGE
        )
    return key


def parse_key(text: str) -> bytes | None:
    """A key of 32 bytes; None where `text` is none."""
    if re.fullmatch(r"[0-9a-fA-F]{64}", text):
        return bytes.fromhex(text)
    if len(text) == 40 and text.isascii():
        try:
            return bytes(z85.decode(text.encode()))
        except (ValueError, KeyError, struct.error):
            return None
    return None


def _write(path: str, secret: bytes) -> None:
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(path, flags, 0o600)
        try:
            os.write(fd, secret.hex().encode() + b"\n")
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise AvneError(
            f"cannot make the key {path}: {os.strerror(error.errno or 0)}",
            "Name a file in a directory that is yours.",
        ) from error
