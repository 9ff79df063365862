# SPDX-License-Identifier: GPL-3.0-or-later
"""Results of runs that never were."""

from __future__ import annotations

from typing import Any

SETTINGS = {"mib": 64, "cap_ms": 500, "pings": 10, "idle": [10], "idle_cap_ms": 900, "small_ms": 100}


def sample(number: int, tool: str, measure: str, value: float) -> dict[str, Any]:
    return {"round": number, "tool": tool, "measure": measure, "value": value, "load": 0.0}


def samples(tool: str, measure: str, *values: float) -> list[dict[str, Any]]:
    """A value for each round, from 0."""
    return [sample(number, tool, measure, value) for number, value in enumerate(values)]


def result(found: list[dict[str, Any]], tools: list[str], troubles: list[str]) -> dict[str, Any]:
    meta = {
        "began": "2026-01-01 00:00:00",
        "rounds_done": 3,
        "cpus": 2,
        "kernel": "6.1",
        "load_min": 0.5,
        "load_max": 1.5,
        "options": SETTINGS,
        "tools": tools,
    }
    return {"meta": meta, "samples": found, "troubles": troubles}
