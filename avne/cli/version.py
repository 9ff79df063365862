# SPDX-License-Identifier: GPL-3.0-or-later
"""``avne --version``: what a bug report needs."""

from __future__ import annotations

import os
import platform

import zmq

from avne import __version__
from avne.errors import AvneError
from avne.privileged import launch


def text() -> str:
    kernel = os.uname()
    return (
        f"avne {__version__}\n"
        f"Python {platform.python_version()}\n"
        f"libzmq {zmq.zmq_version()} (pyzmq {zmq.__version__})\n"
        f"{kernel.sysname} {kernel.release} {kernel.machine}\n"
        f"helper {layout()}\n"
    )


def layout() -> str:
    """The layout of the helper that this package was built with."""
    try:
        return f"layout {launch.layout():016x}"
    except AvneError:
        return "not built"
