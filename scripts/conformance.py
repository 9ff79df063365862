# SPDX-License-Identifier: GPL-3.0-or-later
"""Which requirements of the RFCs hold, and what shows it: docs/conformance.md and its gaps.

``tests/conformance/rfcN.toml`` lists the requirements of RFC N, each in a line of our own words.  One
holds if a line in avne/ cites it and a test is marked with it; else the list says `deviates` or
`not-applicable`, and why.

* A citation is a comment or docstring with the requirement's number (``MUST-35``), or, where the RFC
  numbers nothing, with its section (``RFC 6298 §5.7``; the list's ``5.7-2`` is the second one of it).
* A mark is ``@pytest.mark.rfc("6298", "5.7-2")``.

Nothing is imported or run: both are found in the text.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parent.parent

_NUMBERED: Final = re.compile(r"\b(?:MUST|SHLD|MAY|REC)-\d+\b")  # of RFC 9293
_RFC: Final = re.compile(r"RFC (\d+)([^R]*(?:R(?!FC)[^R]*)*)")
_SECTION: Final = re.compile(r"§(\d+(?:\.\d+)*[a-z]?)(?: \(([a-z])(?:\.(\d))?\))?")
_LEVELS: Final = {"MUST": "MUST", "SHLD": "SHOULD", "MAY": "MAY", "REC": "SHOULD"}

Key = tuple[str, str]  # ("6298", "5.7")


class Place(NamedTuple):
    path: str  # from the root
    name: str  # of the function or class, "" for the module


class Requirement(NamedTuple):
    number: str
    section: str
    level: str
    text: str
    deviates: str
    not_applicable: str
    note: str


class Rfc(NamedTuple):
    number: str
    title: str
    requirements: dict[str, Requirement]


# ---- what there is -----------------------------------------------------------------------


def rfcs(folder: Path = ROOT / "tests/conformance") -> list[Rfc]:
    """The lists, RFC 9293 first."""
    found = [_rfc(path) for path in folder.glob("rfc*.toml")]
    return sorted(found, key=lambda rfc: (rfc.number != "9293", int(rfc.number)))


def _rfc(path: Path) -> Rfc:
    table = tomllib.loads(path.read_text())
    requirements = {}
    for number, row in table["requirement"].items():
        level = row.get("level") or _LEVELS[number.split("-")[0]]
        section = row.get("section") or number.split("-")[0]
        fates = (row.get("deviates", ""), row.get("not-applicable", ""), row.get("note", ""))
        requirements[number] = Requirement(number, section, level, row["text"], *fates)
    return Rfc(path.stem.removeprefix("rfc"), table["title"], requirements)


def citations(folder: Path = ROOT / "avne") -> dict[Key, list[Place]]:
    """Where avne/ cites what: numbers of RFC 9293, and sections of any RFC."""
    cited: dict[Key, list[Place]] = defaultdict(list)
    for path in sorted(folder.rglob("*.py")):
        text = path.read_text()
        names = _names(ast.parse(text))
        for at, line in enumerate(text.splitlines(), 1):
            place = Place(str(path.relative_to(ROOT)), names.get(at, ""))
            for key in _cited(line):
                if place not in cited[key]:
                    cited[key].append(place)
    return cited


def _cited(line: str) -> Iterator[Key]:
    for number in _NUMBERED.findall(line):
        yield "9293", number
    for rfc, rest in _RFC.findall(line):
        yield rfc, ""
        for section, letter, digit in _SECTION.findall(rest):
            yield rfc, section + letter + digit


def _names(tree: ast.AST, prefix: str = "") -> dict[int, str]:
    """The innermost function or class of each line."""
    names: dict[int, str] = {}
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            name = prefix + node.name
            names |= dict.fromkeys(range(node.lineno, (node.end_lineno or 0) + 1), name)
            names |= _names(node, name + ".")
    return names


def marks(folder: Path = ROOT / "tests") -> dict[Key, list[Place]]:
    """The tests that are marked."""
    marked: dict[Key, list[Place]] = defaultdict(list)
    for path in sorted(folder.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for key in _marks(node):
                    marked[key].append(Place(str(path.relative_to(ROOT)), node.name))
    return marked


def _marks(test: ast.FunctionDef) -> Iterator[Key]:
    for decorator in reversed(test.decorator_list):
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.rfc":
            rfc, number = (ast.literal_eval(argument) for argument in decorator.args)
            yield rfc, number


# ---- whether it is enough ------------------------------------------------------------------


class Survey:
    """The lists joined with what was found."""

    def __init__(
        self, lists: list[Rfc], cited: dict[Key, list[Place]], marked: dict[Key, list[Place]]
    ) -> None:
        self.lists = lists
        self._cited = cited
        self._marked = marked

    def code(self, rfc: str, requirement: Requirement) -> list[Place]:
        """Where it is cited: by its number, or by its section where it has none of its own."""
        if rfc == "9293":
            return self._cited.get((rfc, requirement.number), [])
        section = requirement.section if requirement.section[0].isdigit() else ""
        places = self._cited.get((rfc, section), [])
        if not places and re.search(r"[a-z]\d$", section):  # §2.4 (e) for 2.4e3
            places = self._cited.get((rfc, section[:-1]), [])
        return places

    def tests(self, rfc: str, requirement: Requirement) -> list[Place]:
        return self._marked.get((rfc, requirement.number), [])

    def problems(self) -> list[str]:
        """What is missing or wrong, each a sentence."""
        known = {(rfc.number, number) for rfc in self.lists for number in rfc.requirements}
        found = []
        for (rfc, number), places in self._marked.items():
            if (rfc, number) not in known:
                found += [f"{p.path}: {p.name} has a mark that no list has: {rfc} {number}" for p in places]
        for (rfc, number), places in self._cited.items():
            if _NUMBERED.fullmatch(number) and (rfc, number) not in known:
                found += [f"{p.path} cites RFC {rfc} {number}, which no list has" for p in places]
        for rfc in self.lists:
            for requirement in rfc.requirements.values():
                found += self._gaps(rfc.number, requirement)
        return found

    def _gaps(self, rfc: str, requirement: Requirement) -> list[str]:
        what = f"RFC {rfc} {requirement.number}"
        if requirement.not_applicable and requirement.deviates:
            return [f"{what} is said to deviate and not to apply"]
        if requirement.deviates:
            return []
        if requirement.not_applicable:
            tests = self.tests(rfc, requirement)
            return [f"{what} is said not to apply, but {test.name} is marked with it" for test in tests]
        found = [] if self.tests(rfc, requirement) else [f"{what} has no test"]
        return found if self.code(rfc, requirement) else [*found, f"{what} is cited nowhere in avne/"]


def survey() -> Survey:
    return Survey(rfcs(), citations(), marks())


# ---- the page --------------------------------------------------------------------------------

_HEAD: Final = """# Conformance

