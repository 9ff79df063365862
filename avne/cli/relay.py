# SPDX-License-Identifier: GPL-3.0-or-later
"""Our terminal joined to one inside the environment: bytes both ways, and the window's size.

Ours is raw meanwhile, so that ^C, ^Z and ^D are the inner one's to interpret, as with ssh(1).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import termios
import time
import tty

_STDIN, _STDOUT = 0, 1
_PIECE = 65536
_LAST = 0.2  # seconds that what the program wrote at its end may take to come through


class Relay:
    """`inner` is the outer end of the environment's terminal; `close` gives ours back as it was."""

    def __init__(self, inner: int) -> None:
        self._inner = inner
        self._typed = b""  # and not yet taken
        self._input = True
        self._output = True
        os.set_blocking(inner, False)
        self._before = termios.tcgetattr(_STDIN)
        self.resume()

    def resume(self) -> None:
        """At the start, and after we were stopped: our terminal is raw, and the size is passed on."""
        with contextlib.suppress(termios.error):  # it has hung up
            tty.setraw(_STDIN, termios.TCSADRAIN)
        self.resize()

    def suspend(self) -> None:
        """Our terminal as it was."""
        with contextlib.suppress(termios.error):
            termios.tcsetattr(_STDIN, termios.TCSADRAIN, self._before)

    def resize(self) -> None:
        with contextlib.suppress(OSError):
            size = fcntl.ioctl(_STDIN, termios.TIOCGWINSZ, bytes(8))
            fcntl.ioctl(self._inner, termios.TIOCSWINSZ, size)

    def interest(self) -> dict[int, int]:
        """What to poll for."""
        wanted = {}
        if self._input and not self._typed:
            wanted[_STDIN] = select.POLLIN
        if self._output:
            wanted[self._inner] = select.POLLIN | (select.POLLOUT if self._typed else 0)
        return wanted

    def handle(self, fd: int, events: int) -> None:
        """What poll(2) found of `interest`."""
        if fd == _STDIN:
            self._typed = _read(_STDIN)
            self._input = bool(self._typed)
        if fd == self._inner and events & ~select.POLLOUT:
            self._show()
        if self._typed:
            with contextlib.suppress(OSError):
                self._typed = self._typed[os.write(self._inner, self._typed) :]

    def _show(self) -> None:
        try:
            data = os.read(self._inner, _PIECE)
        except BlockingIOError:
            return
        except OSError:  # EIO: nobody has the inner terminal any more
            data = b""
        self._output = bool(data)
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(_STDOUT, data) :]

    def close(self) -> None:
        """Show what the program wrote last, and be as before."""
        until = time.monotonic() + _LAST
        poll = select.poll()
        poll.register(self._inner, select.POLLIN)
        while self._output and poll.poll(max(0.0, until - time.monotonic()) * 1000):
            self._show()
        os.close(self._inner)
        self.suspend()


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, _PIECE)
    except OSError:
        return b""
