# SPDX-License-Identifier: GPL-3.0-or-later
"""Each case through avne is as it is directly, but for what docs/fidelity.md lists."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bed.bed import Bed
from tests.bed.installed import Installed
from tests.bed.people import Person
from tests.bed.runs import Avne, Place
from tests.differential import table
from tests.differential.cases import CASES
from tests.differential.rig import Transcripts, run_both
from tests.differential.table import NONE, Difference

# What no transcript may have: a case that did not come to its end, or waited for what never came.
BROKEN = ("FAULT", "STUCK", "nothing more than", "still waiting", "nobody came", "CORRUPT")


@pytest.fixture(scope="module")
def transcripts(
    installed: Installed, user: Person, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Transcripts]:
    """All cases, both arms, both families, in a world of their own; a quarter of a minute."""
    place = Place("0666", "", user.name)
    try:
        with Bed() as bed:
            avne = Avne("rootless", installed.avne, user, place)
            yield run_both(bed, avne, installed, user, tmp_path_factory.mktemp("transcripts"))
    finally:
        place.close()


@pytest.fixture(scope="module")
def listed() -> dict[str, Difference]:
    return table.listed(table.DOCUMENT.read_text())


@pytest.mark.parametrize("family", ["v4", "v6"])
@pytest.mark.parametrize("case", CASES)
def test_the_program_sees_what_it_would_see_directly(case, family, transcripts, listed):
    direct, avne = transcripts["direct", family][case], transcripts["avne", family][case]
    assert not [line for line in direct + avne if any(word in line for word in BROKEN)]
    assert direct, "nothing was observed"
    found = table.difference(direct, avne)
    assert found == listed.get(case, NONE), "\n".join(
        [
            CASES[case].__doc__ or "",
            *difflib.unified_diff(direct, avne, "directly", "through avne", lineterm="", n=100),
            "docs/fidelity.md would have to say:",
            table.row(case, found, "…") if found != NONE else "(no row)",
        ]
    )


def test_the_document_lists_only_cases_that_there_are(listed):
    assert set(listed) <= set(CASES)


# ---- the table itself ----------------------------------------------------------------------


def test_a_row_is_read_as_it_was_written():
    found = table.difference(
        ["same", "client.poll() → IN|OUT", "end"], ["same", "client.poll() → IN", "more", "end"]
    )
    assert found == Difference(("client.poll() → IN|OUT",), ("client.poll() → IN", "more"))
    text = "\n".join([table.HEAD, "|---|---|---|---|", table.row("some_case", found, "x" * 20), "", "| no |"])
    assert table.listed(text) == {"some_case": found}


@pytest.mark.parametrize(
    "row", ["| a |  |  | says nothing, at length enough |", "| a | `x` | `y` | too short |"]
)
def test_a_row_needs_a_difference_and_a_reason(row):
    with pytest.raises(ValueError):
        table.listed("\n".join([table.HEAD, "|---|---|---|---|", row]))


def test_equal_transcripts_differ_in_nothing():
    assert table.difference(["a", "b"], ["a", "b"]) == NONE


def test_every_case_says_what_it_looks_at():
    assert all((case.__doc__ or "").strip() for case in CASES.values())


def test_no_file_of_the_cases_is_forgotten():
    there = {path.stem for path in (Path(__file__).parent / "cases").glob("*.py")} - {"__init__"}
    assert {case.__module__.rpartition(".")[2] for case in CASES.values()} == there
