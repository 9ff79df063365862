# SPDX-License-Identifier: GPL-3.0-or-later
"""One machine for all leak tests, and one matrix."""

from __future__ import annotations

import pytest

from tests.leaks.machine import Machine
from tests.leaks.matrix import matrix


@pytest.fixture(scope="session")
def machine(installed, user):
    with Machine(installed.avne, user) as machine:
        yield machine


@pytest.fixture(scope="session")
def rows(machine, installed):
    """Every probe in every environment, once: half a minute."""
    return matrix(machine, installed)
