# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmark's own arithmetic: a wrong table would be believed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.__main__ import arguments, chosen, measured_metrics, present
from bench.flatness import shown
from bench.processes import descendants, parse_stat
from bench.report import render, summarize
from bench.rows import known_tools
from bench.tools import Avne, Prefix
from tests.bench.made_up import result, sample, samples

# Round 1 was slow for all. The ratio of the medians is 0.4; the ratios of the rounds are 0.5, 0.3 and 0.2.
SAMPLES = [
    sample(0, "native", "down1.mb_s", 100),
    sample(1, "native", "down1.mb_s", 10),
    sample(2, "native", "down1.mb_s", 200),
    sample(0, "avne", "down1.mb_s", 50),
    sample(1, "avne", "down1.mb_s", 3),
    sample(2, "avne", "down1.mb_s", 40),
]


def test_ratios_are_taken_round_by_round():
    row = summarize(SAMPLES)["avne"]["down1.mb_s"]
    assert row == {"median": 40, "min": 3, "max": 50, "n": 3, "ratio": pytest.approx(0.3)}


def test_a_round_without_native_has_no_ratio():
    without = [one for one in SAMPLES if (one["tool"], one["round"]) != ("native", 1)]
    assert summarize(without)["avne"]["down1.mb_s"]["ratio"] == pytest.approx(0.35)
    alone = [one for one in SAMPLES if one["tool"] == "avne"]
    assert "ratio" not in summarize(alone)["avne"]["down1.mb_s"]


def test_ratios_may_be_to_another_tool():
    assert summarize(SAMPLES, "avne")["native"]["down1.mb_s"]["ratio"] == pytest.approx(10 / 3)
    assert "| native | 100 (10–200) ×3.33 |" in render(result(SAMPLES, ["native", "avne"], []), "avne")


def test_several_samples_of_a_round_count_as_one_ratio():
    samples = [sample(0, "native", "start.ms", 2), *(sample(0, "x", "start.ms", ms) for ms in (10, 20, 90))]
    assert summarize(samples)["x"]["start.ms"]["ratio"] == 10


def test_tables_show_medians_spreads_ratios_and_gaps():
    text = render(result(SAMPLES, ["native", "avne", "absent"], ["avne, round 1: it was slow"]))
    assert "| avne | 40 (3–50) ×0.30 |" in text
    assert "absent" not in text
    assert "### DNS" not in text
    assert text.rstrip().endswith("- avne, round 1: it was slow")


def test_errors_show_the_worst_round():
    errors = [sample(n, "x", "conn_seq.errors", bad) for n, bad in enumerate((0, 7, 1))]
    assert "| x | 7 |" in render(result(errors, ["x"], []))


def test_memory_by_process_is_told_for_tools_that_have_several():
    samples = [
        sample(0, "avne", "idle0.process_pss_mib avne [net]", 20),
        sample(0, "avne", "idle0.process_pss_mib avne [tor 1]", 19.5),
        sample(0, "pasta", "idle0.process_pss_mib pasta", 19),
    ]
    text = render(result(samples, ["avne", "pasta"], []))
    assert "- avne: avne [net] 20, avne [tor 1] 19.5\n" in text
    assert "- pasta" not in text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.01234, "0.0123"), (9.999, "10"), (99.96, "100"), (12345.6, "12346")]
)
def test_three_digits(value, text):
    assert shown(value) == text


def test_a_process_name_may_hold_anything():
    process = parse_stat("42 (a) (b c) S 7 " + " ".join(map(str, range(5, 60))))
    # Fields 14 to 17 of proc_pid_stat(5): utime, stime, cutime, cstime.
    assert process == (42, 7, "a) (b c", 14 + 15 + 16 + 17)


def test_descendants_do_not_hold_their_root():
    found = {process.pid for process in descendants(1)}
    assert 1 not in found


def test_rows_have_names_of_their_own_and_added_ones_replace():
    rows = known_tools(["mine=my tool --to {socks}", "avne=other run --"])
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    assert names[-1] == "mine"
    replaced = next(row for row in rows if row.name == "avne")
    assert type(replaced) is Prefix
    assert replaced.words == ["other", "run", "--"]


def test_an_added_row_needs_a_command():
    with pytest.raises(SystemExit, match="NAME=COMMAND"):
        known_tools(["mine"])


def test_a_prefix_is_told_where_the_proxy_is():
    lab = SimpleNamespace(host=["in-host"], tmp=Path("/lab"))
    with Avne("avne").environment(lab) as words:
        assert words[0] == "in-host"
        assert "socks5://127.0.0.1:1080" in words
        assert "XDG_STATE_HOME=/lab" in words
        assert words[-1] == "--"


def test_missing_tools_are_left_out_of_all_and_refused_by_name(capsys):
    rows = [known_tools([])[0], Prefix("mine", ["no-such-program-anywhere"])]
    assert [row.name for row in present(rows, "all")] == ["native"]
    assert capsys.readouterr().err == "without mine: no no-such-program-anywhere\n"
    with pytest.raises(SystemExit, match="mine: no no-such-program-anywhere"):
        present(rows, "native,mine")


def test_unknown_names_are_refused():
    assert chosen("b,a", ["a", "b"], "tool") == ["b", "a"]
    with pytest.raises(SystemExit, match="no tool 'c'"):
        chosen("a,c", ["a", "b"], "tool")


def test_idle_counts_ascend():
    assert arguments(["--idle", "10,20"]).idle == [10, 20]
    assert arguments([]).idle == [1000, 9000]
    for bad in ("20,10", "", "x"):
        with pytest.raises(SystemExit):
            arguments(["--idle", bad])


def test_counters_show_the_worst_round():
    drops = samples("x", "down256.drops", 0, 12, 0)
    timeouts = samples("x", "down256.timeouts", 0, 0, 3)
    assert "| x | 12 | 3 |" in render(result(drops + timeouts, ["x"], []))


def test_the_long_metric_is_measured_only_by_name():
    assert "flat" not in measured_metrics("all")
    assert measured_metrics("ping,flat") == ["ping", "flat"]
