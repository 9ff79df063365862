# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/resolvers.md is what the clients say: of each mode, those that the suite has installed."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.bed.places import ZONE
from tests.bed.runs import Avne
from tests.resolvers import matrix
from tests.resolvers.clients import CLIENTS, build

SUITE = tuple(client for client in CLIENTS if client.suite)


@pytest.fixture(scope="module")
def programs():
    with tempfile.TemporaryDirectory(dir="/usr/local/lib", prefix="avne-resolvers-") as name:
        build(Path(name), SUITE)
        yield Path(name)


@pytest.fixture
def documented():
    return matrix.columns(matrix.PAGE.read_text())


@pytest.mark.parametrize(
    ("mode", "clients"), [("truthful", SUITE), *((mode, SUITE[:2]) for mode in matrix.MODES[1:])]
)
def test_the_page_is_what_the_clients_say(in_mode, tor, programs, documented, mode, clients):
    avne: Avne = in_mode("root")
    for client in clients:
        wanted = documented[mode][client.name]
        if client.name == "musl":
            del wanted[f"A:servfail.{ZONE}"]  # it asks again and again, for 10 s
        assert matrix.ask(avne, tor, mode, client, programs, list(wanted)) == wanted, client.name


def test_the_page_has_everything(documented):
    assert list(documented) == list(matrix.MODES)
    for clients in documented.values():
        assert {name: list(cells) for name, cells in clients.items()} == {
            client.name: client.questions() for client in CLIENTS
        }
    assert matrix.page(documented) == matrix.PAGE.read_text()
