# SPDX-License-Identifier: GPL-3.0-or-later
"""Messages are lines of their own, also on a terminal where a progress line stands; none fails the run."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tty

import pytest

from avne.cli import console as console_module
from avne.cli.console import Console, colour
from avne.errors import AvneError


class Terminal:
    """A real one in the place of standard error; `text` is what it was sent."""

    def __init__(self):
        self._ours, self.fd = os.openpty()
        tty.setraw(self.fd)

    @property
    def text(self):
        os.write(self.fd, b"$")  # so that there is an end to read to
        data = b""
        while not data.endswith(b"$"):
            data += os.read(self._ours, 1000)
        return data[:-1].decode()

    def close(self):
        os.close(self.fd)
        os.close(self._ours)


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    with contextlib.closing(Terminal()) as terminal:
        monkeypatch.setattr(console_module, "_STDERR", terminal.fd)
        yield terminal


def test_progress_is_one_line_and_a_message_takes_its_place(terminal):
    console = Console()
    console.progress("10 %")
    console.progress("20 %")
    console.notice("hello")
    console.progress("30 %")
    console.progress("")
    console.progress("")
    clear = "\r\x1b[K"
    assert terminal.text == (
        f"{clear}avne: 10 %{clear}avne: 20 %{clear}avne: hello\n{clear}avne: 30 %{clear}"
    )


@pytest.mark.parametrize("console", [Console(quiet=True), Console()])
def test_no_progress_where_it_is_not_wanted(terminal, monkeypatch, console):
    if not console._quiet:
        monkeypatch.setenv("TERM", "dumb")
    console.progress("10 %")
    assert terminal.text == ""


def test_quiet_leaves_errors(terminal):
    console = Console(quiet=True)
    console.notice("hello")
    console.phase("phase")
    console.error(AvneError("problem", "cure"))
    assert terminal.text == "avne: problem\n  cure\n"


@pytest.mark.parametrize("stream", ["closed", "full"])
def test_a_standard_error_that_takes_nothing_is_no_matter(stream):
    if stream == "closed":
        code = "import os; os.close(2);"
    else:
        code = "import os; os.dup2(os.open('/dev/full', os.O_WRONLY), 2);"
    code += "from avne.cli.console import Console; c = Console(); c.notice('hello'); c.progress('hello')"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_colours_only_on_a_terminal_that_wants_them(monkeypatch):
    class Output(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert colour("x", 32) == "x"
    monkeypatch.setattr(sys, "stdout", Output())
    assert colour("x", 32) == "\x1b[32mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert colour("x", 32) == "x"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert colour("x", 32) == "x"
