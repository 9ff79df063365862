# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole runs: what avne shows of itself, and that its filter never hits itself."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from avne.cli import sandbox
from tests.bed import people
from tests.confine.starts import ROOT, starts

STATUS = {
    "Uid": "1000\t1000\t1000\t1000", "Seccomp": "2", "NoNewPrivs": "1",
    **dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapAmb"), "0" * 16),
}  # fmt: skip
GOOD = sandbox.Facts(STATUS, ["lo"], ["tmpfs", "proc"], 0)


def test_the_filter_kills_none_of_twenty_starts():
    assert starts(20) == {"good": 20}


def test_doctor_shows_policies_and_proofs(tmp_path):
    environ = {"PATH": "/usr/bin:/bin", "XDG_STATE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "avne", "doctor", "--sandbox"]
    done = subprocess.run(words, env=environ, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "netstack: 28 system calls; any other kills the process" in done.stdout
    assert "netstack with workers elsewhere: 40 system calls" in done.stdout
    assert "worker (remote): " in done.stdout
    assert "mmap(arg2&0x4=0x0)" in done.stdout
    done = subprocess.run([*words, "--json"], env=environ, capture_output=True, text=True, timeout=60)
    found = json.loads(done.stdout)
    assert {proof["name"]: proof["ok"] for proof in found["proofs"]} == {
        "netstack": True, "worker": True, "calls of the netstack": True, "calls of the worker": True,
        "calls of the netstack with workers elsewhere": True,
    }  # fmt: skip
    assert "network: none but lo" in found["proofs"][0]["detail"]


@pytest.mark.e2e
def test_doctor_s_proof_holds_for_an_ordinary_user(installed, user):
    done = people.run_as(user, [str(installed.avne), "doctor", "--sandbox"])
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout.count(f"uid {user.uid}") == 2
    assert done.stdout.count("network: none but lo") == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"Seccomp": "0"}, "no filter is in force"),
        ({"NoNewPrivs": "0"}, "it could gain privileges"),
        ({"CapPrm": "0000000000000001"}, "it has capabilities (CapPrm)"),
        ({"Uid": "0\t0\t0\t0"}, "it is root"),
    ],
)
def test_what_is_wrong_is_told(change, said):
    assert sandbox.faults(GOOD, True, True) == []
    assert sandbox.faults(GOOD._replace(status={**STATUS, **change}), True, True) == [said]


def test_what_is_in_sight_is_told():
    facts = GOOD._replace(interfaces=["lo", "eth0"], mounts=["tmpfs", "ext4"])
    assert sandbox.faults(facts, True, True) == ["it has a network: lo eth0", "it sees files: tmpfs ext4"]
    assert sandbox.faults(facts, False, False) == []


def test_one_that_can_be_traced_is_told(monkeypatch):
    monkeypatch.setattr(sandbox.os, "geteuid", lambda: 1000)
    assert sandbox.faults(GOOD._replace(owner=1000), True, True) == ["it can be traced"]
