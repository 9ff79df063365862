# SPDX-License-Identifier: GPL-3.0-or-later
"""The file of ``--capture``: opened with the user's rights before anything is started."""

from __future__ import annotations

import errno
import os
import stat

from avne.errors import AvneError

# O_NONBLOCK: a FIFO that nobody reads is an error then, and no wait.  What was in the file is
# kept until the netstack begins to write.
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK


def open_capture(path: str) -> int:
    """A descriptor to write a capture to; a new file is the user's alone, for it names hosts.

    Raises `AvneError`, also for what is not a regular file: the network would wait for its reader.
    """
    if path == "-":
        raise AvneError(
            "a capture cannot go to standard output, which is the program's",
            "Name a file: --capture FILE",
        )
    try:
        fd = os.open(path, _FLAGS, 0o600)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise _not_regular(path) from error
        raise AvneError(
            f"cannot write a capture to {path!r}: {os.strerror(error.errno or 0)}",
            "Name a file that you may write: --capture FILE",
        ) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise _not_regular(path)
    os.set_blocking(fd, True)
    return fd


def _not_regular(path: str) -> AvneError:
    return AvneError(
        f"{path!r} is not a regular file: the network would wait for whoever reads it",
        "Name a file. To watch it live: tail -c +1 -f FILE | wireshark -k -i -",
    )
