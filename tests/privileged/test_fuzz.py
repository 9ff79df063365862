# SPDX-License-Identifier: GPL-3.0-or-later
"""A million requests to attach under gcc's sanitizers: no error of memory, nothing left open."""

from __future__ import annotations

import subprocess
from pathlib import Path

import hatch_build

ROUNDS = 1_000_000
_OTHERS = ("identity.c", "init.c", "netlink.c", "network.c", "paths.c", "seal.c", "veth.c", "view.c")
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]


def test_requests_to_attach(tmp_path):
    sources = {
        "attach.c": ["-Dstart_program=counted_start", "-Dkill=counted_kill"],
        "program.c": [],
        "helper.c": ["-Dmain=helper_main"],
        **{name: [] for name in _OTHERS},
    }
    assert {*sources} == {source.name for source in hatch_build.SOURCES}
    common = ["-std=gnu11", "-O1", "-g", "-I", str(hatch_build.PRIVILEGED), "-DAVNE_LAYOUT=1ULL", *SANITIZERS]
    objects = []
    for path in (*hatch_build.SOURCES, Path(__file__).with_name("fuzz_attach.c")):
        objects.append(str(tmp_path / f"{path.stem}.o"))
        words = [*common, *sources.get(path.name, []), "-c", "-o", objects[-1], str(path)]
        subprocess.run([*hatch_build.compiler(), *words], check=True)
    program = str(tmp_path / "fuzz")
    subprocess.run([*hatch_build.compiler(), *SANITIZERS, "-o", program, *objects], check=True)
    done = subprocess.run([program, str(ROUNDS)], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    rounds, started, refused, signals = map(int, done.stdout.split())
    assert rounds == ROUNDS
    assert started > ROUNDS // 20
    assert refused > ROUNDS // 20
    assert signals > ROUNDS // 20
