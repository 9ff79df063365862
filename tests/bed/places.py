# SPDX-License-Identifier: GPL-3.0-or-later
"""Where everything is in the world, and what it serves: addresses, names, ports, the byte stream."""

from __future__ import annotations

import functools
import hashlib

ZONE = "test.example"
V4, V6 = "198.51.100.80", "2001:db8::80"
RESOLVER = f"{V4}:53"

# Addresses that fail, each with a name: the kernel of the world gives the errno by itself.
FAILING = {
    f"blackhole.{ZONE}": ["198.51.100.66"],  # a SYN is never answered: ETIMEDOUT
    f"blackhole6.{ZONE}": ["2001:db8::66"],
    f"hostunreach.{ZONE}": ["198.51.100.67"],  # EHOSTUNREACH
    f"hostunreach6.{ZONE}": ["2001:db8::67"],
    f"netunreach.{ZONE}": ["203.0.113.68"],  # ENETUNREACH
    f"netunreach6.{ZONE}": ["2001:db9::68"],
    f"prohibited.{ZONE}": ["198.51.100.69"],  # EACCES
}

# Ports, at every address of the world.
ECHO = 7
DISCARD = 9
CHARGEN = 19  # endless bytes of the stream below
DNS = 53
WEB = 80
RST_ON_ACCEPT = 2001
RST_AFTER_DATA = 2002  # RST_AFTER bytes of the stream, then RST
NEVER_ACCEPTS = 2003  # its queue is full: a SYN is dropped
SILENT = 2004  # accepts; never reads, never writes
REFUSED = 2005  # nothing listens
CLOSES = 2006  # accepts, and closes at once
PROXY = 1080  # SOCKS5, for chains
PROXY_AUTH = 1081  # the same, with a user name and a password
DIGEST = 2007  # reads to the end of file, then answers "COUNT SHA256\n"

RST_AFTER = 65536

PAGE = (
    "<!DOCTYPE html>\n<title>avne test bed</title>\n<h1>It works</h1>\n"
    "<p>This page comes from a server that no packet of this machine can reach.</p>\n"
)

# The byte stream of the web server repeats every PERIOD bytes: a prime, so that no buffer of ours
# or the kernel's is in step with it, and a lost, doubled or swapped piece changes the digest.
PERIOD = 1_048_583


@functools.cache
def stream_period() -> bytes:
    return hashlib.shake_128(b"avne test bed").digest(PERIOD)


def stream(count: int, offset: int = 0) -> bytes:
    """Bytes `offset` … `offset + count` of the stream."""
    first = offset % PERIOD
    repeats = (first + count) // PERIOD + 1
    return (stream_period() * repeats)[first : first + count]


@functools.cache
def stream_sha256(count: int) -> str:
    """The digest of the first `count` bytes of the stream."""
    digest = hashlib.sha256()
    period = stream_period()
    for _ in range(count // PERIOD):
        digest.update(period)
    digest.update(period[: count % PERIOD])
    return digest.hexdigest()
