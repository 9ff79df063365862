# SPDX-License-Identifier: GPL-3.0-or-later
"""The log of one session: ``STATE/avne/ID.log``, bounded, without the names of hosts.

A line is ``TIME LEVEL PART EVENT key=value …``.  When the file has half of LOG_BYTES it
becomes ``ID.log.old`` and a new one is begun, so the older half goes first.  The fields
that say where the program went are scrubbed unless the user asked for them, as Tor's
SafeLogging does.  A log that cannot be written is given up; the run never fails of it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from avne.errors import AvneError
from avne.limits import LOG_BYTES, LOG_FILES
from avne.paths import state_dir

NAMES = frozenset(("host", "name", "address"))  # the fields that say where the program went
SCRUBBED = "[scrubbed]"
LINE = 2000  # characters of one line: an event is a line, not a dump


class Log:
    """The session's log.  `echo`, if given, gets every line as well (for ``-vv``)."""

    def __init__(self, session: str, names: bool, echo: Callable[[str], None] | None = None) -> None:
        self._names = names
        self._echo = echo
        self._fd = -1
        self._size = 0
        self.path = ""
        with contextlib.suppress(AvneError, OSError):
            directory = state_dir()
            _forget_old(directory)
            self.path = f"{directory}/{session}.log"
            self._open()

    def event(self, level: str, part: str, event: str, fields: Mapping[str, Any] | None = None) -> None:
        """Write one line; the values of `fields` may be of any type and hold any bytes."""
        words = [_now(), level, part, event]
        for key, value in (fields or {}).items():
            shown = SCRUBBED if key in NAMES and not self._names else _quoted(str(value))
            words.append(f"{_quoted(str(key))}={shown}")
        self._write(" ".join(words)[:LINE])

    def output(self, part: str, line: str, safe: bool) -> None:
        """A line of a part's standard error, as a rule of a traceback.

        When `safe` is false the line may hold a host's name: of ``ValueError: text`` only
        the kind is kept, and the indented lines, which are code.
        """
        if not safe and not self._names and not line.startswith((" ", "Traceback")):
            kind, colon, _ = line.partition(": ")
            line = f"{kind}: {SCRUBBED}" if colon else SCRUBBED
        self._write(f"{_now()} error {part} stderr {_quoted(line)}"[:LINE])

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, line: str) -> None:
        if self._echo:
            self._echo(line)
        if self._fd < 0:
            return
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        try:
            if self._size + len(data) > LOG_BYTES // 2:
                self.close()
                os.replace(self.path, f"{self.path}.old")
                self._open()
            self._size += os.write(self._fd, data)
        except OSError:
            self.close()

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self.path, flags, 0o600)
        self._size = 0


def _forget_old(directory: str) -> None:
    """Leave the newest LOG_FILES - 1 sessions, so that there are LOG_FILES with the new one."""
    logs = [name for name in os.listdir(directory) if name.endswith(".log")]
    logs.sort(key=lambda name: os.stat(f"{directory}/{name}").st_mtime_ns, reverse=True)
    for name in logs[LOG_FILES - 1 :]:
        os.unlink(f"{directory}/{name}")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{directory}/{name}.old")


def _now() -> str:
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{nanoseconds // 1_000_000:03}Z"


def _quoted(text: str) -> str:
    """`text` as it is if it is one plain word, else in quotes with everything odd escaped."""
    if text.isascii() and text.isprintable() and text and not set(text) & set(" \"'=\\"):
        return text
    return '"' + text.encode("unicode_escape").decode().replace('"', '\\"') + '"'
