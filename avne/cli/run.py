# SPDX-License-Identifier: GPL-3.0-or-later
"""``avne run``: settings, upstream, session; then the supervisor; then the program's own end."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, NoReturn

from avne import __version__
from avne.cli import isolation, onion, published, routing
from avne.cli.capture import open_capture
from avne.cli.console import Console
from avne.cli.early import Early
from avne.cli.elsewhere import open_place
from avne.cli.environment import PROXY, program_environment
from avne.cli.job import Job
from avne.cli.openings import NONE, Openings, Options
from avne.cli.receipt import Receipt
from avne.cli.routing import Routing
from avne.cli.signals import Interrupted, die_of, take_terminal_back
from avne.cli.supervise import Supervisor
from avne.cli.workers import number
from avne.config import Config, load
from avne.errors import AvneError
from avne.log import Log
from avne.paths import Session, open_session, state_dir
from avne.privileged import launch
from avne.upstream.router import table


class More(NamedTuple):
    """What the command line says beyond settings."""

    quiet: bool = False
    openings: Options = NONE
    capture: str | None = None  # the file that everything on the tun is written to
    name: str = ""  # what other commands may call the environment
    receipt: str = ""  # the file that the receipt is written to
    proxy_env: bool = False  # the program is told of avne's proxies
    allow_direct: bool = False  # rules may lead past every proxy


def run(program: list[str], flags: Mapping[str, Any], more: More, early: Early) -> NoReturn:
    """Run `program`, the user's shell if it is empty, and exit with its code, or die of its signal.

    Raises `AvneError` for everything that keeps it from running.
    """
    with early:
        config = load(flags)
        with Receipt.at(more.receipt) as receipt:
            code = _run(program, config, more, early, receipt)
    if code < 0:
        die_of(-code)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, AttributeError):  # None where it was closed
            stream.flush()
    os._exit(code)  # Python would take 6 ms to free what ends anyway


def _run(program: list[str], config: Config, more: More, early: Early, receipt: Receipt | None) -> int:
    """The program's exit code, negative where a signal ended it."""
    console = Console(more.quiet, config["verbose"])
    options = more.openings
    helpers = _helpers(config, options)
    written = routing.parse(config)
    isolation.check(config, written)
    onion.check(options.onion, written.default)
    routing.check_optimistic(config, written)
    place = open_place(config, written, bool(options.onion))
    direct = written.direct()
    if direct and not more.allow_direct:
        routing.refuse_direct(written)
    for pattern in direct:
        console.notice(f"open: {pattern} leaves without Tor, from this machine's own address (direct)")
    capture_fd = open_capture(more.capture) if more.capture is not None else -1
    try:
        with (
            published.listening(options.publish, console) as ports,
            upstreams(written, config, console) as known,
            _session(config, console, more.name) as (session, log),
            onion.service(options.onion, known.default, session, console) as service,
        ):
            inlets = [*ports, *(service.openings if service else ())]
            openings = Openings(options, os.environ, session.directory, console)
            argv = program or [os.environ.get("SHELL") or "/bin/sh"]
            warn_of_hidden(argv, openings, console)
            job = Job(
                session=session,
                name=more.name,
                argv=argv,
                environ=_environment(more, config, {**openings.variables, **_marks(session)}, console),
                helpers=helpers,
                netstack=_netstack_config(session, config, known),
                on_failure=config["on_failure"],
                by_program=isolation.asks_programs(config),
                capture=capture_fd,
                upstream=known.default,
                routings=[
                    _routing(known._replace(default=one), session, config, options, direct)
                    for one in known.pool
                ],
                workers=number(config["workers"], len(known.pool)),
                kinds=frozenset(layer.kind for spec in known.specs for layer in spec.layers()),
                early=early,
                hire=config["netstack"],
                request=openings.request,
                openings=inlets,
                onion=service,
                receipt=receipt,
                place=place,
            )
            if receipt:
                receipt.begin(session.id, known.default, options, direct, inlets)
            code = Supervisor(job, log, console).run()
            take_terminal_back()
    except Interrupted as interrupted:
        code = -interrupted.number
    if receipt:
        receipt.end(code)
    return code


def _helpers(config: Config, options: Options) -> list[str]:
    """The helpers to try.  Raises `AvneError` where none can do what `options` say."""
    if (options.private_home or options.profile) and os.geteuid() != 0:
        if config["helper"] == "setuid":
            raise AvneError(
                "--private-home and --profile are not for the setuid helper, which makes no overlay that can "
                "be written to",
                "Use them where users may make namespaces: --helper rootless.",
            )
        return launch.candidates("rootless")
    return launch.candidates(config["helper"])


