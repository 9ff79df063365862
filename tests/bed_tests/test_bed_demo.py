# SPDX-License-Identifier: GPL-3.0-or-later
"""`make demo` shows what it says."""

import os
import subprocess
import sys

import pytest

from tests.bed import places
from tests.bed.tornet.network import REPOSITORY


@pytest.mark.e2e
@pytest.mark.tor
def test_the_demo():
    env = {**os.environ, "SUDO_USER": ""}
    done = subprocess.run(
        [sys.executable, "-m", "tests.bed.demo"], cwd=REPOSITORY, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    shown = [line.strip() for line in done.stdout.splitlines()]
    assert set(places.PAGE.splitlines()) <= set(shown)
    assert [line.split()[0] for line in shown if "relay" in line and len(line.split()) == 3][-1] == "exit"
    assert "to the server, or with its name in them: 0" in shown
