# SPDX-License-Identifier: GPL-3.0-or-later
"""``--isolate``: what the user name and password are made of by which Tor tells streams apart.

run, program, destination: random for each run; what differs within it is the netstack's to say
(netstack/tokens.py).  name=X: derived from X by a secret in the state directory, so that all runs of this
user with this name have the same, now and later, and nobody without the secret can have it: neither another
user of the same Tor, nor another name.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, Final

from avne.config import Config
from avne.errors import AvneError
from avne.netstack.tokens import PROGRAM, keyed
from avne.paths import state_dir

if TYPE_CHECKING:
    from avne.cli.routing import Routing

_FILE: Final = "isolation.key"
_SIZE: Final = 32  # bytes, all that BLAKE2s takes
_NAMED: Final = "name="


def check(config: Config, routing: Routing) -> None:
    """Raises `AvneError` where something is to be isolated, and nothing is Tor's."""
    wanted = config["isolate"]
    if wanted == "run" or any(layer.kind == "tor" for spec in routing.specs for layer in spec.layers()):
        return
    raise AvneError(
        f"isolate = {wanted}: no upstream is Tor, and only Tor has circuits to keep apart",
        "Leave it out, or use Tor: --upstream tor.",
    )


def credentials(config: Config) -> tuple[str, str]:
    """User name and password for Tor, which must not begin with ``<torS0X>``.  Raises `AvneError`."""
    wanted: str = config["isolate"]
    if not wanted.startswith(_NAMED):
        return f"avne-{os.urandom(8).hex()}", os.urandom(8).hex()
    name = wanted.removeprefix(_NAMED)
    digest = keyed(name, _secret(f"{state_dir()}/{_FILE}"), 24)
    return f"avne-{digest[:16]}", digest[16:]


def for_netstack(config: Config) -> list[Any]:
    """Mode and key of `Tokens`."""
    return [config["isolate"].partition("=")[0], os.urandom(_SIZE)]


def asks_programs(config: Config) -> bool:
    return bool(config["isolate"] == PROGRAM)


def _secret(path: str) -> bytes:
    """The user's, made by the first run that needs it."""
    try:
        with contextlib.suppress(FileNotFoundError):
            return _read(path)
        mine = f"{path}.{os.getpid()}"
        fd = os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.write(fd, os.urandom(_SIZE))
            os.fsync(fd)
            with contextlib.suppress(FileExistsError):  # another run was first: its secret counts
                os.link(mine, path)
        finally:
            os.close(fd)
            os.unlink(mine)
        return _read(path)
    except OSError as error:
        raise AvneError(
            f"cannot use {path}, the secret of --isolate name=…: {os.strerror(error.errno or 0)}",
            "Look at the owner and mode of it and of its directory.",
        ) from error


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        secret = os.read(fd, _SIZE + 1)
    finally:
        os.close(fd)
    if len(secret) != _SIZE:
        raise AvneError(
            f"{path} is not a secret of avne's: it has another size",
            "Remove it; runs with --isolate name=… then have new circuits once.",
        )
    return secret
