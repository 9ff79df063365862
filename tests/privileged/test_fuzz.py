# SPDX-License-Identifier: GPL-3.0-or-later
"""Spoilt messages to the helper, in short: no error of memory, nothing granted that is not to be.

``make fuzz-helper`` does a million of each kind.
"""

from __future__ import annotations

import pytest

from tests.privileged import fuzz

ROUNDS = {"attach": 200_000, "request": 40_000}
SEED = 1_000  # not one of `make fuzz-helper`


@pytest.mark.parametrize("name", ROUNDS)
def test_spoilt_messages(name, tmp_path):
    rounds = ROUNDS[name]
    done, *counts = fuzz.run(fuzz.build(name, tmp_path), rounds, SEED)
    assert done == rounds
    assert all(count > rounds // 20 for count in counts), counts
