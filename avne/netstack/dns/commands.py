# SPDX-License-Identifier: GPL-3.0-or-later
"""What the resolver wants done: its only way to affect anything."""

from __future__ import annotations

from typing import Any, NamedTuple

from avne.ipc.messages import ResolveKind


class Answer(NamedTuple):
    """Give `wire`, a DNS message, to the client that was named in `query`."""

    client: object
    wire: bytes


class Resolve(NamedTuple):
    """Ask a worker; its answer goes to `resolved` with the same, never repeated, query ID."""

    query_id: int
    kind: ResolveKind
    what: str


class OpenStream(NamedTuple):
    """Open a stream through the upstream, with a number that is never repeated."""

    stream: int
    host: str
    port: int


class SendStream(NamedTuple):
    stream: int
    data: bytes


class CloseStream(NamedTuple):
    """Nothing more is heard of the stream: no `stream_closed` need follow."""

    stream: int


class Log(NamedTuple):
    level: str
    event: str
    fields: dict[str, Any]


Command = Answer | Resolve | OpenStream | SendStream | CloseStream | Log
