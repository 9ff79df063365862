# SPDX-License-Identifier: GPL-3.0-or-later
"""Each layer is needed: without it its probes turn red, and only they."""

from __future__ import annotations

import pytest

import hatch_build
from avne.probes.probe import LEAKED, load
from tests.leaks.ablation import GREEN, LAYERS, build, changed, without
from tests.leaks.matrix import HOST, ROOTLESS, row

pytestmark = pytest.mark.timeout(240)


@pytest.mark.parametrize("name", LAYERS)
def test_without_a_layer_its_probes_turn_red(name, rows, machine, installed):
    layer = LAYERS[name]
    red = {probe for probe in layer.red if rows[HOST].findings[probe].kind == LEAKED}
    with without(layer, machine, installed):
        found = row(machine, installed, ROOTLESS, only=[*layer.red, *GREEN])
    assert set(found.named(LEAKED)) == red


def test_the_whole_is_back(rows, machine, installed):
    """After the layers, the same helper as before: nothing of an ablation stays."""
    probes = {probe for layer in LAYERS.values() for probe in layer.red if load()[probe].entrance == ""}
    found = row(machine, installed, ROOTLESS, only=[*probes, *GREEN])
    assert found.named(LEAKED) == {}
    assert len(found.findings) == len(probes) + len(GREEN)


def test_the_product_has_no_switch_for_it():
    """No layer depends on a macro of the compiler's command line."""
    for path in hatch_build.SOURCES:
        assert "ABLATE" not in path.read_text()
    assert build({}) != build(changed(hatch_build.PRIVILEGED.parent, LAYERS["seccomp filter"].changes))
