# SPDX-License-Identifier: GPL-3.0-or-later
"""One helper for all these tests, built as the package builds it, where every user can run it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

import hatch_build
from avne.privileged import launch
from tests.privileged import stage


@pytest.fixture(scope="session")
def helper():
    assert os.geteuid() == 0, "these tests need root (make test)"
    directory = Path(tempfile.mkdtemp(prefix="avne-test-", dir="/usr/local/lib"))
    try:
        directory.chmod(0o755)
        (directory / "setuid").mkdir()
        path = directory / "avne-helper"
        hatch_build.build_helper(path)
        assert hatch_build.layout() == launch.layout(), (
            "the package was built from another request.h: make venv"
        )
        yield path
    finally:
        shutil.rmtree(directory)


@pytest.fixture(params=stage.MODES, ids=lambda mode: mode.name)
def mode(request):
    """Each of the three ways to become an environment."""
    return request.param
