# SPDX-License-Identifier: GPL-3.0-or-later
"""``--workers-at``: the place where workers on other machines join a run, and who may.

The listening socket is made here and given to each network process in turn, which can open none.
"""

from __future__ import annotations

import socket
from typing import Any, NamedTuple

from avne.cli.routing import Routing
from avne.config import Config, split_resolver
from avne.errors import AvneError

_BACKLOG = 64
_SCHEME = "tcp://"


class Place(NamedTuple):
    """`fd` listens at `endpoint`; `keys` are our secret and public one, and those of the workers."""

    fd: int
    endpoint: str
    keys: tuple[bytes, bytes, list[bytes]]
    kind: str  # of the upstream that workers there must have

    def config(self) -> dict[str, Any]:
        """What the netstack is told."""
        return {"endpoint": self.endpoint, "keys": self.keys, "kind": self.kind}


def open_place(config: Config, routing: Routing, onion: bool = False) -> Place | None:
    """`onion`: the program is to be an onion service.  None where no worker may join.  Raises `AvneError`."""
    where = config["workers_at"]
    if not where:
        _check_unused(config)
        return None
    _check(config, routing)
    if onion and not config["workers"]:
        raise AvneError(
            "an onion service needs a Tor here, and with --workers 0 none is looked for",
            "Leave out --workers 0.",
        )
    from avne.cli.keys import read_allowed, read_pair

    pair = read_pair(config["workers_key"])
    keys = pair.secret, pair.public, read_allowed(config["workers_allowed"])
    host, port = split_endpoint(where)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise AvneError(
            f"cannot listen at {where}: {error.strerror or error}",
            "Name an address of this machine, and a port that nobody else has.",
        ) from error
    return Place(listener.detach(), where, keys, routing.default.label()[:32])


def split_endpoint(text: str) -> tuple[str, int]:
    """``tcp://HOST:PORT`` (an IPv6 address in brackets) → (host, port).  Raises ValueError."""
    if not text.startswith(_SCHEME):
        raise ValueError(text)
    return split_resolver(text.removeprefix(_SCHEME))


def _check_unused(config: Config) -> None:
    given = [name for name in ("workers_key", "workers_allowed") if config[name]]
    if given:
        raise AvneError(
            f"{given[0]} is of no use without workers_at", "Say where workers may join: --workers-at tcp://…"
        )
    if config["workers"] == 0:
        raise AvneError(
            "with no workers there is no way out",
            "Let some join from other machines (--workers-at), or leave out --workers 0.",
        )


def _check(config: Config, routing: Routing) -> None:
    """What holds on this machine only must not be lost on the way of another's."""
    for name, cure in (
        ("workers_key", "Make one (avne keys FILE), and name it: --workers-key FILE"),
        (
            "workers_allowed",
            "Write the workers' public keys into a file, and name it: --workers-allowed FILE",
        ),
    ):
        if not config[name]:
            raise AvneError("workers elsewhere are let in by their keys only", cure)
    spec = routing.default
    held_here = {
        "rules": bool(routing.rules),
        "onion_only": routing.onion_only,
        "https_only": routing.https_only,
        "several upstreams": bool(routing.others),
        "a filter before the upstream": spec.inner is not None,
        f"isolate = {config['isolate']}": config["isolate"] != "run",
        "netstack": bool(config["netstack"]),
        "optimistic": bool(config["optimistic"]),
    }
    found = [what for what, there in held_here.items() if there]
    if found:
        raise AvneError(
            f"{found[0]} would not hold for workers on other machines, which have upstreams of their own",
            "Leave it out, or leave out --workers-at.",
        )
