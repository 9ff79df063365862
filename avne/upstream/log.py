# SPDX-License-Identifier: GPL-3.0-or-later
"""A filter that writes a line for each connection: to the session's log, or to a file of its own.

``log+UPSTREAM`` or ``log:FILE+UPSTREAM``.  Names and addresses are in it where --log-names says so, and
nowhere else.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Mapping
from typing import Any

from avne.errors import AvneError
from avne.log import SCRUBBED
from avne.upstream.base import Log, OpenError, Upstream
from avne.upstream.filter import Filter
from avne.upstream.spec import UpstreamSpec


class LogFilter(Filter):
    """Notes what became of each attempt."""

    kind = "log"
    form = "log+UPSTREAM or log:FILE+UPSTREAM, with an absolute FILE (a + in its name is %2B)"

    def __init__(self, spec: UpstreamSpec, inner: Upstream | None = None) -> None:
        super().__init__(spec, inner)
        self._log: Log | None = None
        self._names = False
        self._fd = _open(spec.argument) if spec.argument else -1

    @classmethod
    def parse(cls, text: str, inner: UpstreamSpec | None) -> UpstreamSpec:
        path = text.replace("%2B", "+")
        if path and (not path.startswith("/") or "\0" in path):
            raise cls.bad("the file of a log has to begin with /")
        return cls.wrap(inner, path)

    def begin(self, log: Log, about: Mapping[str, Any]) -> None:
        super().begin(log, about)
        self._log = log
        self._names = bool(about.get("log_names"))

    def opened(self, host: str, port: int, error: OpenError | None) -> None:
        super().opened(host, port, error)
        result = "opened" if error is None else f"refused {error.code:#06x} {error.detail}"
        if self._fd >= 0:
            shown = host if self._names else SCRUBBED
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            with contextlib.suppress(OSError):  # a full disk fails no connection
                os.write(self._fd, f"{stamp} {shown} {port} {result}\n".encode(errors="backslashreplace"))
        elif self._log is not None:
            self._log("info", "connection", {"host": host, "port": port, "result": result})


def _open(path: str) -> int:
    """The file, to be appended to.  Raises `AvneError`."""
    flags = (
        os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    )
    try:
        fd = os.open(path, flags, 0o600)
    except OSError as error:
        raise AvneError(
            f"cannot write the log {path}: {os.strerror(error.errno or 0)}",
            "Name a file in a directory of yours.",
        ) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise AvneError(f"the log {path} is no regular file", "Name a file in a directory of yours.")
    return fd
