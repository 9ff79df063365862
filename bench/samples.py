# SPDX-License-Identifier: GPL-3.0-or-later
"""What the measurements have: one tool in one round, and where the values go.

A measure's name is ``what.unit``; MB and GB are 10⁶ and 10⁹ bytes, MiB and KiB powers of 2.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from bench.lab import Lab
from bench.tools import Tool

MEGABYTE, GIGABYTE = 1e6, 1e9


class Bench:
    """One tool in one round: where its measurements put their values."""

    def __init__(self, lab: Lab, tool: Tool, options: argparse.Namespace, number: int) -> None:
        self.lab, self.tool, self.options, self.round = lab, tool, options, number
        self.samples: list[dict[str, Any]] = []
        self.troubles: list[str] = []

    def record(self, measure: str, value: float) -> None:
        self.samples.append(
            {
                "round": self.round,
                "tool": self.tool.name,
                "measure": measure,
                "value": value,
                "load": os.getloadavg()[0],
            }
        )

    def value(self, measure: str) -> float | None:
        """What was recorded of a measure in this round."""
        found = [sample["value"] for sample in self.samples if sample["measure"] == measure]
        return found[-1] if found else None

    def note(self, text: str) -> None:
        self.troubles.append(f"{self.tool.name}, round {self.round}: {text}")
