# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks everything in real environments, and makes the page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.bed import places
from tests.resolvers.clients import CLIENTS, Client
from tests.resolvers.questions import QUESTIONS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "resolvers.md"
MODES: Final = ("truthful", "fast", "resolve", "tcp")

Cells = dict[str, str]  # by question

_HEAD = """# What real resolvers make of it

<!-- Made by `python -m tests.resolvers`; its test compares it with what the clients say. Do not edit. -->

Each client runs inside a real environment, with Tor as its upstream and a DNS server whose zone is
`test.example`. `mapped`: an address that stands for the name; `real`: the record's own. The rest is what the
client itself says: dig shows records and response codes (its own, and those of systemd-resolved's stub), the
others their errors. A blank cell: the client
does not ask for this type.
[names.md](names.md) explains the modes.
"""

_WORDS: Final = (
    (r"198\.18\.\d+\.\d+", "mapped"),
    (r"fd61:766e:6500:1:[0-9a-f:]*", "mapped"),
    (rf"{re.escape(places.V4)}|{re.escape(places.V6)}|127\.0\.0\.[23]", "real"),
)


def ask(
    avne: Any, upstream: str, mode: str, client: Client, directory: Path, questions: list[str] | None = None
) -> Cells:
    """Questions of a client, all of them if not told otherwise, in an environment of its own."""
    questions = questions or client.questions()
    script = client.script(directory, questions)
    done = avne.run("sh", "-c", script, upstream=upstream, options=["--dns", mode], timeout=300)
    cells = dict(_cells(done.stdout))
    assert list(cells) == questions, done.stdout + done.stderr
    return cells


def _cells(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        question, _, answer = line.partition(" = ")
        yield question, _short(answer.strip())


def _short(answer: str) -> str:
    """Addresses as what they are, and each but once."""
    answer = re.sub(r'"x{200,}"( "x+")*', '"xxx…"', answer)
    for pattern, word in _WORDS:
        answer = re.sub(pattern, word, answer)
    if set(answer.split()) <= {"mapped", "real", "127.0.0.1"}:
        return " ".join(dict.fromkeys(answer.split()))
    return "; ".join(dict.fromkeys(part.strip() for part in answer.split(";") if part.strip()))


def page(found: dict[str, dict[str, Cells]]) -> str:
    """`found`: by mode and client."""
    lines = [_HEAD]
    names = [client.name for client in CLIENTS]
    for mode in MODES:
        lines += [f'## `dns = "{mode}"`', "", f"| question | | {' | '.join(names)} |"]
        lines.append("|---|---|" + "---|" * len(names))
        for question, about in QUESTIONS.items():
            kind, _, name = question.partition(":")
            cells = [found[mode].get(client, {}).get(question, "") for client in names]
            shown = name if len(name) < 40 else f"{name[:6]}….onion"
            lines.append(f"| {kind} {shown} | {about} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def columns(text: str) -> dict[str, dict[str, Cells]]:
    """What `page` was made of."""
    found: dict[str, dict[str, Cells]] = {}
    questions = list(QUESTIONS)
    for section in text.split("\n## ")[1:]:
        mode = section.split('"')[1]
        rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
        names = [cell.strip() for cell in rows[0][2:]]
        found[mode] = {name: {} for name in names}
        for question, row in zip(questions, rows[2:], strict=True):
            for name, cell in zip(names, row[2:], strict=True):
                if cell.strip():
                    found[mode][name][question] = cell.strip()
    return found
