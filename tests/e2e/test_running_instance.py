# SPDX-License-Identifier: GPL-3.0-or-later
"""A browser that runs outside, and one of the same user inside: the former is asked for nothing."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time

import pytest

from tests.bed.tornet.processes import find_program

URL = "http://www.test.example/browser/data/handed-over"
PATH = "/browser/data/handed-over"
BOUND = 30.0


def _until(condition):
    """Waits for what only another's program can bring about, and gives what `condition` gives then."""
    until = time.monotonic() + BOUND
    while not (found := condition()):
        assert time.monotonic() < until, "it did not happen"
        threading.Event().wait(0.05)
    return found


@contextlib.contextmanager
def _running(avne, words, env=None):
    """A program of the user's, without avne, killed at the end with all that it has started."""
    with subprocess.Popen(
        avne.as_person(words, env), start_new_session=True, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            os.killpg(process.pid, 9)


def _asked(bed):
    return [row for row in bed.requests() if row["path"] == PATH]


def _locks(home):
    """Of Firefox's profiles, which are in the one place or the other: links that lead nowhere."""
    places = (home / ".mozilla/firefox", home / ".config/mozilla/firefox")
    paths = [f"{profile}/lock" for place in places for profile in place.glob("*")]
    return [path for path in paths if os.path.islink(path)]


@pytest.fixture
def display():
    """An X11 display of the test's own."""
    argv = [find_program("Xvfb"), "-displayfd", "1", "-nolisten", "tcp", "-ac"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        yield {"DISPLAY": f":{server.stdout.readline().strip()}"}
        server.terminate()


def test_firefox_inside_ends_at_once_beside_one_outside_and_avne_says_why(avne, bed):
    """In the default mode both have the same profile: the lock of the one outside is found, and no socket."""
    home = avne.person.home
    inside = ["firefox-esr", "--headless", "--screenshot", str(home / "shot.png"), URL]
    before = len(_asked(bed))
    for old in _locks(home):
        os.unlink(old)  # of one that was killed
    with _running(avne, ["firefox-esr", "--headless", "about:blank"]) as outside:
        _until(lambda: _locks(home))
        done = avne.run(*inside, upstream=bed.socks)
        assert "avne: firefox-esr ended at once, and spoke with nobody. " in done.stderr
        assert done.stderr.endswith("try avne run --profile NAME, or its --profile DIR\n")
        assert len(_asked(bed)) == before
        apart = avne.run(*inside, upstream=bed.socks, options=["--profile", "apart"])
        assert apart.returncode == 0
        assert "ended at once" not in apart.stderr
        assert len(_asked(bed)) == before + 1
        assert outside.poll() is None


def test_chromium_inside_ends_at_once_beside_one_outside_and_avne_says_why(avne, bed, display):
    """On a display it would ask what to do, and wait; with a directory of its own it does its work itself."""
    lock = avne.person.home / ".config/chromium/SingletonLock"
    before = len(_asked(bed))
    lock.unlink(missing_ok=True)  # of one that was killed
    with _running(avne, ["chromium", "about:blank"], display) as outside:
        _until(lambda: os.path.lexists(lock))
        done = avne.run("chromium", URL, upstream=bed.socks)
        assert done.returncode == 21
        assert "The profile appears to be in use by another Chromium process" in done.stderr
        assert "avne: chromium ended at once, and spoke with nobody. " in done.stderr
        assert done.stderr.endswith("try its --user-data-dir=DIR\n")
        assert len(_asked(bed)) == before
        own = ["chromium", "--user-data-dir=/tmp/own", URL]
        with avne.start(*own, upstream=bed.socks, options=["--gui"], env=display):
            _until(lambda: len(_asked(bed)) == before + 1)
        assert outside.poll() is None
