# SPDX-License-Identifier: GPL-3.0-or-later
"""Resolvers with an upstream; a play must have come to its end."""

from __future__ import annotations

import pytest
from dns_playbook import SOCKS, TOR, Playbook


@pytest.fixture
def tor():
    book = Playbook(TOR)
    yield book
    book.end()


@pytest.fixture
def socks():
    book = Playbook(SOCKS)
    yield book
    book.end()
