# SPDX-License-Identifier: GPL-3.0-or-later
"""The log is bounded, private, one line for an event, and silent about hosts."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest

from avne import log as log_module
from avne.limits import LOG_BYTES, LOG_FILES
from avne.log import Log


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return Path(tmp_path, "avne")


def test_a_line_has_time_level_part_event_and_fields(state):
    log = Log("aaaaaa", names=False)
    log.event("info", "net", "flow-open", {"port": 80, "host": "example.org"})
    log.close()
    line = (state / "aaaaaa.log").read_text()
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info net flow-open port=80 host=\[scrubbed\]\n", line
    )
    assert stat.S_IMODE(os.stat(log.path).st_mode) == 0o600


def test_names_are_kept_when_asked_for(state):
    log = Log("aaaaaa", names=True)
    log.event("info", "net", "e", {"host": "example.org", "address": "192.0.2.1", "name": "n"})
    log.close()
    assert (state / "aaaaaa.log").read_text().endswith(" host=example.org address=192.0.2.1 name=n\n")


@pytest.mark.parametrize("field", sorted(log_module.NAMES))
def test_each_telling_field_is_scrubbed(state, field):
    seen = []
    log = Log("aaaaaa", names=False, echo=seen.append)
    log.event("info", "net", "e", {field: "secret.example"})
    log.close()
    assert "secret" not in seen[0] + (state / "aaaaaa.log").read_text()


@pytest.mark.parametrize("value", ["a\nb", 'q"q', "a b", "a=b", "", "\x1b[31m", "é", "\udcff", "back\\slash"])
def test_no_value_breaks_its_line(state, value):
    log = Log("aaaaaa", names=True)
    log.event("info", "net", "e", {"k": value})
    log.close()
    text = (state / "aaaaaa.log").read_text()
    assert text.count("\n") == 1
    assert text.isascii()
    assert text[:-1].isprintable()
    assert text.count('"') - text.count('\\"') == 2


def test_the_output_of_a_part_is_scrubbed_once_it_can_hold_names(state):
    log = Log("aaaaaa", names=False)
    for line in (
        "Traceback (most recent call last):",
        "    x = table[key]",
        "KeyError: 'h.example'",
        "h.example",
    ):
        log.output("net", line, safe=False)
    log.output("net", "ModuleNotFoundError: No module named 'zmq'", safe=True)
    log.close()
    text = (state / "aaaaaa.log").read_text()
    assert "h.example" not in text
    assert "table[key]" in text
    assert "KeyError: [scrubbed]" in text
    assert "No module named 'zmq'" in text


def test_size_is_bounded_and_the_older_half_goes_first(state):
    log = Log("aaaaaa", names=False)
    for number in range(LOG_BYTES // 500):
        log.event("info", "net", "e", {"number": number, "filler": "x" * 900})
    log.close()
    new, old = state / "aaaaaa.log", state / "aaaaaa.log.old"
    assert new.stat().st_size + old.stat().st_size <= LOG_BYTES
    assert f"number={LOG_BYTES // 500 - 1} " in new.read_text()
    assert "number=0 " not in old.read_text()


def test_a_long_event_is_cut(state):
    log = Log("aaaaaa", names=False)
    log.event("info", "net", "e", {"filler": "x" * 100_000})
    log.close()
    assert (state / "aaaaaa.log").stat().st_size == log_module.LINE + 1


def test_only_the_newest_sessions_are_kept(state):
    state.mkdir()
    for number in range(LOG_FILES + 5):
        for suffix in (".log", ".log.old"):
            path = state / f"{number:06x}{suffix}"
            path.touch()
            os.utime(path, (1000 + number, 1000 + number))
    Log("ffffff", names=False).close()
    kept = sorted(name for name in os.listdir(state) if name.endswith(".log"))
    assert len(kept) == LOG_FILES
    assert kept[0] == f"{6:06x}.log"
    assert kept[-1] == "ffffff.log"
    assert not (state / f"{5:06x}.log.old").exists()


def test_a_log_that_cannot_be_made_is_given_up(tmp_path, monkeypatch):
    Path(tmp_path, "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    seen = []
    log = Log("aaaaaa", names=False, echo=seen.append)
    log.event("info", "net", "e", {})
    log.close()
    assert log.path == ""
    assert len(seen) == 1


def test_a_full_disk_ends_the_log_and_not_the_run(state):
    log = Log("aaaaaa", names=False)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, log._fd)
    os.close(full)
    log.event("info", "net", "e")
    log.event("info", "net", "e")
    log.close()
