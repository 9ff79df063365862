# SPDX-License-Identifier: GPL-3.0-or-later
"""The cost beside idle connections: its table and its picture."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from bench.flatness import Point, curve, plot
from bench.report import render
from tests.bench.made_up import result, samples

# Round 1 was twice as dear for all: the ratios of the rounds are 1.5, 1.25 and 1.4.
CPU = (
    samples("avne", "flat10_connect.tool_cpu_us", 100, 200, 100)
    + samples("avne", "flat1000_connect.tool_cpu_us", 150, 250, 140)
    + samples("native", "flat10_connect.p50_us", 50, 50, 50)
    + samples("native", "flat1000_connect.p50_us", 60, 60, 60)
)


def test_a_curve_is_of_medians_and_of_ratios_round_by_round():
    assert curve(CPU, "avne", "connect.tool_cpu_us") == [Point(10, 100, 1.0), Point(1000, 150, 1.4)]
    assert curve(CPU, "avne", "ping.p50_us") == []


def test_a_cost_of_nothing_has_no_curve():
    name = "ping.tool_cpu_us"
    nothing = samples("native", f"flat10_{name}", 0) + samples("native", f"flat99_{name}", 0)
    assert curve(nothing, "native", name) == []


def test_a_round_that_ended_early_counts_where_it_came_to():
    early = CPU[:5]  # the last round has no figure with 1,000
    assert curve(early, "avne", "connect.tool_cpu_us")[1] == Point(1000, 200, pytest.approx(1.375))


def test_the_table_has_a_row_for_each_tool_and_cost():
    text = render(result(CPU, ["native", "avne"], []))
    assert "| tool | cost | 10 open | 1,000 open |" in text
    assert "| avne | CPU of a connection, µs | 100 ×1.00 | 150 ×1.40 |" in text
    assert "| native | time of a connection, µs | 50 ×1.00 | 60 ×1.20 |" in text
    assert "open and idle" not in render(result([], ["avne"], []))


def test_the_picture_is_higher_where_the_cost_is():
    picture = ElementTree.fromstring(plot(CPU, "avne"))
    space = "{http://www.w3.org/2000/svg}"
    curves = [path.get("d") for path in picture.iter(f"{space}path") if "L" in path.get("d")]
    dashed, solid = ([tuple(map(float, at.split())) for at in d[1:].split("L")] for d in curves)
    for (left, low), (right, high) in (dashed, solid):
        assert left < right
        assert low > high  # y grows downward
    assert solid[0] == dashed[0]
    assert solid[1][1] < dashed[1][1]
    words = " ".join(text.text for text in picture.iter(f"{space}text"))
    assert "the bar: 1.3" in words
    assert "CPU of a connection, µs: 100 → 150" in words


def test_without_measurements_there_is_no_picture():
    with pytest.raises(ValueError, match="no measurements of hev"):
        plot(CPU, "hev")
