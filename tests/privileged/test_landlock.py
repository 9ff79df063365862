# SPDX-License-Identifier: GPL-3.0-or-later
"""The Landlock part of the seal on kernels of another age: what it asks, and what that leaves possible."""

from __future__ import annotations

import errno
import shlex
import subprocess
from pathlib import Path

import pytest

import hatch_build

RESOLVE_UNIX, REFER = 1 << 16, 1 << 13


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    path = tmp_path_factory.mktemp("landlock") / "harness"
    sources = [Path(__file__).with_name("landlock_harness.c"), hatch_build.PRIVILEGED / "seal.c"]
    options = ["-std=gnu11", "-O1", "-Wall", "-DAVNE_LAYOUT=1ULL", f"-I{hatch_build.PRIVILEGED}"]
    wraps = shlex.split("-Wl,--wrap=syscall -Wl,--wrap=prctl")
    subprocess.run([*hatch_build.compiler(), *options, *wraps, "-o", path, *sources], check=True)
    return path


@pytest.fixture
def sealed(harness, tmp_path):
    """sealed(ABI, …): the lines of a seal, and of a rename between two directories after it."""
    for name in ("one", "two", "share"):
        (tmp_path / name).mkdir()
    (tmp_path / "one/file").write_text("")

    def sealed(abi, forward="keep", how="seal"):
        words = [str(tmp_path / name) for name in ("one", "two", "share")]
        done = subprocess.run([harness, str(abi), forward, how, *words], capture_output=True, text=True)
        return done.stdout.replace(str(tmp_path), "").splitlines()

    return sealed


@pytest.mark.parametrize("abi", [-1, 1, 7, 8])
def test_older_kernels_are_asked_for_nothing(sealed, abi):
    assert sealed(abi) == ["rename 0"]


@pytest.mark.parametrize("abi", [9, 10, 99])
def test_newer_kernels_refuse_all_sockets_but_those_of_opened_shares(sealed, abi):
    """The first share is not an opened one."""
    assert sealed(abi) == [
        f"handled {RESOLVE_UNIX | REFER:#x}",
        f"rule {REFER:#x} /",
        f"rule {RESOLVE_UNIX:#x} /share",
        "restrict",
        "rename 0",
    ]


def test_without_unix_sockets_there_is_nothing_to_hide(sealed):
    assert sealed(9, how="strict") == ["rename 0"]


def test_files_can_still_be_moved_between_directories(sealed):
    """By this kernel's Landlock, without the right it may lack.  A ruleset that is silent forbids it."""
    assert sealed(9, "forward")[-2:] == ["restrict", "rename 0"]


def test_the_control_of_that(sealed):
    assert sealed(9, "forward", "without") == [f"rename {errno.EXDEV}"]
