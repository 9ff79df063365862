# SPDX-License-Identifier: GPL-3.0-or-later
"""The kept corpus, and a few thousand new inputs for each surface, the same ones in every run."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avne.errors import Malformed

from . import engine, guests
from .world import World

EACH = 400  # times the harness's weight


@pytest.mark.parametrize("harness", engine.HARNESSES)
def test_a_few_thousand(harness):
    found = engine.run(harness, EACH * engine.WEIGHTS[harness], seed=1)
    assert not found.findings, found.findings[0].error
    assert len(found.features) > 2


@pytest.mark.parametrize("harness", engine.HARNESSES)
@settings(max_examples=50)
@given(data=st.binary(max_size=engine.LONGEST))
def test_any_bytes(harness, data):
    _, error = engine.examine(harness, data)
    assert not error


def test_the_corpus_is_small():
    files = [path for path in engine.CORPUS.rglob("*") if path.is_file()]
    assert files
    assert sum(path.stat().st_size for path in files) < 500 << 10
    assert {path.parent.name for path in files} == set(engine.HARNESSES)


# ---- harnesses that could not fail would prove nothing ---------------------------------------------


def test_a_broken_stack_is_found(monkeypatch):
    """Each harness of the stack sees a fault that is put there."""
    monkeypatch.setattr("avne.netstack.tcp.arrives._trim", lambda c, seg: seg)
    assert engine.run("segments", 3000, seed=1).findings


def test_a_bad_checksum_is_found(monkeypatch):
    monkeypatch.setattr("avne.netstack.wire.icmp.checksum.checksum", lambda data: 7)
    assert engine.run("frames", 2000, seed=1).findings


def test_an_exception_is_found(monkeypatch):
    def fails(data):
        raise IndexError("out of range")

    monkeypatch.setattr("avne.netstack.wire.tcp.parse_options", fails)
    assert "IndexError" in engine.run("tcp-options", 5, seed=1).findings[0].error


def test_a_worker_that_breaks_the_rules_is_cut_off():
    world = World("tor", 3, False, False)
    assert not world.handle(b"w0", b"\xc1")
    assert world.features == {"cut-off wire-header-syntax"}
    with contextlib.suppress(Malformed):
        world.stack.handle(b"w0", b"\xc1", None, world.now)


def test_the_streams_bytes_say_where_they_stand():
    assert guests._stream(5, 9) == guests.STREAM[5:14]
    assert guests._stream(len(guests.STREAM) - 2, 4) == guests.STREAM[-2:] + guests.STREAM[:2]
