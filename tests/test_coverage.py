# SPDX-License-Identifier: GPL-3.0-or-later
"""The last test: what the others have covered of the sans-IO parts.  Only where coverage is measured."""

import io

import coverage

SANS_IO = (
    "avne/netstack/*",
    "avne/ipc/messages.py",
    "avne/ipc/relay.py",
    "avne/ipc/pace.py",
    "avne/upstream/spec.py",
    "avne/upstream/patterns.py",
    "avne/upstream/router.py",
    "avne/upstream/http.py",
    "avne/upstream/socks4a.py",
    "avne/upstream/canary.py",
)
IO = ("avne/netstack/process.py",)
LEAST = 95.0


def test_the_sans_io_parts_are_covered():
    measured = coverage.Coverage.current()
    assert measured is not None
    table = io.StringIO()
    total = measured.report(
        include=SANS_IO, omit=IO, show_missing=True, skip_covered=True, ignore_errors=True, file=table
    )
    assert total >= LEAST, f"branch coverage {total:.1f} % < {LEAST} %\n{table.getvalue()}"
