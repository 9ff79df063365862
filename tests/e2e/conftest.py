# SPDX-License-Identifier: GPL-3.0-or-later
"""Real runs of the installed avne: as an ordinary user (rootless and setuid) and as root."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from tests.bed import people
from tests.bed.runs import Avne, Place


@pytest.fixture(scope="session")
def places_by_mode(installed, user):
    """One mount namespace per mode, made when it is first asked for."""
    made: dict[str, Place] = {}

    def place(mode: str) -> Place:
        if mode not in made:
            tun = {"rootless": "0666", "setuid": "0600", "root": "0600", "veth": "0600"}[mode]
            made[mode] = Place(tun, installed.avne if mode == "setuid" else "", user.name)
        return made[mode]

    yield place
    for one in made.values():
        one.close()


@pytest.fixture
def in_mode(installed, user, places_by_mode):
    """`in_mode("rootless" | "setuid" | "root")` gives an `Avne`."""

    def make(mode: str) -> Avne:
        person = people.ROOT if mode == "root" else user
        return Avne(mode, installed.avne, person, places_by_mode(mode))

    return make


@pytest.fixture
def avne(in_mode):
    """The default: an ordinary user, rootless."""
    return in_mode("rootless")


@pytest.fixture(params=["rootless", "setuid", "root"])
def any_avne(request, in_mode):
    """Each of the three ways to become an environment."""
    return in_mode(request.param)


@pytest.fixture
def tmp_path_for():
    """A directory of the person's own, below the home directory."""
    made: list[tempfile.TemporaryDirectory[str]] = []

    def make(avne: Avne) -> Path:
        directory = tempfile.TemporaryDirectory(dir=avne.person.home)
        os.chown(directory.name, avne.person.uid, avne.person.gid)
        made.append(directory)
        return Path(directory.name)

    yield make
    for directory in made:
        directory.cleanup()