<!-- Made by scripts/generate_docs.py from tests/conformance/, the citations in avne/ and the tests' marks.
     Do not edit. -->

The TCP/IP stack of avne is an end of a network with one hop: every packet comes from the kernel inside the
environment, over a tun, and every answer goes straight back into it. What the RFCs ask of a host end is
listed here in our own words, requirement by requirement, with the place in the code that does it and the
tests that show it. Where avne **deviates**, or a requirement is *not applicable*, the reason stands beside
it. The suite fails when a requirement has neither, and when this page is stale.

A mark on a test means that the test fails when the requirement is broken.
"""
_FATES: Final = ("shown", "deviates", "not applicable")


def page() -> str:
    found = survey()
    parts = [_HEAD, _counts(found), _deviations(found)]
    parts += [_table(found, rfc) for rfc in found.lists]
    return "\n".join(parts)


def _fate(requirement: Requirement) -> str:
    if requirement.deviates:
        return "deviates"
    return "not applicable" if requirement.not_applicable else "shown"


def _counts(found: Survey) -> str:
    lines = ["| RFC | | shown | deviates | not applicable |", "|---|---|---|---|---|"]
    total: Counter[str] = Counter()
    for rfc in found.lists:
        count = Counter(map(_fate, rfc.requirements.values()))
        total += count
        cells = " | ".join(str(count[fate]) for fate in _FATES)
        lines.append(f"| [{rfc.number}](#rfc-{rfc.number}) | {rfc.title} | {cells} |")
    cells = " | ".join(f"**{total[fate]}**" for fate in _FATES)
    return "\n".join([*lines, f"| | all | {cells} |", ""])


def _deviations(found: Survey) -> str:
    lines = ["## Where avne deviates", ""]
    for rfc in found.lists:
        rows = [row for row in rfc.requirements.values() if row.deviates]
        name = f"RFC {rfc.number}"
        lines += [f"* **{name} {r.number}** ({r.level}): {r.text} {_sentence(r.deviates)}" for r in rows]
    return "\n".join([*lines, ""])


def _table(found: Survey, rfc: Rfc) -> str:
    lines = [f"## RFC {rfc.number}", "", f"{rfc.title}.", ""]
    lines += ["| requirement | section | what it asks | where | shown by |", "|---|---|---|---|---|"]
    for row in rfc.requirements.values():
        name = row.number if row.level in row.number or rfc.number == "9293" else f"{row.number} {row.level}"
        code = "<br>".join(_code(place) for place in found.code(rfc.number, row))
        tests = "<br>".join(_test(place) for place in found.tests(rfc.number, row))
        if row.deviates:
            code, tests = f"**deviates:** {row.deviates}", tests
        elif row.not_applicable:
            code, tests = f"*not applicable:* {row.not_applicable}", ""
        text = f"{row.text} *{row.note}*" if row.note else row.text
        lines.append(f"| {name} | {row.section} | {text} | {code} | {tests} |")
    return "\n".join([*lines, ""])


def _sentence(reason: str) -> str:
    return reason[0].upper() + reason[1:]


def _code(place: Place) -> str:
    short = place.path.removeprefix("avne/netstack/")
    return f"[{short}](../{place.path})" + (f" `{place.name}`" if place.name else "")


def _test(place: Place) -> str:
    return f"[{place.name}](../{place.path})"