def _marks(session: Session) -> dict[str, str]:
    """By which the program knows where it is."""
    return {"AVNE": "1", "AVNE_ID": session.id}


def _environment(more: More, config: Config, ours: Mapping[str, str], console: Console) -> dict[str, str]:
    """The program's variables; with -v it is said which ones it does not get."""
    options = more.openings
    settings = [f"{name}={value}" for name, value in PROXY.items() if more.proxy_env]
    environ, dropped = program_environment(
        os.environ, (*config["env"], *options.env), (*settings, *options.setenv), ours
    )
    if dropped:
        console.phase(f"variables that stay outside (--env NAME): {' '.join(dropped)}")
    warn_of_environment(environ, console)
    return environ


def warn_of_environment(environ: Mapping[str, str], console: Console) -> None:
    """Say what of the program's variables would send it to a proxy that it cannot reach from inside."""
    good = ("", *PROXY.values())
    proxies = [
        name for name, value in environ.items()
        if value not in good and name.lower().endswith("_proxy") and name.lower() != "no_proxy"
    ]  # fmt: skip
    if "torsocks" in environ.get("LD_PRELOAD", ""):
        proxies.append("LD_PRELOAD (torsocks)")
    if proxies:
        console.notice(
            f"{', '.join(proxies)} set: the program may look for a proxy that is not there; try unset"
        )


def warn_of_hidden(argv: list[str], openings: Openings, console: Console) -> None:
    """Say which files of the command line the program will not find."""
    for word in argv:
        if word.startswith("/") and os.path.lexists(word) and openings.hides(word):
            console.notice(f"{word} is hidden inside; to show it: --share {word}")


@contextlib.contextmanager
def upstreams(written: Routing, config: Config, console: Console) -> Iterator[Routing]:
    """The upstreams to use; where one is avne's own Tor, that is held for as long as this."""
    credentials = isolation.credentials(config)
    if not written.needs_tor or not config["workers"]:
        origin = config.values["upstream"].origin
        console.phase(f"upstream {', '.join(one.redacted() for one in written.pool)}, from {origin}")
        yield written.completed(None, credentials)
        return
    from avne.upstream.find import find_tor

    if found := find_tor():
        console.phase(f"upstream {found.redacted()}, found")
        yield written.completed(found, credentials)
        return
    from avne.upstream import keeper

    def progress(percent: int, tag: str, summary: str) -> None:
        console.progress(f"Tor is starting: {percent} % ({summary})")

    try:
        own = keeper.connect(state_dir(), config["tor.torrc"] or None, progress)
    finally:
        console.progress("")
    with own:
        console.phase("upstream Tor of avne's own")
        yield written.completed(own.spec, credentials)


def _routing(
    known: Routing, session: Session, config: Config, options: Options, direct: list[str]
) -> dict[str, Any]:
    """What every worker is told."""
    resolver = routing.resolver(config)
    rows = [(rule.pattern, rule.upstream or known.default, rule.origin) for rule in known.rules]
    rules = table(rows, known.default, known.onion_only, known.https_only, resolver)
    opened = (
        ["files of the host"] * bool(options.share)
        + ["the desktop"] * options.gui
        + ["connections without Tor"] * bool(direct)
        + ["ports inside, to who may come"] * bool(options.publish or options.onion)
    )
    about = {
        "version": __version__,
        "session": session.id,
        "upstream": known.default.label(),
        "open": opened,
        "log_names": config["log_names"],
    }
    return {"rules": rules.to_config(), "resolver": resolver, "about": about}


@contextlib.contextmanager
def _session(config: Config, console: Console, name: str) -> Iterator[tuple[Session, Log]]:
    session = open_session(name=name)
    log = Log(session.id, config["log_names"], console.log if console.verbose > 1 else None)
    try:
        yield session, log
    finally:
        log.close()
        session.close()


def _netstack_config(session: Session, config: Config, known: Routing) -> dict[str, Any]:
    return {
        "session": session.id,
        "isolate": isolation.for_netstack(config),
        "optimistic": config["optimistic"],
        "dns": config["dns"],
        "resolver": routing.resolver(config),
        "spread": len(known.pool) > 1,
        "log_names": config["log_names"],
    }
