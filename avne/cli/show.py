# SPDX-License-Identifier: GPL-3.0-or-later
"""``avne config``: each setting, its value and where that comes from; passwords are left out."""

from __future__ import annotations

import sys

from avne.config import load, redacted


def show_config(as_json: bool) -> int:
    rows = {name: (redacted(value), origin) for name, (value, origin) in load().values.items()}
    if as_json:
        import json

        table = {name: {"value": value, "origin": origin} for name, (value, origin) in rows.items()}
        sys.stdout.write(json.dumps(table, indent=2) + "\n")
        return 0
    shown = [(name, _toml(value), origin) for name, (value, origin) in rows.items()]
    widths = [max(len(row[column]) for row in shown) for column in (0, 1)]
    for name, text, origin in shown:
        sys.stdout.write(f"{name:{widths[0]}}  {text:{widths[1]}}  {origin}\n")
    return 0


def _toml(value: object) -> str:
    """As it would stand in a configuration file."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return str(value)
