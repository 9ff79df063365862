# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate: it must fail for what is worse, and for nothing else."""

from __future__ import annotations

import contextlib
import json

import pytest

from bench import __main__ as program
from bench import gate
from bench.metrics import METRICS
from bench.tools import Native
from tests.bench.made_up import SETTINGS, result, samples

SPEED, COST = "down1.mb_s", "ping.p50_us"
HEV = samples("hev", SPEED, 1000, 500, 800) + samples("hev", COST, 100, 200, 100)
MEASURED = ["throughput", "ping"]


def avne(speeds=(500, 250, 400), costs=(400, 800, 400)):
    """By default half of hev's speed, four times its cost."""
    return samples("avne", SPEED, *speeds) + samples("avne", COST, *costs)


@pytest.fixture
def recorded():
    return gate.record(result(HEV + avne(), ["hev", "avne"], []))


def test_the_record_has_the_ratios_and_how_they_were_measured(recorded):
    assert recorded["ratios"] == {SPEED: {"hev": 0.5}, COST: {"hev": 4.0}}
    assert recorded["peers"] == ["hev"]
    assert recorded["settings"] == SETTINGS
    assert json.loads(json.dumps(recorded)) == recorded


def test_a_run_without_a_peer_cannot_be_recorded():
    with pytest.raises(ValueError, match="another tool"):
        gate.record(result(avne(), ["avne"], []))


def test_the_same_ratios_pass_on_a_machine_half_as_fast(recorded):
    slow = [{**one, "value": one["value"] / 2} for one in HEV + avne()]
    verdicts = gate.compare(recorded, slow, MEASURED)
    assert len(verdicts) == 2
    assert not gate.failures(verdicts)


@pytest.mark.parametrize(
    ("measure", "recorded", "now", "worse"),
    [
        (SPEED, 1.0, 0.86, False),
        (SPEED, 1.0, 0.84, True),
        (SPEED, 1.0, 5.0, False),
        (COST, 4.0, 4.5, False),
        (COST, 4.0, 4.7, True),
        (COST, 4.0, 0.1, False),
    ],
)
def test_worse_is_less_speed_or_more_cost(measure, recorded, now, worse):
    assert gate.is_worse(measure, recorded, now) is worse


def test_a_slower_avne_fails_and_the_table_says_where(recorded):
    verdicts = gate.compare(recorded, HEV + avne(speeds=(400, 200, 320)), MEASURED)
    assert [(one.measure, one.peer) for one in gate.failures(verdicts)] == [(SPEED, "hev")]
    lines = list(gate.table(verdicts))
    assert f"| {SPEED} | hev | ×0.5 | ×0.4 | **20 % worse** |" in lines
    assert f"| {COST} | hev | ×4 | ×4 | 0 % worse |" in lines
    assert "1 of 2 ratios are worse by more than 15%." in lines


def test_each_peer_is_compared_with_itself():
    native = samples("native", SPEED, 2000, 2000, 2000)
    before = gate.record(result(HEV + native + avne(), ["native", "hev", "avne"], []))
    faster_native = samples("native", SPEED, 4000, 4000, 4000)
    verdicts = gate.compare(before, HEV + faster_native + avne(), MEASURED)
    assert [(one.measure, one.peer) for one in gate.failures(verdicts)] == [(SPEED, "native")]


def test_a_figure_that_avne_no_longer_has_fails(recorded):
    without = [one for one in avne() if one["measure"] != COST]
    (missing,) = gate.failures(gate.compare(recorded, HEV + without, MEASURED))
    assert (missing.measure, missing.now) == (COST, None)
    assert "no figure" in missing.words


def test_a_peer_that_was_not_measured_is_said_and_no_failure(recorded):
    verdicts = gate.compare(recorded, avne(), MEASURED)
    assert not gate.failures(verdicts)
    assert {one.words for one in verdicts} == {"the peer has no figure"}
    assert f"Not compared, as the peer has no figure: {SPEED} to hev, {COST} to hev." in gate.table(verdicts)
    assert "0 of 0 ratios are worse by more than 15%." in gate.table(verdicts)


def test_metrics_that_were_not_measured_are_not_compared(recorded):
    assert [one.measure for one in gate.compare(recorded, HEV + avne(), ["ping"])] == [COST]


def test_every_figure_is_of_a_metric_that_exists():
    assert {figure.metric for figure in gate.FIGURES.values()} <= set(METRICS)


class Run:
    """Takes the place of the rounds: gives the next made-up samples, and keeps what was asked."""

    def __init__(self, *runs):
        self.runs = list(runs)
        self.metrics = []

    def __call__(self, lab, found, options, tools):
        self.metrics.append(found["meta"]["metrics"])
        first = found["meta"]["rounds_done"]
        found["samples"] += [{**one, "round": one["round"] + first} for one in self.runs.pop(0)]
        found["meta"].update(rounds_done=first + 3, load_min=0.0, load_max=0.0)


@pytest.fixture
def command(recorded, tmp_path, monkeypatch):
    """`bench --compare` with a record and made-up runs → its status."""
    path = tmp_path / "recorded.json"
    path.write_text(json.dumps(recorded))

    def compared(run):
        monkeypatch.setattr(program, "run", run)
        monkeypatch.setattr(program, "Lab", contextlib.nullcontext)
        options = program.arguments(["--compare", str(path)])
        status = program.compared(options, [Native("avne"), Native("hev")], MEASURED)
        assert options.mib == SETTINGS["mib"]  # measured as it was recorded
        return status

    return compared


def test_the_command_succeeds_when_nothing_is_worse(command, capsys):
    assert command(Run(HEV + avne())) == 0
    assert "0 of 2 ratios are worse" in capsys.readouterr().out


def test_the_command_fails_when_a_ratio_is_worse_twice(command, capsys):
    slow = HEV + avne(speeds=(300, 150, 240))
    run = Run(slow, slow)
    assert command(run) == 1
    assert run.metrics == [MEASURED, ["throughput"]]
    assert "**40 % worse**" in capsys.readouterr().out


def test_what_seemed_worse_may_be_well_after_all(command):
    """Two of the first three rounds were disturbed; of all six, few."""
    run = Run(HEV + avne(speeds=(300, 150, 400)), HEV + avne())
    assert command(run) == 0


def test_the_command_fails_when_nothing_could_be_compared(command, capsys):
    assert command(Run(avne())) == 1
    assert "nothing was compared" in capsys.readouterr().err
