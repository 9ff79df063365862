# SPDX-License-Identifier: GPL-3.0-or-later
"""A filter that refuses the names of a list: ``hosts:FILE+UPSTREAM``.

The file has lines as of hosts(5), ``0.0.0.0 NAME …``, which list these names exactly, or a name on a line,
which lists everything below it too; an address on a line of its own lists that.  ``#`` begins a comment.
Without FILE it is
``blocklist`` in avne's configuration directories, the user's before the system's.

A list may have a million names: what is kept of each is a hash of 8 bytes, in a sorted array.  Python keys
the hash anew in each process, so that a program cannot find a name that only seems to be listed.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Any, Final

from avne.errors import AvneError
from avne.ipc.messages import Code
from avne.paths import config_files
from avne.upstream.base import Log, OpenError, Upstream
from avne.upstream.filter import Filter
from avne.upstream.spec import UpstreamSpec

MAX_BYTES: Final = 256 << 20  # of the file
REASON: Final = "on the blocklist"

_NOWHERE: Final = {b"0.0.0.0", b"127.0.0.1", b"::", b"::1", b"0", b"127.0.0.0"}
# What every hosts file has.
_LOCAL: Final = {
    b"localhost", b"localhost.localdomain", b"local", b"broadcasthost", b"ip6-localhost", b"ip6-loopback",
    b"ip6-localnet", b"ip6-mcastprefix", b"ip6-allnodes", b"ip6-allrouters", b"ip6-allhosts", b"0.0.0.0",
}  # fmt: skip


class Blocklist:
    """The names of a file.  Sans-IO."""

    __slots__ = ("_below", "_exact", "skipped")

    def __init__(self, lines: Iterable[bytes]) -> None:
        exact: list[int] = []
        below: list[int] = []
        self.skipped = 0  # lines that list nothing
        for line in lines:
            words = line.partition(b"#")[0].lower().split()
            if not words:
                continue
            if words[0] in _NOWHERE:
                exact += [hash(word.rstrip(b".")) for word in words[1:] if word not in _LOCAL]
            elif len(words) == 1 and _is_listable(words[0]):
                below.append(hash(words[0].lstrip(b"*").strip(b".")))
            else:
                self.skipped += 1
        self._exact = array("q", sorted(set(exact)))
        self._below = array("q", sorted(set(below)))

    def __len__(self) -> int:
        return len(self._exact) + len(self._below)

    def lists(self, host: str) -> bool:
        """Whether a name, or the text of an address, is listed."""
        name = host.rstrip(".").lower().encode("ascii", "backslashreplace")
        if _has(self._exact, hash(name)):
            return True
        while True:
            if _has(self._below, hash(name)):
                return True
            _, dot, name = name.partition(b".")
            if not dot:
                return False


def _is_listable(word: bytes) -> bool:
    """A name or an address; ``||name^`` and other languages of filters are not."""
    return not set(word) & set(b"/|^$@!=,;()[]<>\"'\\") and (b"." in word or b":" in word)


def _has(hashes: array[int], wanted: int) -> bool:
    at = bisect_left(hashes, wanted)
    return at < len(hashes) and hashes[at] == wanted


class Hosts(Filter):
    """Listed names do not exist; connections to them are refused."""

    kind = "hosts"
    form = "hosts+UPSTREAM or hosts:FILE+UPSTREAM, with an absolute FILE (a + in its name is %2B)"

    def __init__(self, spec: UpstreamSpec, inner: Upstream | None = None) -> None:
        super().__init__(spec, inner)
        self.judges_names = True
        self._log: Log | None = None
        self._told = False
        self._list = read(spec.argument)

    @classmethod
    def parse(cls, text: str, inner: UpstreamSpec | None) -> UpstreamSpec:
        path = text.replace("%2B", "+") or _usual()
        if not path.startswith("/") or "\0" in path:
            raise cls.bad("the file of a blocklist has to begin with /")
        if not (os.path.isfile(path) and os.access(path, os.R_OK)):
            raise AvneError(f"cannot read the blocklist {path}", "Is the name right, and may you read it?")
        return cls.wrap(inner, path)

    def begin(self, log: Log, about: Mapping[str, Any]) -> None:
        super().begin(log, about)
        self._log = log
        log("info", "blocklist", {"entries": len(self._list), "lines-skipped": self._list.skipped})

    def admit(self, host: str, port: int) -> None:
        self._admit(host)

    def admit_name(self, name: str) -> None:
        self._admit(name)
        super().admit_name(name)

    def _admit(self, host: str) -> None:
        if self._list.lists(host):
            if not self._told and self._log is not None:
                self._told = True
                self._log("info", "blocked", {"why": REASON, "host": host})
            raise OpenError(Code.BLOCKED, REASON)


def read(path: str) -> Blocklist:
    """The list in a file.  Raises `AvneError`."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_BYTES:
                raise AvneError(
                    f"the blocklist {path} is larger than {MAX_BYTES >> 20} MiB", "Use a shorter one."
                )
            found = Blocklist(file)
    except OSError as error:
        raise AvneError(
            f"cannot read the blocklist {path}: {os.strerror(error.errno or 0)}",
            "Is the name right, and may you read it?",
        ) from error
    if not len(found):
        raise AvneError(
            f"the blocklist {path} lists nothing",
            "It takes lines such as 0.0.0.0 NAME, or a NAME on a line of its own.",
        )
    return found


def _usual() -> str:
    """The user's list, or the system's."""
    places = [f"{os.path.dirname(file)}/blocklist" for file in reversed(config_files(os.environ))]
    for place in places:
        if os.access(place, os.R_OK):
            return place
    raise AvneError(
        "there is no blocklist for hosts+…",
        f"Put one at {places[0]}, or name it: hosts:/PATH+tor.",
    )
