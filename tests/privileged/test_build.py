# SPDX-License-Identifier: GPL-3.0-or-later
"""The helper's build: what the binary is, what the compiler's absence says, how large the source is."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

import hatch_build
from avne import limits
from avne.netstack import addresses
from avne.netstack.wire import ethernet

ROOT = hatch_build.ROOT
SOURCES = hatch_build.SOURCES


def test_the_binary_is_static_hardened_and_small(helper):
    headers = subprocess.run(["readelf", "-lhdW", helper], capture_output=True, text=True, check=True).stdout
    assert "INTERP" not in headers, "no loader, and no variable of the environment for it"
    assert "NEEDED" not in headers
    assert "GNU_RELRO" in headers
    (stack,) = [line for line in headers.splitlines() if "GNU_STACK" in line]
    assert "RWE" not in stack
    assert "Type:                              DYN" in headers, "its place in memory is random"
    assert helper.stat().st_size < 1 << 20
    assert helper.stat().st_mode & 0o7777 == 0o755


def test_the_build_is_reproducible(helper, tmp_path):
    """So that `setup` and `doctor` can compare hashes of a helper that was built again."""
    again = tmp_path / "avne-helper"
    hatch_build.build_helper(again)
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(helper.read_bytes()).digest()


@pytest.mark.parametrize(
    ("compiler", "words"),
    [("no-such-compiler", "cannot run no-such-compiler"), ("false", "cannot make a static program")],
)
def test_without_a_compiler_the_cure_is_said(monkeypatch, tmp_path, compiler, words):
    monkeypatch.setenv("CC", compiler)
    with pytest.raises(hatch_build.BuildError, match=words) as caught:
        hatch_build.build_helper(tmp_path / "avne-helper")
    assert "apt install gcc libc6-dev" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_compile_error_is_shown(monkeypatch, tmp_path):
    broken = tmp_path / "broken.c"
    broken.write_text("int main(void) { return nothing; }\n")
    monkeypatch.setattr(hatch_build, "SOURCES", [broken])
    with pytest.raises(hatch_build.BuildError, match="nothing"):
        hatch_build.build_helper(tmp_path / "avne-helper")


def test_by_itself_it_needs_nothing_but_python_and_says_errors_plainly():
    done = subprocess.run(
        [sys.executable, "-I", "-S", ROOT / "hatch_build.py"],
        env={"CC": "false", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("hatch_build: false cannot make a static program")
    assert "Traceback" not in done.stderr


def test_the_layout_is_that_of_the_header():
    digest = hashlib.sha256((hatch_build.PRIVILEGED / "request.h").read_bytes()).digest()
    assert hatch_build.layout() == int.from_bytes(digest[:8], "little")


def test_cppcheck_finds_nothing():
    done = subprocess.run(
        [
            "cppcheck", "--quiet", "--enable=all", "--inconclusive", "--std=c11", "--error-exitcode=1",
            "--suppress=missingIncludeSystem", "--suppress=unmatchedSuppression", "--suppress=checkersReport",
            # Newer versions: a note about themselves; fail() does not return; a buffer's spare room.
            "--suppress=normalCheckLevelMaxBranches", "--suppress=nullPointerArithmeticOutOfMemory",
            "--suppress=unusedStructMember",
            "-DAVNE_LAYOUT=1ULL", "-D__x86_64__", *SOURCES,
        ],
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_gcc_s_analyzer_finds_nothing(path):
    done = subprocess.run(
        [
            "gcc",
            "-std=gnu11",
            "-O2",
            "-fanalyzer",
            "-Werror",
            "-DAVNE_LAYOUT=1ULL",
            "-S",
            "-o",
            "/dev/null",
            path,
        ],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_privileged_source_stays_small():
    """What runs with privilege: small enough to be read in one go."""
    lines = {path.name: len(path.read_text().splitlines()) for path in SOURCES}
    unprivileged = [lines.pop(name) for name in ("init.c", "program.c", "attach.c", "seal.c")]
    assert max(unprivileged) <= 350
    assert sum(unprivileged) <= 850
    assert lines.pop("veth.c") <= 100, "in a user namespace, or as root's own"
    assert max(lines.values()) <= 340
    assert sum(lines.values()) <= 1270


def test_the_constants_are_those_of_the_other_parts():
    header, network, view, veth = (
        (hatch_build.PRIVILEGED / name).read_text() for name in ("netlink.h", "network.c", "view.c", "veth.c")
    )
    assert f"TUN_MTU = {limits.TUN_MTU}," in header
    assert f"TUN_QUEUE = {limits.TUN_QUEUE}," in header
    for name, address in (("stack", ethernet.STACK), ("tun", ethernet.GUEST)):
        digits = ", ".join(f"{byte:#04x}" for byte in address)
        assert f"{name}_mac[ETH_ALEN] = {{{digits}}};" in veth
    assert f"nameserver {addresses.GATEWAY_V4}\\n" in view
    assert f"nameserver {addresses.GATEWAY_V6}\\n" in view
    assert addresses.TUN_V4 == "10.213.0.2"
    assert "#define NETWORK_V4 10, 213, 0\n" in network


def test_every_remount_is_of_a_bind():
    """Without MS_BIND it would change the host's file system, from inside a mount namespace too."""
    for path in map(Path, SOURCES):
        for line in path.read_text().splitlines():
            if "MS_REMOUNT" in line:
                assert "MS_BIND" in line
