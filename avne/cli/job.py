# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``avne run`` hands to the supervisor."""

from __future__ import annotations

from typing import Any, NamedTuple

from avne.cli.early import Early
from avne.cli.elsewhere import Place
from avne.cli.onion import Service
from avne.cli.published import Opening
from avne.cli.receipt import Receipt
from avne.paths import Session
from avne.privileged.launch import Request
from avne.upstream.spec import UpstreamSpec


class Job(NamedTuple):
    """What to run, and with what."""

    session: Session
    name: str  # of the session, "" for none
    argv: list[str]
    environ: dict[str, str]
    helpers: list[str]  # paths, in the order to try
    netstack: dict[str, Any]  # the `config` of the netstack
    on_failure: str  # restart or kill
    by_program: bool  # the netstack asks whose a connection is
    capture: int  # the file of a capture, or -1
    upstream: UpstreamSpec  # of what no rule is about
    routings: list[dict[str, Any]]  # of workers' `config`s: rules, resolver, about; one for each upstream
    workers: int
    early: Early  # what has been started already
    hire: str  # the socket of an `avne netstack`, or "" for a network process of our own
    kinds: frozenset[str]  # of all upstreams and their layers
    request: Request  # what the environment is to be
    openings: list[Opening]  # ports of the host that lead inside
    onion: Service | None  # where some of them are an onion service's
    receipt: Receipt | None = None
    place: Place | None = None  # where workers elsewhere may join
