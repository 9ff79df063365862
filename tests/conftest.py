# SPDX-License-Identifier: GPL-3.0-or-later
"""The fixtures of the end-to-end tests, and the check that a run leaves nothing behind.

Everything here is lazy: a unit test pays for nothing.  What needs root fails without it, and says so.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import coverage
import hypothesis
import pytest

from tests.bed import leftovers, people
from tests.bed.bed import Bed
from tests.bed.installed import Installed
from tests.bed.people import Person
from tests.bed.wire import Wire

_LEFT = pytest.StashKey[list[str]]()
_BEFORE = pytest.StashKey[leftovers.Snapshot]()

# The gate on the coverage is a test, the last one, where coverage is measured at all.
collect_ignore = [] if coverage.Coverage.current() else ["test_coverage.py"]


# The same inputs in each run: a failure is repeatable, and belongs to a change.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")


# ---- the world ------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def bed() -> Iterator[Bed]:
    """The world's servers and its SOCKS server, without Tor: half a second.

    A test undoes what it did to it: starts what it killed."""
    with Bed() as bed:
        yield bed


@pytest.fixture(scope="session")
def tor(bed: Bed) -> str:
    """The Tor network of the same world, 15 s, once; what `--upstream` calls its client."""
    bed.start_tor()
    return bed.tor


@pytest.fixture
def wire() -> Iterator[Wire]:
    """What leaves the host meanwhile."""
    with Wire() as wire:
        yield wire


# ---- avne and who runs it -------------------------------------------------------------------


@pytest.fixture(scope="session")
def installed() -> Iterator[Installed]:
    """avne's wheel, installed where everybody can run it."""
    with Installed() as installation:
        yield installation


@pytest.fixture(scope="session")
def user() -> Iterator[Person]:
    """An ordinary user with a home; `people.run_as` runs programs as them."""
    person, made = people.add_person(people.TEST_USER)
    yield person
    if made:
        people.remove_person(person)


@pytest.fixture(autouse=True)
def _broken_pipes_are_errors() -> Iterator[None]:
    """As Python has it: a command of avne's that a test calls in this process changes it for good."""
    yield
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)


# ---- nothing is left ------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    # As from a terminal: nohup(1) and a shell's `&` start us with these ignored, and programs inherit that.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    if not config.option.collectonly:
        leftovers.watch_over()
        config.stash[_BEFORE] = leftovers.Snapshot()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Runs after the last fixture's end; something left fails a run that was good otherwise."""
    before = session.config.stash.get(_BEFORE, None)
    found = before.leftovers() if before else []
    session.config.stash[_LEFT] = found
    if found and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    found = terminalreporter.config.stash.get(_LEFT, [])
    if found:
        terminalreporter.section("left behind by the tests", red=True)
        for row in found:
            terminalreporter.line(row)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The coverage gate looks back at all the others."""
    items.sort(key=lambda item: item.path.name == "test_coverage.py")


def pytest_report_header() -> str:
    return "end-to-end tests: " + (
        "as root" if os.geteuid() == 0 else "will fail, they need root (make test)"
    )
