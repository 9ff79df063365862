# SPDX-License-Identifier: GPL-3.0-or-later
"""What things cost while other connections are open: the table, and the picture of it.

All is relative to the cost with the fewest others, in the same environment of the same round.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterator
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

# A measure of `flat`, after "flatN_": what it is called, and its colour.
COSTS = {
    "connect.tool_cpu_us": ("CPU of a connection, µs", "#c0392b"),
    "ping.tool_cpu_us": ("CPU of a byte there and back, µs", "#2471a3"),
    "down.tool_cpu_s_per_gb": ("CPU of a GB down, s", "#1e8449"),
    "up.tool_cpu_s_per_gb": ("CPU of a GB up, s", "#b9770e"),
    "connect.p50_us": ("time of a connection, µs", "#884ea0"),
    "ping.p50_us": ("time of a byte there and back, µs", "#566573"),
}
BAR = 1.3  # the most that anything may cost with the most others open
_NAME = re.compile(r"flat(\d+)_(.+)")


class Point(NamedTuple):
    others: int
    cost: float  # median
    ratio: float  # median of the rounds' ratios to the fewest others


def shown(value: float) -> str:
    """Three digits are all that such measurements have."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def curve(samples: list[dict[str, Any]], tool: str, measure: str) -> list[Point]:
    """The cost by the number of other connections, ascending; empty if it was not measured."""
    found: dict[int, dict[int, float]] = {}
    for sample in samples:
        name = _NAME.fullmatch(sample["measure"])
        if name and sample["tool"] == tool and name[2] == measure:
            found.setdefault(int(name[1]), {})[sample["round"]] = sample["value"]
    if not found:
        return []
    first = found[min(found)]
    points = []
    for others, rounds in sorted(found.items()):
        ratios = [value / first[number] for number, value in rounds.items() if first.get(number)]
        if ratios:
            points.append(Point(others, statistics.median(rounds.values()), statistics.median(ratios)))
    return points


def flat_table(samples: list[dict[str, Any]], tools: list[str]) -> Iterator[str]:
    """Lines of Markdown: a row for each tool and cost."""
    rows = [
        (tool, heading, points)
        for tool in tools
        for measure, (heading, _) in COSTS.items()
        if (points := curve(samples, tool, measure))
    ]
    if not rows:
        return
    counts = sorted({point.others for _, _, points in rows for point in points})
    yield from ("### Cost while other connections are open and idle (× that with the fewest)", "")
    yield "| tool | cost | " + " | ".join(f"{count:,} open" for count in counts) + " |"
    yield "|---" * (len(counts) + 2) + "|"
    for tool, heading, points in rows:
        cells = {point.others: f"{shown(point.cost)} ×{point.ratio:.2f}" for point in points}
        yield f"| {tool} | {heading} | " + " | ".join(cells.get(count, "–") for count in counts) + " |"
    yield ""


_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 800, 400, 50, 310, 36, 46
_RIGHT_EDGE = _WIDTH - _RIGHT


class Scale(NamedTuple):
    """Where things are in the picture: others by their logarithm, ratios from 0 to `top`."""

    fewest: int
    most: int
    top: float

    def x(self, others: float) -> float:
        share = math.log(others / self.fewest) / (math.log(self.most / self.fewest) or 1)
        return _LEFT + share * (_RIGHT_EDGE - _LEFT)

    def y(self, ratio: float) -> float:
        return _HEIGHT - _BOTTOM - ratio / self.top * (_HEIGHT - _TOP - _BOTTOM)


def plot(samples: list[dict[str, Any]], tool: str, reference: str = "native") -> str:
    """An SVG picture: the ratios of a tool's costs over the number of connections, and dashed those
    of the `reference` if it was measured.  `ValueError` if the tool was not."""
    curves = _curves(samples, tool)
    if not curves:
        raise ValueError(f"no measurements of {tool} with other connections open")
    others = _curves(samples, reference)
    everything = [point for group in (curves, others) for points in group.values() for point in points]
    scale = Scale(
        min(point.others for point in everything),
        max(point.others for point in everything),
        max(1.5, math.ceil(max(point.ratio for point in everything) * 4) / 4),
    )
    title = f"{escape(tool)}: cost with other connections open ÷ cost with {scale.fewest}"
    if others:
        title += f" (dashed: {escape(reference)})"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    return "\n".join(
        [
            head + ' font-family="sans-serif" font-size="12">',
            f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
            _text(_LEFT, 20, title),
            *_axes(scale, sorted({point.others for point in everything})),
            *(_line(scale, COSTS[measure][1], points, True) for measure, points in others.items()),
            *(_line(scale, COSTS[measure][1], points) for measure, points in curves.items()),
            *_legend(curves),
            "</svg>\n",
        ]
    )


def _curves(samples: list[dict[str, Any]], tool: str) -> dict[str, list[Point]]:
    return {measure: points for measure in COSTS if (points := curve(samples, tool, measure))}


def _text(x: float, y: float, text: str, extra: str = "") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}"{extra}>{text}</text>'


def _axes(scale: Scale, counts: list[int]) -> Iterator[str]:
    step = 0.25 if scale.top <= 2.5 else math.ceil(scale.top / 5) / 2
    for number in range(int(scale.top / step) + 1):
        at = scale.y(number * step)
        yield f'<path d="M{_LEFT} {at:.1f}H{_RIGHT_EDGE}" stroke="#ddd"/>'
        yield _text(_LEFT - 6, at + 4, f"{number * step:g}", ' text-anchor="end"')
    yield f'<path d="M{_LEFT} {scale.y(BAR):.1f}H{_RIGHT_EDGE}" stroke="#c00" stroke-dasharray="2 3"/>'
    yield _text(_LEFT + 4, scale.y(BAR) - 4, f"the bar: {BAR}", ' fill="#c00"')
    for count in counts:
        yield _text(scale.x(count), _HEIGHT - _BOTTOM + 18, f"{count:,}", ' text-anchor="middle"')
    middle = (_LEFT + _RIGHT_EDGE) / 2
    yield _text(middle, _HEIGHT - 8, "other connections, open and idle", ' text-anchor="middle"')


def _line(scale: Scale, colour: str, points: list[Point], dashed: bool = False) -> str:
    path = "L".join(f"{scale.x(point.others):.1f} {scale.y(point.ratio):.1f}" for point in points)
    look = 'stroke-width="1" stroke-dasharray="5 4"' if dashed else 'stroke-width="2"'
    return f'<path d="M{path}" fill="none" stroke="{colour}" {look}/>'


def _legend(curves: dict[str, list[Point]]) -> Iterator[str]:
    for row, (measure, points) in enumerate(curves.items()):
        heading, colour = COSTS[measure]
        at = _TOP + 10 + row * 20
        yield f'<path d="M{_RIGHT_EDGE + 14} {at - 4}h18" stroke="{colour}" stroke-width="2"/>'
        label = f"{heading}: {shown(points[0].cost)} → {shown(points[-1].cost)}"
        yield _text(_RIGHT_EDGE + 38, at, label, ' font-size="11"')
