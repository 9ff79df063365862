# SPDX-License-Identifier: GPL-3.0-or-later
"""Every requirement of the RFCs has a test, or a reason; and what counts them does not overlook one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import conformance  # noqa: E402
from conformance import Place, Requirement, Rfc, Survey  # noqa: E402


def test_no_requirement_is_left_without_a_test_or_a_reason():
    assert conformance.survey().problems() == []


def test_the_documents_that_are_made_are_not_stale():
    check = [sys.executable, ROOT / "scripts/generate_docs.py", "--check"]
    done = subprocess.run(check, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_list_of_rfc_9293_is_complete():
    """Appendix B numbers MUST-1 … 69, SHLD-1 … 31, MAY-1 … 18 and REC-1, without a gap."""
    (rfc,) = [rfc for rfc in conformance.rfcs() if rfc.number == "9293"]
    counts = {"MUST": 69, "SHLD": 31, "MAY": 18, "REC": 1}
    numbers = {f"{kind}-{n}" for kind, count in counts.items() for n in range(1, count + 1)}
    assert set(rfc.requirements) == numbers


def _row(number: str, deviates: str = "", not_applicable: str = "") -> Requirement:
    return Requirement(number, number.split("-")[0], "MUST", "What it asks.", deviates, not_applicable, "")


PLACE, TEST = Place("avne/x.py", "f"), Place("tests/test_x.py", "test_f")


def _survey(*rows: Requirement, cited=(), marked=()) -> list[str]:
    lists = [Rfc("6298", "A title", {row.number: row for row in rows})]
    return Survey(lists, {key: [PLACE] for key in cited}, {key: [TEST] for key in marked}).problems()


@pytest.mark.parametrize(
    ("row", "cited", "marked", "problems"),
    [
        (_row("5.7-2"), [("6298", "5.7")], [("6298", "5.7-2")], []),
        (_row("2.4e3"), [("6298", "2.4e")], [("6298", "2.4e3")], []),
        (_row("5.7"), [], [("6298", "5.7")], ["RFC 6298 5.7 is cited nowhere in avne/"]),
        (_row("5.7"), [("6298", "5")], [("6298", "5.7")], ["RFC 6298 5.7 is cited nowhere in avne/"]),
        (_row("5.7-2"), [("6298", "5.7")], [], ["RFC 6298 5.7-2 has no test"]),
        (_row("5.7", deviates="because"), [], [], []),
        (_row("5.7", deviates="because"), [], [("6298", "5.7")], []),  # what of it holds
        (_row("5.7", not_applicable="because"), [], [], []),
        (
            _row("5.7", not_applicable="because"),
            [],
            [("6298", "5.7")],
            ["RFC 6298 5.7 is said not to apply, but test_f is marked with it"],
        ),
        (
            _row("5.7", "because", "because"),
            [],
            [],
            ["RFC 6298 5.7 is said to deviate and not to apply"],
        ),
        (
            _row("5.7", deviates="because"),
            [],
            [("6298", "9.9")],
            ["tests/test_x.py: test_f has a mark that no list has: 6298 9.9"],
        ),
        (
            _row("5.7", deviates="because"),
            [("9293", "MUST-99")],
            [],
            ["avne/x.py cites RFC 9293 MUST-99, which no list has"],
        ),
    ],
)
def test_gaps_are_found(row, cited, marked, problems):
    assert _survey(row, cited=cited, marked=marked) == problems


SOURCE = '''"""RFC 6298 §5.5, and RFC 4443 §2.4 (e.1): the rest (MUST-3)."""

class Timer:
    def expire(self):
        # RFC 1122 §3.2.1.8b, §3.3.2; RFC 768
        return lambda: 0  # SHLD-2, MAY-13
'''


def test_citations_are_found_with_the_function_that_they_stand_in(tmp_path, monkeypatch):
    monkeypatch.setattr(conformance, "ROOT", tmp_path)
    (tmp_path / "m.py").write_text(SOURCE)
    found = conformance.citations(tmp_path)
    top, inside = Place("m.py", ""), Place("m.py", "Timer.expire")
    assert {key: places for key, places in found.items() if key[1]} == {
        ("6298", "5.5"): [top],
        ("4443", "2.4e1"): [top],
        ("9293", "MUST-3"): [top],
        ("1122", "3.2.1.8b"): [inside],
        ("1122", "3.3.2"): [inside],
        ("9293", "SHLD-2"): [inside],
        ("9293", "MAY-13"): [inside],
    }
    assert found["768", ""] == [inside]


def test_marks_are_found_on_tests_only(tmp_path, monkeypatch):
    monkeypatch.setattr(conformance, "ROOT", tmp_path)
    mark = '@pytest.mark.rfc("6298", "5.7")\n'
    (tmp_path / "test_m.py").write_text(
        f"{mark}def test_a(): ...\n\n{mark}def helper(): ...\n\nclass TestB:\n"
        + "".join(f"    {line}\n" for line in f"{mark}def test_b(self): ...".splitlines())
    )
    (tmp_path / "helper.py").write_text(f"{mark}def test_c(): ...\n")
    assert conformance.marks(tmp_path) == {
        ("6298", "5.7"): [Place("test_m.py", "test_a"), Place("test_m.py", "test_b")]
    }
