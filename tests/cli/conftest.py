# SPDX-License-Identifier: GPL-3.0-or-later
"""Real runs of this tree's avne, over a SOCKS5 server on loopback."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "avne"]


@pytest.fixture(scope="session")
def socks():
    """An upstream's URL."""
    argv = [sys.executable, "-m", "tests.cli.plain_socks"]
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        yield f"socks5://127.0.0.1:{server.stdout.readline().strip()}"
        server.stdin.close()


@pytest.fixture
def runtime():
    """The test's own directory for sessions, where the environment masks it."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="avne-cli-") as path:
        yield path


@pytest.fixture
def environ(socks, tmp_path, runtime):
    """The environment to call avne with; its state is the test's own."""
    kept = {
        name: value for name, value in os.environ.items() if not name.lower().startswith(("avne", "xdg_"))
    }
    kept = {name: value for name, value in kept.items() if not name.lower().endswith("_proxy")}
    return {
        **kept,
        "AVNE_UPSTREAM": socks,
        "XDG_RUNTIME_DIR": runtime,
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "XDG_CONFIG_HOME": "/nonexistent",
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture
def run(environ):
    """run(WORD…, options=…): `avne run` to its end."""

    def run(*words, options=(), env=None, **settings):
        return subprocess.run(
            [*COMMAND, "run", *options, "--", *words], env={**environ, **(env or {})}, text=True, timeout=60,
            stdin=subprocess.DEVNULL, capture_output=True, start_new_session=True, check=False, **settings,
        )  # fmt: skip

    return run


@pytest.fixture
def start(environ):
    """start(WORD…): `avne run` with pipes for its output, killed at the end of the test."""
    with contextlib.ExitStack() as stack:

        def start(*words, options=(), env=None, argv=None, **settings):
            process = subprocess.Popen(
                argv or [*COMMAND, "run", *options, "--", *words], env={**environ, **(env or {})},
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                start_new_session=True, **settings,
            )  # fmt: skip
            stack.callback(_end, process)
            return process

        yield start


def _end(process):
    if process.poll() is None:
        process.kill()
    process.communicate()


class Terminal:
    """A bash in a tmux server of its own."""

    def __init__(self, directory, environ):
        self._server = ["tmux", "-S", f"{directory}/tmux", "-f", "/dev/null"]
        shell = ["env", "PS1=READY> ", "bash", "--norc", "--noprofile", "-i"]
        self._tmux("new-session", "-d", "-x", "150", "-y", "50", shlex.join(shell), env=environ)
        self.expect("READY> ")

    def _tmux(self, *words, env=None):
        done = subprocess.run([*self._server, *words], env=env, capture_output=True, text=True, check=True)
        return done.stdout

    def type(self, text):
        self._tmux("send-keys", "-l", text)
        self._tmux("send-keys", "Enter")

    def press(self, key):
        self._tmux("send-keys", key)

    def resize(self, columns, rows):
        self._tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def screen(self):
        return self._tmux("capture-pane", "-p", "-J")

    def expect(self, text, times=1):
        """Wait until `text` stands on the screen `times` times; the echoed command line counts."""
        until = time.monotonic() + 15
        while self.screen().count(text) < times:
            assert time.monotonic() < until, self.screen()
            time.sleep(0.02)  # a poll of the terminal, which tells nobody

    def close(self):
        self._tmux("kill-server")


@pytest.fixture
def terminal(tmp_path, environ):
    terminal = Terminal(
        tmp_path, {**environ, "TERM": "screen", "HISTFILE": "/dev/null", "TMPDIR": str(tmp_path)}
    )
    with contextlib.closing(terminal):
        yield terminal
